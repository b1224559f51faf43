"""Curves in a terminal: Unicode's braille patterns, two dots wide and four high a character."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

from jpllm.tracking.quantities import count

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("cyan", "red", "green", "magenta", "yellow")
_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # the bits of a pattern: left and right column, downwards


def text_plot(curves: Mapping[str, Sequence[tuple[float, float]]], width: int, height: int) -> list[Text]:
    """Lines with curves of finite (x, y) points, x never falling: the curves' names, `height` lines, the range of x."""
    from rich.text import Text

    lines = [Text(no_wrap=True, overflow="ellipsis")]
    low_x, high_x = min(points[0][0] for points in curves.values()), max(points[-1][0] for points in curves.values())
    ys = [y for points in curves.values() for _, y in points]
    low_y, high_y = min(ys), max(ys)
    labels = [f"{high_y:.4g}", *[""] * (height - 2), f"{low_y:.4g}"]
    margin = max(map(len, labels))
    columns = width - margin - 2
    cells = [[(_BLANK, "")] * columns for _ in range(height)]
    for (name, points), colour in zip(curves.items(), itertools.cycle(COLOURS)):
        lines[0].append("━ ", colour).append(f"{name}  ")
        points = _thinned(points, low_x, high_x, 2 * columns)
        places_x = _places([x for x, _ in points], low_x, high_x, 2 * columns)
        places_y = _places([-y for _, y in points], -high_y, -low_y, 4 * height)
        for x, y in _strokes(list(zip(places_x, places_y, strict=True))):
            pattern = cells[y // 4][x // 2][0] | _DOTS[x % 2][y % 4]
            cells[y // 4][x // 2] = (pattern, colour)
    for label, row in zip(labels, cells, strict=True):
        lines.append(Text(f"{label:>{margin}} ┤" if label else f"{'':>{margin}} │"))
        for colour, alike in itertools.groupby(row, key=lambda cell: cell[1]):
            lines[-1].append("".join(chr(pattern) for pattern, _ in alike), colour)
    first, last = count(low_x), count(high_x)
    return [*lines, Text(f"{'':{margin}}  {first}{last:>{columns - len(first)}}")]


def _places(values: Sequence[float], low: float, high: float, size: int) -> list[int]:
    """Which of `size` dots each value falls on; the middle one where there is no range."""
    return [round((value - low) / (high - low) * (size - 1)) if high > low else size // 2 for value in values]


def _thinned(
    points: Sequence[tuple[float, float]], low: float, high: float, size: int
) -> Sequence[tuple[float, float]]:
    """First, lowest, highest and last point of those that fall on the same of `size` dots in x: drawn as all are."""
    if len(points) <= 4 * size:
        return points

    def place(point: tuple[float, float]) -> int:
        return _places([point[0]], low, high, size)[0]

    found, begin = [], 0
    while begin < len(points):
        end = bisect.bisect_right(points, place(points[begin]), begin + 1, key=place)
        alike = points[begin:end]
        found += [alike[0], min(alike, key=itemgetter(1)), max(alike, key=itemgetter(1)), alike[-1]]
        begin = end
    return found


def _strokes(places: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """The places, joined by vertical strokes on the way from each to the next."""
    found = set(places)
    for (x, y), (next_x, next_y) in itertools.pairwise(places):
        steps = max(next_x - x, 1)
        heights = [y + round((next_y - y) * step / steps) for step in range(steps + 1)]
        for at, (begin, end) in enumerate(itertools.pairwise(heights), start=x + 1):
            found |= {(min(at, next_x), height) for height in range(min(begin, end), max(begin, end) + 1)}
    return found
