"""Run folders and settings that somebody made to hang or to end a command: a remark or one message, and soon."""

import json
import os
import time

import pytest

from jpllm import cli
from jpllm.tracking.metrics import GrowingRows, read_curves
from jpllm.tracking.runs import read_run, shareable
from tests.tracking.run_folders import place, write_rows, write_run

SECONDS = 5  # a fifth of it is enough where nothing else is at work
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 900))
HOSTILE_YAML = {
    "a bomb of aliases": BOMB,
    "an alias inside its own anchor": "a: &a [*a]\n",
    "a mapping inside itself": "a: &a {b: *a}\n",
    "a chain of aliases": CHAIN,
    "brackets": "a: " + "[" * 100_000,
    "braces": "{a: " * 30_000,
    "indentation": "- " * 30_000,
    "keys of keys": "? " * 5_000,
    "indented lines": "".join(" " * n + "a:\n" for n in range(1000)),
    "no character": 'a: "\\U00110000"\n',
    "a number beyond all": 'a: "\\UFFFFFFFF"\n',
    "half a character": 'a: "\\uD800"\n',
    "NUL": "a: \0\n",
    "hundreds of thousands of values": "a: [" + "x," * 300_000 + "]\n",
    "two megabytes": "a: " + "x" * 2_000_000,
}


@pytest.fixture(autouse=True)
def _soon():
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < SECONDS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a run."""
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "run")


def remarks_of(folder):
    return read_run(folder, "run").remarks


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_settings_of_a_run(kind, folder):
    (folder / "config.yaml").write_text(HOSTILE_YAML[kind], encoding="utf-8")
    assert remarks_of(folder) == ["config.yaml is broken: its settings are left out"]
    assert cli.main(["watch", "run", "--once"]) == 0


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_settings_of_a_command(kind, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(HOSTILE_YAML[kind], encoding="utf-8")
    for command in (["data", "pack"], ["plan"]):
        assert cli.main([*command, "--config", str(file)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {file}:")
        assert message.count("\n") == 1
        assert len(message) < 300


def test_where_the_settings_are_wrong(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    for content, message in {
        "output_dir: x\nsources: [&a {path: *a}]\n": "2: an alias inside its own anchor",
        'output_dir: x\n\nsources: "\\U00110000"\n': "3: not valid YAML: no such character",
        "sources:\n" + "- " * 60 + "\n": "2: nested more than 50 levels deep",
        BOMB: "5: more than 20,000 values, with those that aliases repeat",
        'sources: "\\udfff"\n': "1: remove U+DFFF, which no text can hold",
    }.items():
        file.write_text(content, encoding="utf-8")
        assert cli.main(["data", "pack", "--config", str(file)]) == 2
        assert capsys.readouterr().err == f"error: {file}:{message}\n"


def test_aliases_that_say_something_are_read(tmp_path, capsys):
    file, source = tmp_path / "config.yaml", tmp_path / "a.txt"
    source.write_text("猫\n" * 50, encoding="utf-8")
    file.write_text(
        f"sources:\n- &a {{path: {source}, document: line, name: a}}\n- {{path: {source}, document: line, name: b}}\n"
        f"eval_sources: [*a]\noutput_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    assert cli.main(["data", "dedup", "--config", str(file)]) == 0
    assert "a.duplicates.jsonl: " in capsys.readouterr().out


def test_a_path_with_nul(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text('sources: ["a\\0b"]\noutput_dir: out\n', encoding="utf-8")
    assert cli.main(["data", "dedup", "--config", str(file)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {file}:1: sources[0].path: remove the character U+0000, which no path can hold\n"
    )
    file.write_text('sources: ["a.txt"]\noutput_dir: "o\\0"\n', encoding="utf-8")
    (tmp_path / "a.txt").write_text("a\n")
    assert cli.main(["data", "dedup", "--config", str(file)]) == 2
    assert capsys.readouterr().err.endswith("error: embedded null byte\n")


@pytest.mark.parametrize("name", ["results.json", "plan.json", "environment.json", "evaluation.json"])
@pytest.mark.parametrize(
    ("content", "remark"),
    [
        ("[" * 100_000, "is broken and left out"),
        ('{"a":' * 60 + "1" + "}" * 60, "is broken and left out"),
        ('{"a":' * 700 + "1" + "}" * 700, "is broken and left out"),
        ('{"a": ' + "9" * 5000 + "}", "is broken and left out"),
        ('{"a": "' + "x" * 9_000_000 + '"}', "is larger than 8 MB and left out"),
    ],
    ids=["brackets", "sixty levels", "hundreds of levels", "a long number", "nine megabytes"],
)
def test_json_of_a_run(name, content, remark, folder):
    (folder / name).write_text(content, encoding="utf-8")
    assert remarks_of(folder) == [f"{name} {remark}"]
    assert cli.main(["watch", "run", "--once"]) == 0


@pytest.mark.parametrize(
    "name", ["config.yaml", "results.json", "plan.json", "metrics.jsonl", "samples.jsonl", "held_out.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "file without an end"])
def test_what_is_no_file(name, kind, folder, capsys):
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        with (folder / name).open("wb") as stream:
            stream.truncate(1 << 40)  # zeros that take no room
    code = cli.main(["compare", "run"])
    shown = capsys.readouterr()
    if name == "config.yaml" and kind != "file without an end":
        assert code == 2
        assert "run: no config.yaml, so it is no run" in shown.err
    else:
        assert code == 0
        assert f"run: {name}" in shown.out
    assert cli.main(["watch", "run", "--once"]) == (2 if code else 0)


def test_cards_of_strangers(folder, capsys):
    model = folder / "model"
    model.mkdir()
    for content in ("[" * 100_000, '{"a":' * 900, "[]", '{"x": "' + "x" * 9_000_000 + '"}'):
        (model / "config.json").write_text(content)
        assert cli.main(["card", "run", "--license", "mit", "--allow_missing"]) == 2
        assert capsys.readouterr().err.startswith("error: config.json is ")


@pytest.mark.parametrize("word", ["a" * 200_000, "/!" * 100_000, "/a" * 100_000, "猫" * 200_000, "a://" * 50_000])
def test_a_word_without_an_end(word, folder, capsys, tmp_path):
    """In each place from which something is shown."""
    assert len(shareable(word)) <= len(word)
    (folder / "config.yaml").write_text(json.dumps({"model": word, "prompts": [word]}), encoding="utf-8")
    write_rows(folder / "samples.jsonl", [{**place(4), "prompt": word, "text": word}])
    write_rows(folder / "metrics.jsonl", [{**place(step), "loss": 1.0, word: 1.0} for step in range(4)])
    (folder / "environment.json").write_text(json.dumps({"sessions": [{"cpu": word, "cores": 1}]}), encoding="utf-8")
    assert cli.main(["compare", "run", "--output", str(tmp_path / "report.html")]) == 0
    assert cli.main(["compare", "run", "--output", str(tmp_path / "report.md")]) == 0
    assert cli.main(["compare", "run"]) == 0
    assert cli.main(["watch", "run", "--once"]) == 0


def test_rows_without_an_end(tmp_path):
    """A line of two megabytes ends the reading, and what stands before it counts."""
    file = tmp_path / "metrics.jsonl"
    rows = [{**place(step), "loss": 1.0} for step in range(3)]
    write_rows(file, [*rows, {**place(3), "loss": 1.0, "x": "x" * 2_000_000}, {**place(4), "loss": 1.0}])
    curves, clock, problems = read_curves(file)
    assert curves["loss"].steps.tolist() == [0, 1, 2]
    assert len(clock) == 3
    assert problems == ["line 4 has more than 1 MB: the rest is left out"]


def test_numbers_beyond_all(folder):
    huge = 10**400
    write_rows(
        folder / "metrics.jsonl", [{"step": huge}, {"step": True}, {**place(1), "loss": huge, "grad_norm": 1e308}]
    )
    (folder / "results.json").write_text(json.dumps({"loss": huge, "hours": huge, "tokens": -huge}))
    run = read_run(folder, "run")
    assert (run.result("loss"), run.result("hours")) == (None, None)
    assert [row["step"] for row in GrowingRows(folder / "metrics.jsonl").read()] == [1]
    assert cli.main(["watch", "run", "--once"]) == 0
    assert cli.main(["compare", "run"]) == 0


def test_metrics_by_the_thousand(tmp_path):
    file = tmp_path / "metrics.jsonl"
    write_rows(file, [{"step": step, f"key{step}": 1.0} for step in range(3000)] + [{"step": 3000, "key0": 2.0}])
    curves, _, problems = read_curves(file)
    assert (len(curves), curves["key0"].steps.tolist()) == (1000, [0, 3000])
    assert problems == ["2,000 broken lines are left out, the first is line 1,001"]
    write_rows(file, [{"step": 0, **{f"key{number}": 1.0 for number in range(3000)}}])
    curves, _, problems = read_curves(file)
    assert len(curves) == 1000
    assert problems == ["2,000 of 3,000 metrics are left out"]
