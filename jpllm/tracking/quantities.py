"""Write numbers as people read them: about three digits and a unit."""

from __future__ import annotations

_SCALES = ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k"))
_LEAST_SCALED = 10_000
_BYTE_SCALES = ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB"))


def count(value: float) -> str:
    """Write a count as `3.31 M`; below ten thousand with all digits."""
    short = float(f"{value:.3g}")
    if short < _LEAST_SCALED:
        return f"{value:,.0f}"
    scale, unit = next(scale for scale in _SCALES if short >= scale[0])
    return three_digits(short / scale) + unit


def byte_size(value: float) -> str:
    """Write bytes as `6.15 GiB`."""
    scale, unit = next((scale for scale in _BYTE_SCALES if value >= scale[0]), (1, " bytes"))
    return three_digits(value / scale) + unit


def duration(hours: float) -> str:
    """Write hours as `48 s`, `3.0 min`, `21.5 h` or `3.2 days`."""
    for limit, scale, unit in ((1 / 60, 3600, "s"), (1, 60, "min"), (48, 1, "h")):
        if hours < limit:
            return f"{hours * scale:.{0 if unit == 's' else 1}f} {unit}"
    return f"{hours / 24:.1f} days"


def per_cent(share: float) -> str:
    """Write a share between 0 and 1 as `36.2 %`."""
    return f"{100 * share:.1f} %"


def four_decimals(value: float) -> str:
    """Write a loss or bits per byte as `0.3921`."""
    return f"{value:.4f}" if value < 1000 else f"{value:,.0f}"


def three_digits(value: float) -> str:
    """Write a number with three significant digits, and all that stand before the point."""
    size = abs(value)
    if size < 0.995:
        return f"{value:.3g}"
    return f"{value:,.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"
