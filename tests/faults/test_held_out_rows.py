"""Instruction rows as people have them: greetings that all begin alike, and very few rows."""

import json

import pytest

from jpllm.data.read.jsonl import write_jsonl
from tests.recipes import test_sft
from tests.recipes.test_sft import results, rows, run

model_dir, arguments = test_sft.model_dir, test_sft.arguments  # fixtures


def conversation(first, number):
    turns = [first, "はい。", f"{number}+1は?", str(number + 1)]
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)]}


def test_rows_that_begin_with_the_same_greeting(arguments, monkeypatch):
    """62 of 100 rows begin with one greeting: they are trained on, and 10 others are held out."""
    write_jsonl((conversation("こんにちは" if n < 62 else f"問{n}", n) for n in range(100)), arguments["--sources"])
    assert run(monkeypatch, arguments, answered_rows=0) == 0
    held_out = rows(arguments["--output_dir"] / "held_out.jsonl")
    assert len(held_out) == 10
    assert all(row["messages"][0]["content"].startswith("問") for row in held_out)
    assert results(arguments)["loss"] > 0


@pytest.mark.parametrize(
    ("number", "first", "message"),
    [(5, "問{}", "5 rows, too few to hold a tenth out"), (100, "こんにちは", "of 100 rows at least 100 share")],
)
def test_rows_of_which_none_can_be_held_out(arguments, monkeypatch, capsys, tmp_path, number, first, message):
    write_jsonl((conversation(first.format(n), n) for n in range(number)), arguments["--sources"])
    assert run(monkeypatch, arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "name eval_sources" in error
    assert not arguments["--output_dir"].exists()
    others = tmp_path / "others.jsonl"
    write_jsonl([conversation("ほか", 7)], others)
    assert run(monkeypatch, arguments, eval_sources=others, answered_rows=0) == 0
    assert len(rows(arguments["--output_dir"] / "held_out.jsonl")) == 1
    assert json.loads((arguments["--output_dir"] / "metrics.jsonl").read_text().splitlines()[0])["eval_loss"] > 0
