"""Rows that are read while a run writes them, and after it has taken some back."""

import json
import os

import pytest

from jpllm.tracking.metrics import GrowingRows, append_row


def append(folder, *rows):
    for row in rows:
        append_row(folder / "metrics.jsonl", row)


def test_a_cut_line_waits_for_its_end(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = GrowingRows(file)
    assert rows.read() == []
    file.write_bytes(b'{"step": 1}\nbroken\n{"loss": 1}\n{"step": 2, "x": "\xe7\x8c')
    assert rows.read() == [{"step": 1}]
    with file.open("ab") as stream:
        stream.write(b'\xab"}\n')
    assert rows.read() == [{"step": 1}, {"step": 2, "x": "猫"}]


@pytest.mark.parametrize("num_new", [0, 1, 5])
def test_logs_that_are_cut_back_and_grow_again(tmp_path, num_new):
    """Also when it is longer than before by the time that it is read again."""
    file = tmp_path / "metrics.jsonl"
    append(tmp_path, {"step": 1}, {"step": 2, "loss": 5}, {"step": 3, "loss": 4})
    rows = GrowingRows(file)
    assert len(rows.read()) == 3
    os.truncate(file, len('{"step": 1}\n'))
    new = [{"step": 2 + index, "loss": 9} for index in range(num_new)]
    append(tmp_path, *new)
    assert rows.read() == [{"step": 1}, *new]
    file.unlink()
    assert rows.read() == []


def test_only_what_is_new_is_read(tmp_path, monkeypatch):
    append(tmp_path, *({"step": step} for step in range(1000)))
    rows = GrowingRows(tmp_path / "metrics.jsonl")
    rows.read()
    append(tmp_path, {"step": 1000})
    parsed = []
    monkeypatch.setattr(json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    assert len(rows.read()) == 1001
    assert parsed == [b'{"step": 1000}\n']


def test_what_was_there_before_is_passed_over(tmp_path):
    append(tmp_path, {"step": 1}, {"step": 2})
    file = tmp_path / "metrics.jsonl"
    rows = GrowingRows(file, file.stat().st_size)
    assert rows.read() == []
    append(tmp_path, {"step": 3})
    assert rows.read() == [{"step": 3}]
