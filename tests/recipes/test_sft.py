"""Instruction tuning as typed: answers are learned with their end, in blocks and in rows, whole and with LoRA."""

import json

import pytest

from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo.builtin import instructions
from tests.configs.test_configs import ROOT
from tests.recipes.test_kill import TIMES
from tests.recipes.test_pretrain_scratch import call_recipe

RECIPE = ROOT / "recipes" / "sft.py"


@pytest.fixture(scope="module")
def model_dir(corpus_file, tokenizer_dir, tmp_path_factory):
    """A new model with 256 positions; its tokenizer beside it."""
    from jpllm.models.build import build_from_scratch
    from jpllm.models.presets import ModelConfig
    from jpllm.tokenizer.load import load, save

    folder = tmp_path_factory.mktemp("model")
    tokenizer = load(tokenizer_dir)
    config = ModelConfig(
        model="neox-tiny", hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=256
    )
    build_from_scratch(config, tokenizer, seed=0).save_pretrained(folder)
    save(tokenizer, tokenizer_dir, folder)
    return folder


@pytest.fixture
def arguments(model_dir, corpus_file, tmp_path):
    rows = tmp_path / "rows.jsonl"
    write_jsonl(instructions(seed=1, count=150), rows)
    return {
        "--model": model_dir,
        "--sources": rows,
        "--output_dir": tmp_path / "run",
        "--shards_dir": tmp_path / "shards",
        "--sequence_length": 160,
        "--epochs": 1,
        "--per_device_train_batch_size": 4,
        "--learning_rate": "3e-3",
        "--warmup_steps": 0,
        "--precision": "fp32",
        "--logging_steps": 2,
        "--max_new_tokens": 8,
        "--temperature": 0,
        "--answered_rows": 2,
        "--held_out_rows": 10,
    }


def run(monkeypatch, arguments, **changes):
    settings = arguments | {f"--{key}": value for key, value in changes.items()}
    return call_recipe(monkeypatch, RECIPE, [str(word) for pair in settings.items() for word in pair])


def results(arguments):
    return json.loads((arguments["--output_dir"] / "results.json").read_text())


def rows(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "changes",
    [
        {"template": "chat", "replay": 0.3},
        {"batching": "by_length", "template": "alpaca-ja"},
        {"lora_rank": 4, "learning_rate": "3e-2"},
    ],
    ids=["packed", "by_length", "lora"],
)
def test_answers_are_learned(arguments, corpus_file, monkeypatch, capsys, changes):
    if "lora_rank" in changes:
        pytest.importorskip("peft", reason="peft is not installed")
    if "replay" in changes:
        changes |= {"replay_sources": corpus_file, "held_out_bytes": 2000}
    assert run(monkeypatch, arguments, **changes) == 0
    found, folder = results(arguments), arguments["--output_dir"]
    assert found["loss"] < found["loss_before"] - 0.2
    assert found["reloaded_loss"] == pytest.approx(found["loss"], abs=1e-5)
    assert found["epoch"] == pytest.approx(1, abs=0.2)
    assert set(found["answers_ended"]) == {"before", "after"}
    plan = json.loads((folder / "plan.json").read_text())
    assert (plan["num_steps"], plan["num_tokens"]) == (found["step"], found["tokens"])
    assert plan["memory"]["peak_bytes"] == pytest.approx(found["peak_host_bytes"], rel=0.5)
    assert (plan["num_trainable"] < plan["num_parameters"] / 2) == ("lora_rank" in changes)
    assert (folder / "plan.md").exists()
    answers, *replayed = found["mixture"]
    assert answers["source"] == "rows"
    assert answers["tokens"] + sum(use["tokens"] for use in replayed) == found["tokens"]
    assert sum(use["achieved_share"] for use in found["mixture"]) == pytest.approx(1)
    assert len(replayed) == ("replay" in changes)
    if replayed:
        assert set(found["groups"]) == {"old"}
        (texts,) = replayed
        assert texts["source"] == corpus_file.stem
        assert (answers["requested_share"], texts["requested_share"]) == (0.7, 0.3)
        assert texts["tokens"] == pytest.approx(0.3 * found["step"] * 4 * 160, abs=160)
    out, _ = capsys.readouterr()
    assert "tokens, of which" in out
    assert "</s>" in out
    samples = rows(folder / "samples.jsonl")
    assert {sample["step"] for sample in samples} == {0, found["step"]}
    assert sum(sample["wanted"] is not None for sample in samples) == 4
    held_out = rows(folder / "held_out.jsonl")
    assert len(held_out) == 10
    assert {message["role"] for row in held_out for message in row["messages"]} == {"user", "assistant"}

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    assert text.endswith("アシスタント:\n" if changes.get("template") == "chat" else "### 応答:\n")
    AutoModelForCausalLM.from_pretrained(folder / "model")
    assert not list((folder / "model").glob("adapter*"))
    assert run(monkeypatch, arguments, **changes) == 0  # nothing to do
    assert "is finished" in capsys.readouterr().out


def test_what_was_forgotten_is_that_of_the_model_that_is_kept(arguments, corpus_file, monkeypatch):
    changes = {"old_texts": corpus_file, "held_out_bytes": 2000, "learning_rate": 0.3, "answered_rows": 0}
    assert run(monkeypatch, arguments, **changes, eval_steps=1, early_stopping_evals=2) == 0
    found = results(arguments)
    evaluated = [row for row in rows(arguments["--output_dir"] / "metrics.jsonl") if "eval_loss" in row]
    (kept,) = (row for row in evaluated if row["step"] == found["best_step"])
    assert kept is not evaluated[-1]
    key = "eval_group_bits_per_byte/old"
    assert found["groups"] == {"old": {"before": evaluated[0][key], "after": kept[key]}}
    assert kept[key] != evaluated[-1][key]


@pytest.mark.parametrize(
    "changes", [{}, {"batching": "by_length"}, {"lora_rank": 4}], ids=["packed", "by_length", "lora"]
)
def test_a_run_goes_on_exactly(arguments, monkeypatch, tmp_path, changes):
    if "lora_rank" in changes:
        pytest.importorskip("peft", reason="peft is not installed")
    changes |= {"epochs": 2, "dropout": 0.1, "eval_steps": 7, "save_steps": 3, "answered_rows": 0}
    assert run(monkeypatch, arguments, **changes, output_dir=tmp_path / "whole") == 0
    assert run(monkeypatch, arguments, **changes, max_hours="1e-6") == 75
    assert run(monkeypatch, arguments, **changes) == 0
    without_times = [
        [{key: value for key, value in row.items() if key not in TIMES} for row in rows(folder / "metrics.jsonl")]
        for folder in (tmp_path / "whole", arguments["--output_dir"])
    ]
    assert without_times[0] == without_times[1]
    models = [
        (folder / "model" / "model.safetensors").read_bytes() for folder in (tmp_path / "whole", tmp_path / "run")
    ]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "own"}, "template: the tokenizer has none of its own"),
        ({"sources": "missing.jsonl"}, "missing.jsonl: no such file or folder"),
        ({"too_long": "refuse", "sequence_length": 60}, r"rows\.jsonl:1: \d+ tokens, and sequence_length is 60"),
        ({"sequence_length": 9000}, "sequence_length: 9,000 tokens are more than the model's"),
        ({"lora_dropout": 0.1}, "lora_rank: is 0, so lora_dropout cannot act"),
    ],
)
def test_bad_input(arguments, monkeypatch, capsys, changes, message):
    import re

    assert run(monkeypatch, arguments, **changes) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not arguments["--output_dir"].exists()
