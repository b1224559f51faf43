import json

import numpy as np
import pytest

from jpllm.tracking.compare.curves import Clock, Curve, differences, drawn, drawn_clock, read_curves, rounded
from tests.tracking.run_folders import place, rows, write_rows


def test_rows_become_curves(tmp_path):
    file = tmp_path / "metrics.jsonl"
    write_rows(file, rows())
    curves, clock, problems = read_curves(file)
    assert problems == []
    assert {key: (curve.steps.tolist(), curve.values.tolist()) for key, curve in curves.items()} == {
        "loss": ([1, 2, 3, 4], [8.0, 4.0, 3.0, 2.5]),
        "learning_rate": ([1, 2, 3, 4], [0.001, 0.002, 0.003, 0.004]),
        "eval_loss": ([0, 4], [8.5, 2.0]),
        "eval_bits_per_byte": ([0, 4], [3.0, 0.75]),
    }
    assert {key: values.tolist() for key, values in clock.places.items()} == {
        "step": [0, 1, 2, 3, 4],  # the two rows of step 4 count once
        "tokens": [0, 1000, 2000, 3000, 4000],
        "epoch": [0, 0.125, 0.25, 0.375, 0.5],
        "training_seconds": [0, 2, 4, 6, 8],
    }
    assert (clock.last("tokens"), len(clock)) == (4000, 5)


@pytest.mark.parametrize(
    ("content", "steps", "problems"),
    [
        ("", None, []),
        ('{"step": 1, "loss": 2.5}\n{"step": 2, "lo', [1], ["the last line is cut"]),
        ('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2}', [1, 2], []),
        (
            'x\n[1, 2]\n{"step": 3, "loss": 2.5}\nnull\n',
            [3],
            ["the last line is cut", "2 broken lines are left out, the first is line 1"],
        ),
        (
            '{"loss": 1.0}\n{"step": null, "loss": 1}\n{"step": 7, "loss": 1}\n',
            [7],
            ["1 rows without a step are left out"] * 2,
        ),
        ('{"step": "two", "loss": 1}\n', None, ["1 rows without a step are left out"]),
        ('{"step": 1, "loss": 1, "text": "猫"}\n{"step": 2, "loss": 1, "text": [1]}\n', [1, 2], []),
        (f'{{"step": 1, "loss": 1}}\n{"[" * 100_000}\n', [1], ["the last line is cut"]),
    ],
)
def test_broken_files(content, steps, problems, tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text(content, encoding="utf-8")
    curves, clock, found = read_curves(file)
    assert found == problems
    assert (curves["loss"].steps.tolist() if curves else None) == steps
    assert "text" not in curves
    assert len(clock) == len(steps or [])


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 2.5}\n{"step": 2, "name": "\xe7')
    curves, _, problems = read_curves(file)
    assert (curves["loss"].values.tolist(), problems) == ([2.5], ["the last line is cut"])


def test_what_diverged_is_not_a_number(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n', encoding="utf-8")
    curves, _, _ = read_curves(file)
    assert json.dumps(drawn(curves["loss"], 10)) == '{"step": [1, 1], "mean": [2.5, null]}'


def test_a_short_curve_is_drawn_as_it_is():
    curve = Curve(np.array([0.0, 10.0, 30.0]), np.array([1.23456789, 2.0, 3e-5]))
    assert drawn(curve, 3) == {"step": [0, 10, 20], "mean": [1.23457, 2, 3e-05]}


def test_a_long_curve_keeps_means_and_extremes():
    values = np.array([1.0, 3.0, 2.0, np.nan, 9.0, 0.0, 5.0, 5.0, 6.0, np.nan])
    curve = Curve(np.arange(10.0), values)
    assert drawn(curve, 3) == {
        "step": [1, 3, 4],  # 1, 4 and 8: the middle row of rows 0–2, 3–5 and 6–9
        "mean": [2, 4.5, 5.33333],
        "low": [1, 0, 5],
        "high": [3, 9, 6],
    }
    assert drawn(Curve(np.arange(4.0), np.array([np.nan, np.nan, 1.0, 3.0])), 2) == {
        "step": [1, 2],
        "mean": [None, 2],
        "low": [None, 1],
        "high": [None, 3],
    }


def test_no_point_of_a_long_curve_is_outside_of_what_is_drawn():
    generator = np.random.default_rng(0)
    curve = Curve(np.arange(10_007.0), generator.normal(size=10_007))
    found = drawn(curve, 100)
    assert {len(values) for values in found.values()} == {100}
    assert min(found["low"]) == pytest.approx(curve.values.min(), rel=1e-5)
    assert max(found["high"]) == pytest.approx(curve.values.max(), rel=1e-5)
    sizes = np.diff(np.arange(100) * 10_007 // 100, append=10_007)
    assert np.dot(found["mean"], sizes) / 10_007 == pytest.approx(curve.values.mean(), abs=1e-6)


def test_extremes_that_nobody_sees_are_left_out():
    assert drawn(Curve(np.arange(10_000.0), np.arange(10_000.0)), 1000).keys() == {"step", "mean"}
    assert drawn(Curve(np.arange(10_000.0), np.ones(10_000)), 1000).keys() == {"step", "mean"}


def test_the_clock_of_a_page():
    steps = np.arange(5.0)
    clock = Clock(
        {"step": steps, "tokens": steps * 1_234_567_891, "epoch": steps / 3, "training_seconds": steps * 1800}
    )
    assert drawn_clock(clock) == {
        "step": [0, 1, 1, 1, 1],
        "tokens": [0, 1_234_567_891, 2_469_135_782, 3_703_703_673, 4_938_271_564],
        "epoch": [0, 0.333333, 0.666667, 1, 1.33333],
        "hours": [0, 0.5, 1, 1.5, 2],
    }
    steps = np.arange(100_000.0)
    long = drawn_clock(Clock(dict.fromkeys(("step", "tokens", "epoch", "training_seconds"), steps)))
    assert len(long["step"]) == 1000
    assert (long["tokens"][0], long["tokens"][-1], sum(long["step"])) == (0, 99_999, 99_999)
    assert drawn_clock(Clock()) == {}


def test_numbers_are_short():
    assert differences(np.array([2.0, 2.0, 3.5])) == [2, 0, 1.5]
    assert rounded(np.array([1 / 3, 1e20, -np.inf, np.nan, 5.0])) == [0.333333, 10**20, None, None, 5]
    assert place(3)["training_seconds"] == 6.0
