"""Dots of braille patterns stand where the points are."""

import math
import random

from jpllm.tracking.watch import frame as module
from jpllm.tracking.watch.frame import text_plot


def dots(lines, margin):
    """(column, row) of each dot, from the upper left, decoded by the table of Unicode 15, section 21.1."""
    bits = {0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (1, 0), 4: (1, 1), 5: (1, 2), 6: (0, 3), 7: (1, 3)}
    return {
        (2 * column + dx, 4 * row + dy)
        for row, line in enumerate(lines)
        for column, letter in enumerate(line[margin:])
        for bit, (dx, dy) in bits.items()
        if (ord(letter) - 0x2800) >> bit & 1
    }


def drawn(curves, width, height):
    legend, *lines, axis = [line.plain for line in text_plot(curves, width, height)]
    return legend, lines, axis


def test_a_straight_line():
    legend, lines, axis = drawn({"loss": [(0, 10), (19, 0)]}, width=14, height=5)
    assert legend == "━ loss  "
    assert [line[:4] for line in lines] == ["10 ┤", "   │", "   │", "   │", " 0 ┤"]
    assert axis == "    0       19"
    found = dots(lines, 4)
    assert {(0, 0), (19, 19)} <= found
    by_column = {column: sorted(row for at, row in found if at == column) for column in range(20)}
    assert all(min(rows) <= column <= max(rows) for column, rows in by_column.items())  # no gap, and on the diagonal
    assert all(abs(row - column) <= 1 for column, row in found)


def test_a_point_is_a_dot_and_a_leap_is_a_stroke():
    _, lines, _ = drawn({"a": [(0, 1), (9, 1), (9, 5)]}, width=8, height=2)
    found = dots(lines, 3)
    assert {row for column, row in found if column == 9} == set(range(8))
    assert {row for column, row in found if column < 9} == {7}


def test_one_point():
    _, lines, _ = drawn({"a": [(1, 2.0)], "b": [(1, 2.0)]}, width=20, height=3)
    assert len(dots(lines, 3)) == 1  # there is no range


def test_colours_tell_curves_apart():
    lines = text_plot({"a": [(0, 0), (9, 0)], "b": [(0, 9), (9, 9)]}, 20, 4)
    assert {str(span.style) for span in lines[1].spans} == {"red"}
    assert {str(span.style) for span in lines[4].spans} == {"cyan"}


def test_points_that_are_left_out_are_not_missed(monkeypatch):
    noise = random.Random(0)
    points = [(step, noise.gauss(0, 1) + noise.choice([0] * 99 + [20])) for step in range(5_000)]
    _, thinned, _ = drawn({"a": points, "b": points[:50]}, width=60, height=9)
    places, module_places = [], module._places
    monkeypatch.setattr(
        module, "_places", lambda values, *args: places.append(len(values)) or module_places(values, *args)
    )
    assert drawn({"a": points}, width=60, height=9)[1]
    assert max(places) < 500
    monkeypatch.setattr(module, "_thinned", lambda points, *_: points)
    assert drawn({"a": points, "b": points[:50]}, width=60, height=9)[1] == thinned


def test_many_points():
    points = [(step, 5 * math.exp(-step / 20_000) + step % 2) for step in range(100_000)]
    _, lines, axis = drawn({"loss": points}, width=80, height=10)
    assert {column for column, _ in dots(lines, 8)} >= set(range(140))
    assert axis.endswith("100 k")
    assert max(map(len, lines)) <= 80
