"""The rows of `metrics.jsonl` as curves, and curves with few enough points to be drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

PLACES = ("step", "tokens", "epoch", "training_seconds")
_MAX_CLOCK_POINTS = 1000
_NUM_DIGITS = 6
_LEAST_SEEN = 0.005  # of the height of a picture


@dataclass(frozen=True)
class Curve:
    """A metric over the steps.

    Attributes:
        steps: float64 (rows,), never falling.
        values: float64 (rows,); NaN where training had diverged.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Clock:
    """How the steps of a run convert; each array of `PLACES` is float64 (steps that have a row,)."""

    places: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places["step"]) if self.places else 0

    def last(self, place: str) -> float | None:
        """The value of a place at the latest row; None where it is not recorded."""
        if not len(self) or not np.isfinite(self.places[place][-1]):
            return None
        return float(self.places[place][-1])


def read_curves(file: Path) -> tuple[dict[str, Curve], Clock, list[str]]:
    """The curves of all numbers in the rows, their clock, and what is wrong with the file.

    A line that is no row, such as a last one that a crash has cut, is left out; the others count.
    """
    rows_of_shape, problems = _read_rows(file)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    places: list[list[np.ndarray]] = []
    for shape, rows in rows_of_shape.items():
        columns = _columns(shape, rows)
        has_step = np.isfinite(columns["step"]) if "step" in columns else np.zeros(len(rows), dtype=bool)
        if not has_step.all():
            problems.append(f"{len(rows) - has_step.sum():,} rows without a step are left out")
            columns = {key: values[has_step] for key, values in columns.items()}
        if not has_step.any():
            continue
        steps = columns["step"]
        places.append([columns.get(place, np.full(len(steps), np.nan)) for place in PLACES])
        for key in columns.keys() - set(PLACES):
            parts.setdefault(key, []).append((steps, columns[key]))
    return {key: _curve(members) for key, members in parts.items()}, _clock(places), problems


def _read_rows(file: Path) -> tuple[dict[tuple[str, ...], list[tuple]], list[str]]:
    """The values of the rows, by their keys: rows of the same keys become one array."""
    rows_of_shape: dict[tuple[str, ...], list[tuple]] = {}
    bad_lines: list[int] = []
    number = 0
    with file.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
                values = tuple(row.values())
            except (ValueError, AttributeError, TypeError, RecursionError):
                bad_lines.append(number)
            else:
                rows_of_shape.setdefault(tuple(row), []).append(values)
    problems = []
    if bad_lines and bad_lines[-1] == number:
        problems.append("the last line is cut")
        bad_lines.pop()
    if bad_lines:
        problems.append(f"{len(bad_lines):,} broken lines are left out, the first is line {bad_lines[0]:,}")
    return rows_of_shape, problems


def _columns(shape: tuple[str, ...], rows: list[tuple]) -> dict[str, np.ndarray]:
    """Float64 (rows,) for each key whose values are numbers."""
    try:
        return dict(zip(shape, np.array(rows, dtype=np.float64).T, strict=True))
    except (TypeError, ValueError, OverflowError):
        pass  # some key has a text or a list
    found = {}
    for key, values in zip(shape, zip(*rows, strict=True), strict=True):
        try:
            found[key] = np.array(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
    return {key: values for key, values in found.items() if values.ndim == 1}


def _curve(parts: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
    steps, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(steps, kind="stable")
    return Curve(steps[order], values[order])


def _clock(places: list[list[np.ndarray]]) -> Clock:
    if not places:
        return Clock()
    columns = [np.concatenate(arrays) for arrays in zip(*places, strict=True)]
    _, first = np.unique(columns[0][::-1], return_index=True)  # of equal steps the latest row
    chosen = len(columns[0]) - 1 - first
    return Clock(dict(zip(PLACES, (column[chosen] for column in columns), strict=True)))


def drawn(curve: Curve, num_points: int) -> dict[str, list]:
    """At most `num_points` points for a picture: `step` as differences, and `mean`.

    A curve with more is cut into runs of neighbouring rows. So that no peak is lost these also have `low` and `high`,
    unless nobody would see them apart.
    """
    num_rows = len(curve.steps)
    if num_rows <= num_points:
        return {"step": differences(curve.steps), "mean": rounded(curve.values)}
    starts = np.arange(num_points) * num_rows // num_points
    counts = np.diff(starts, append=num_rows)
    is_known = np.isfinite(curve.values)
    num_known = np.add.reduceat(is_known.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(is_known, curve.values, 0.0), starts)
    means = np.where(num_known > 0, sums / np.maximum(num_known, 1), np.nan)
    low = np.minimum.reduceat(np.where(is_known, curve.values, np.inf), starts)
    high = np.maximum.reduceat(np.where(is_known, curve.values, -np.inf), starts)
    found = {"step": differences(curve.steps[starts + counts // 2]), "mean": rounded(means)}
    seen = num_known > 0
    if seen.any() and (high - low)[seen].max() > _LEAST_SEEN * (high[seen].max() - low[seen].min()):
        found |= {"low": rounded(low), "high": rounded(high)}
    return found


def drawn_clock(clock: Clock) -> dict[str, list]:
    """The places at no more steps than a page needs to convert the others between them; training time in hours."""
    if not len(clock):
        return {}
    num_points = min(len(clock), _MAX_CLOCK_POINTS)
    chosen = np.linspace(0, len(clock) - 1, num_points).round().astype(np.int64)
    found = {place: clock.places[place][chosen] for place in PLACES}
    return {
        "step": differences(found["step"]),
        "tokens": rounded(found["tokens"], 12),
        "epoch": rounded(found["epoch"]),
        "hours": rounded(found["training_seconds"] / 3600),
    }


def differences(steps: np.ndarray) -> list[int | float]:
    """The first step, and what each of the others adds."""
    return [int(step) if step.is_integer() else step for step in np.diff(steps, prepend=0.0).tolist()]


def rounded(values: np.ndarray, num_digits: int = _NUM_DIGITS) -> list[int | float | None]:
    """Numbers with so many significant digits, whole ones as integers; None for those that are not finite."""
    found: list[int | float | None] = []
    for value in values.tolist():
        short = float(f"{value:.{num_digits}g}")
        found.append(None if not math.isfinite(short) else int(short) if short.is_integer() else short)
    return found
