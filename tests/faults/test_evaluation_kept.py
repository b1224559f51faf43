"""What recipes/evaluate.py has measured is kept: it is stopped in a later part, or given another model or limit."""

import json
import os
import subprocess
import sys
import time

import pytest

from jpllm.evaluation import perplexity
from jpllm.evaluation.jglue.continuations import PromptReader
from tests.evaluation.jglue.jglue_files import write_jglue
from tests.evaluation.test_forgetting import make
from tests.recipes.test_evaluate import RECIPE, arguments
from tests.recipes.test_pretrain_scratch import ROOT, call_recipe


def results(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


@pytest.fixture
def model(tokenizer_dir, tmp_path):
    return make(tmp_path / "model", tokenizer_dir, seed=0, trained_length=48)


def test_a_text_is_kept_when_a_later_one_is_killed(model, tmp_path):
    (tmp_path / "short.txt").write_text("吾輩は猫である。", encoding="utf-8")
    (tmp_path / "long.txt").write_text("名前はまだ無い。\n" * 200_000, encoding="utf-8")
    command = [sys.executable, str(RECIPE), "--model", model, "--parts", "perplexity", "--batch_size", "1"]
    command += ["--texts", str(tmp_path / "short.txt"), str(tmp_path / "long.txt"), "--output_dir", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "evaluation.json").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -9, process.stderr
    assert [row["text"] for row in results(tmp_path)["perplexity"]] == ["short"]
    assert "| short |" in (tmp_path / "evaluation.md").read_text(encoding="utf-8")


def test_texts_of_earlier_models_are_kept_when_it_is_stopped(model, tokenizer_dir, tmp_path, monkeypatch):
    """Two texts of two models: stopped at the fourth, the same command scores that one alone."""
    other = make(tmp_path / "other", tokenizer_dir, seed=1, trained_length=48)
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name}は猫である。", encoding="utf-8")
    texts = [str(tmp_path / f"{name}.txt") for name in ("a", "b")]
    argv = ["--model", model, "--parts", "forgetting", "--earlier_models", other, "--texts", *texts]
    argv += ["--output_dir", str(tmp_path / "out")]
    scored, score = [], perplexity.score

    def stopped_at(number):
        def count(model, texts, **more):
            scored.append(texts[0].name)
            if len(scored) == number:
                raise KeyboardInterrupt
            return score(model, texts, **more)

        return count

    monkeypatch.setattr(perplexity, "score", stopped_at(4))
    assert call_recipe(monkeypatch, RECIPE, argv) == 130
    assert "forgetting" not in results(tmp_path / "out")
    monkeypatch.setattr(perplexity, "score", stopped_at(0))
    assert call_recipe(monkeypatch, RECIPE, argv) == 0
    assert scored == ["a", "b", "a", "b", "b"]
    assert results(tmp_path / "out")["forgetting"]["models"] == [other, model]


def test_results_of_another_model_stay(model, tokenizer_dir, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("吾輩は猫である。", encoding="utf-8")
    argv = ["--parts", "perplexity", "--texts", str(tmp_path / "a.txt"), "--output_dir", str(tmp_path / "out")]
    assert call_recipe(monkeypatch, RECIPE, ["--model", model, *argv]) == 0
    before = results(tmp_path / "out")
    other = make(tmp_path / "other", tokenizer_dir, seed=1, trained_length=48)
    assert call_recipe(monkeypatch, RECIPE, ["--model", other, *argv]) == 2
    error = capsys.readouterr().err
    assert f"results of another model ({model}: other weights); name another output_dir" in error
    assert results(tmp_path / "out") == before


@pytest.mark.parametrize("limits", [(99, None), (None, 99), (12, 50), (None, 12)])
def test_a_limit_above_the_number_of_items_is_none(model, tmp_path, monkeypatch, limits):
    """Of twelve items each: the model is asked once, and there is one set of rows, which names no limit."""
    pytest.importorskip("lm_eval", reason="pip install 'jpllm[eval]'")
    argv = arguments(model, write_jglue(tmp_path / "jglue"), "--any_jglue_content", "--tasks", "jnli")
    argv += ["--output_dir", str(tmp_path / "out")]
    for limit in limits:
        assert call_recipe(monkeypatch, RECIPE, argv + (["--limit", str(limit)] if limit else [])) == 0
        monkeypatch.setattr(PromptReader, "log_likelihoods", None)
    rows = results(tmp_path / "out")["jglue"]
    assert [(row["metric"], row["n"], row["limit"]) for row in rows] == [("acc", 12, None), ("balanced_acc", 12, None)]
    assert [file.name for file in (tmp_path / "out" / "answers").iterdir()] == [rows[0]["answers"]]
    assert "first" not in rows[0]["answers"]


def test_few_items_all_wrong_are_no_certainty(model, tmp_path, monkeypatch, capsys):
    """0 of 6: Wilson's interval goes up to 1.96² / (6 + 1.96²) = 39.0 %. The right choice of item n is 3n mod 5."""
    pytest.importorskip("lm_eval", reason="pip install 'jpllm[eval]'")
    argv = arguments(model, write_jglue(tmp_path / "jglue"), "--any_jglue_content", "--tasks", "jcommonsenseqa")

    def wrong(self, pairs, show):
        return [(float(n % 5 == (n // 5 * 3 + 1) % 5), False) for n in range(len(pairs))]

    monkeypatch.setattr(PromptReader, "log_likelihoods", wrong)
    assert call_recipe(monkeypatch, RECIPE, [*argv, "--limit", "6", "--output_dir", str(tmp_path / "out")]) == 0
    (row,) = results(tmp_path / "out")["jglue"]
    assert (row["value"], row["n"], row["standard_error"]) == (0.0, 6, None)
    assert row["interval"] == pytest.approx([0.0, 0.3903], abs=5e-5)
    assert "(0.0 to 39.0 %)" in capsys.readouterr().out
