"""Masked-language-model pre-training as typed, and the settings that contradict it."""

import json

import pytest

from tests.configs.test_configs import ROOT
from tests.recipes.test_pretrain_scratch import RECIPE, call_recipe

CONFIGS = ROOT / "recipes" / "configs" / "pretrain_scratch"
PROMPT = "むかし、[MASK]が"


@pytest.fixture
def call(monkeypatch, capsys, corpus_file, tokenizer_dir, tmp_path):
    """Call the recipe with the smoke configuration, shortened; returns its exit code and what it printed."""

    def run(*arguments):
        argv = ["--config", str(CONFIGS / "mlm_smoke_cpu.yaml"), "--sources", str(corpus_file), "--tokenizer"]
        argv += [str(tokenizer_dir), "--output_dir", str(tmp_path / "run"), "--shards_dir", str(tmp_path / "shards")]
        argv += ["--tokens", "8000", "--eval_steps", "4", "--sample_prompts", PROMPT, "--precision", "fp32"]
        given = {word for word in arguments if word.startswith("--")}
        for key in given & set(argv):
            at = argv.index(key)
            del argv[at : at + 2]
        return call_recipe(monkeypatch, RECIPE, [*argv, *arguments]), capsys.readouterr()

    return run


def test_as_typed(call, tmp_path):
    from transformers import AutoTokenizer, pipeline

    code, printed = call()
    assert code == 0, printed.err
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-6)
    assert f"held-out loss {results['loss']:.4f} nats per masked token" in printed.out
    assert "bits per byte" not in printed.out
    losses = [row["eval_loss"] for row in map(json.loads, (run / "metrics.jsonl").open()) if "eval_loss" in row]
    assert losses[-1] < losses[0]
    assert json.loads((run / "plan.json").read_text())["num_parameters"] == results["num_parameters"]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in samples] == [(0, PROMPT), (4, PROMPT), (8, PROMPT)]

    answers = pipeline("fill-mask", model=str(run / "model"), device="cpu")(PROMPT)
    assert samples[-1]["text"].startswith(f"{answers[0]['token_str']} {answers[0]['score']:.1%}, ")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("[MASK]", 1200)

    code, printed = call()
    assert code == 0
    assert f"{run} is finished" in printed.out
    assert call("--masked_share", "0.2")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt2-tiny"], "model: gpt2-tiny sees only what comes before; write model: bert-base"),
        (["--objective", "clm"], "objective: bert-tiny sees the tokens that it would predict; write objective: mlm"),
        (["--isolate_documents", "true"], "isolate_documents: BERT cannot tell the documents of a block apart"),
        (["--temperature", "0.3"], "temperature: mlm fills in gaps and samples nothing; remove it"),
        (["--objective", "clm", "--masked_share", "0.2"], "masked_share: acts with objective: mlm only; remove it"),
        (["--sample_prompts", "吾輩は"], "has no gap to fill in; write [MASK]"),
    ],
)
def test_settings_that_cannot_act_are_refused(call, tmp_path, arguments, message):
    code, printed = call(*arguments)
    assert code == 2
    assert message in printed.err
    assert not (tmp_path / "run").exists()
