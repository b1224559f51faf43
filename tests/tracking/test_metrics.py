"""Rows that are read while a run writes them, after it has taken some back, and as curves."""

import json
import os

import pytest

from jpllm.tracking.metrics import GrowingRows, append_row, read_curves, read_rows
from tests.tracking.run_folders import rows, write_rows


def append(folder, *rows):
    for row in rows:
        append_row(folder / "metrics.jsonl", row)


def test_a_cut_line_waits_for_its_end(tmp_path):
    file = tmp_path / "metrics.jsonl"
    growing = GrowingRows(file)
    assert growing.read() == []
    file.write_bytes(b'{"step": 1}\nbroken\n{"loss": 1}\n{"step": 2, "x": "\xe7\x8c')
    assert growing.read() == [{"step": 1}]
    with file.open("ab") as stream:
        stream.write(b'\xab"}\n')
    assert growing.read() == [{"step": 1}, {"step": 2, "x": "猫"}]


@pytest.mark.parametrize("num_new", [0, 1, 5])
def test_logs_that_are_cut_back_and_grow_again(tmp_path, num_new):
    """Also when it is longer than before by the time that it is read again."""
    file = tmp_path / "metrics.jsonl"
    append(tmp_path, {"step": 1}, {"step": 2, "loss": 5}, {"step": 3, "loss": 4})
    growing = GrowingRows(file)
    assert len(growing.read()) == 3
    os.truncate(file, len('{"step": 1}\n'))
    new = [{"step": 2 + index, "loss": 9} for index in range(num_new)]
    append(tmp_path, *new)
    assert growing.read() == [{"step": 1}, *new]
    file.unlink()
    assert growing.read() == []


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    append(tmp_path, *({"step": step} for step in range(1000)))
    growing = GrowingRows(tmp_path / "metrics.jsonl")
    growing.read()
    append(tmp_path, {"step": 1000})
    parsed = []
    monkeypatch.setattr(json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    assert len(growing.read()) == 1001
    assert parsed == [b'{"step": 1000}\n']


def test_what_was_there_before_is_passed_over(tmp_path):
    append(tmp_path, {"step": 1}, {"step": 2})
    file = tmp_path / "metrics.jsonl"
    growing = GrowingRows(file, file.stat().st_size)
    assert growing.read() == []
    append(tmp_path, {"step": 3})
    assert growing.read() == [{"step": 3}]


def test_rows_survive_a_cut_last_line(tmp_path):
    written = [{**row, "text": "猫"} for row in rows()[:4]]
    file = tmp_path / "metrics.jsonl"
    for row in written:
        append_row(file, row)
    assert read_rows(file) == written
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    assert len(read_rows(file)) == 3


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
