"""Continued pre-training as typed: what is learned and what is forgotten, of the model's own texts and of new ones."""

import json
import shutil

import pytest

from jpllm.data.shards.token_shards import TokenShards
from jpllm.evaluation import perplexity
from jpllm.tokenizer.load import load
from tests.configs.test_configs import ROOT, load_recipe
from tests.recipes.test_pretrain_scratch import SMALL, call_recipe, finished_run  # noqa: F401 — a fixture
from tests.tokenizer.test_document_tokens import write_around

RECIPE = ROOT / "recipes" / "cpt.py"


@pytest.fixture
def arguments(finished_run, corpus_file, tmp_path):  # noqa: F811
    """A short run on English digits, which the model has not seen; replay of its own corpus."""
    text = "".join(f"{n} plus {n} is {2 * n}.\n" for n in range(4000))
    documents = [text[start : start + 600] for start in range(0, len(text), 600)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    replayed = json.dumps({"path": str(corpus_file), "name": "before"})
    settings = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {
        "--model": str(finished_run[0] / "model"),
        "--sources": str(tmp_path / "sums.jsonl"),
        "--replay": "0.25",
        "--replay_sources": replayed,
        "--shards_dir": str(tmp_path / "shards"),
        "--output_dir": str(tmp_path / "run"),
        "--tokens": "6000",
    }
    return settings


def run(monkeypatch, settings) -> int:
    return call_recipe(monkeypatch, RECIPE, [word for pair in settings.items() for word in pair])


def test_learned_and_forgotten(arguments, monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, arguments) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    groups, mixture = results["groups"], {use["source"]: use for use in results["mixture"]}
    assert groups["new"]["after"] < groups["new"]["before"] - 0.3
    assert set(groups) == {"new", "old"}
    assert mixture["before"]["achieved_share"] == pytest.approx(0.25, abs=0.01)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if "eval_loss" in row]
    assert len(evaluations) >= 4
    for row in evaluations:  # of two texts, each alone in its group
        assert row["eval_group_bits_per_byte/new"] == row["eval_bits_per_byte/sums"]
        assert row["eval_group_bits_per_byte/old"] == row["eval_bits_per_byte/before"]
    assert f"old: {groups['old']['before']:.4f} bits per byte before" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "tokenizer.json").exists()
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["num_steps"], plan["num_tokens"]) == (results["step"], results["tokens"])


def test_the_model_begins_as_it_ended(arguments, finished_run, monkeypatch, tmp_path):  # noqa: F811
    """On the texts that the first run was evaluated on, continued training begins with its last figure."""
    held_out = json.dumps({"path": str(finished_run[0] / "held_out.jsonl"), "group": "old"})
    del arguments["--replay"], arguments["--replay_sources"]
    arguments |= {"--eval_sources": held_out, "--held_out_fraction": "0", "--tokens": "256"}
    assert run(monkeypatch, arguments) == 0
    groups = json.loads((tmp_path / "run" / "results.json").read_text())["groups"]
    finished = json.loads((finished_run[0] / "results.json").read_text())
    assert groups["old"]["before"] == pytest.approx(finished["bits_per_byte"], rel=1e-6)


def test_documents_begin_as_the_tokenizer_writes_them(arguments, finished_run, monkeypatch, capsys, tmp_path):  # noqa: F811
    """Each document of the shards begins with the BOS, and what that is worth is told before training."""
    monkeypatch.setattr(perplexity, "_TOLD_DIFFERENCE", 0.0)
    folder = tmp_path / "model"
    shutil.copytree(finished_run[0] / "model", folder)
    tokenizer = load(folder)
    write_around(tokenizer, "<s> $A").save_pretrained(folder)
    assert run(monkeypatch, arguments | {"--model": str(folder), "--tokens": "256", "--isolate_documents": "true"}) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    both = results["bits_per_byte_before"]
    first = next(row for row in map(json.loads, (tmp_path / "run" / "metrics.jsonl").open()) if "eval_loss" in row)
    assert both["with_bos"] == first["eval_bits_per_byte"]
    assert both["with_bos"] != both["without_bos"]
    told = f"bits per byte {both['with_bos']:.4f} with BOS, {both['without_bos']:.4f} without: "
    assert capsys.readouterr().out.count(told) == 1
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for directory in (tmp_path / "shards").glob("*-????????????"):
        packed = TokenShards(directory)
        ids = packed.tokens(0, packed.size.num_tokens)
        assert ids[0] == bos
        assert (ids[1:][ids[:-1] == eos] == bos).all()
        assert (ids == bos).sum() == (ids == eos).sum() == packed.size.num_documents


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--replay": "0"}, "--replay: give both the share and replay_sources, or neither"),
        ({"--model": "gone/nothing/here"}, "no such folder"),
        ({"--sequence_length": "4096"}, "4,096 tokens are more than the model's 128 positions"),
        ({"--dropout": "1.5"}, "--dropout"),
    ],
)
def test_bad_input(arguments, monkeypatch, capsys, tmp_path, changes, message):
    assert run(monkeypatch, arguments | changes) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_no_text_shows_what_is_forgotten(caplog):
    recipe = load_recipe(RECIPE)
    recipe.warn_unless_forgetting_shows({"new"})
    assert "no text to evaluate on is of the group old, so what the model forgets is not measured" in caplog.text
