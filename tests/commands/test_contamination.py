import gzip
import json

import pytest

from jpllm.cli import main
from tests.evaluation.contamination.test_search import JCQA, JNLI


@pytest.fixture
def files(tmp_path):
    """Two benchmarks, and a source with a blank document, a dropped one, and two items."""
    for name, rows in (("jcqa", JCQA), ("jnli", JNLI)):
        (tmp_path / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = ["", "短", JNLI[0]["sentence1"], "無関係な文章です。", f"質問：{JCQA[0]['question']}\n答え：マザーボード"]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return tmp_path


def run(folder, *more):
    source = f"{{path: {folder}/corpus.jsonl.gz, name: web, clean: [{{rule: length, at_least: 3}}]}}"
    benchmarks = [f"{{path: {folder}/{name}.json, name: {name}}}" for name in ("jcqa", "jnli")]
    return main(["data", "contamination", "--sources", source, "--benchmarks", *benchmarks, *more])


def test_command_as_typed(files, capsys):
    output = files / "new" / "found.json"
    assert run(files, "--output", str(output)) == 0
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["settings"] == {"ngram_characters": 7, "min_share": 0.9, "near_characters": 200}
    assert found["sources"] == [
        {"name": "web", "path": f"{files}/corpus.jsonl.gz", "documents": 3, "characters": 19 + 9 + 3 + 30 + 1 + 3 + 6}
    ]
    jcqa, jnli = found["benchmarks"]
    assert jcqa["leave_out"] == ["8939"]
    (hit,) = jcqa["parts"]["question + answer"]["hits"]
    assert (hit["item"], hit["source"], hit["document"]) == ("8939", "web", 4)  # counted with those left out
    assert jnli["leave_out"] == []
    assert [hit["item"] for hit in jnli["parts"]["sentence1"]["hits"]] == ["0"]
    shown = capsys.readouterr().out
    assert "jcqa" in shown
    assert "33.33%" in shown
    assert str(output) in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--output: required, but not set"),
        (["--output", "found.json", "--min_share", "0.2"], "min_share"),
        (["--output", "found.json", "--ngram_chars", "5"], "ngram_characters"),
    ],
)
def test_bad_settings(files, more, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert run(files, *more) == 2
    assert message in capsys.readouterr().err
    assert not (files / "found.json").exists()


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        (["no.json"], "no.json: no such file"),
        (["jcqa.json", "jcqa.json"], "two are called"),
        (["notes.txt"], "notes.txt: unknown file type"),
        (["{path: jcqa.json, columns: [q]}"], "jcqa.json:1: no column 'q'"),
    ],
)
def test_bad_benchmarks(files, benchmarks, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "notes.txt").touch()
    arguments = ["--sources", "corpus.jsonl.gz", "--output", "found.json", "--benchmarks", *benchmarks]
    assert main(["data", "contamination", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (files / "found.json").exists()


def test_nothing_is_written_when_a_source_is_bad(files, capsys):
    with gzip.open(files / "corpus.jsonl.gz", "at") as stream:
        stream.write("{broken\n")
    assert run(files, "--output", str(files / "found.json")) == 2
    assert "corpus.jsonl.gz:6" in capsys.readouterr().err
    assert not (files / "found.json").exists()
