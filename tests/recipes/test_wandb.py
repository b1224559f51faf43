"""Runs that are mirrored to W&B, as typed: nothing private gets into their folder, and no fault of W&B into the run."""

import json
import os
import subprocess
import sys
import time

import pytest

from jpllm.tracking.wandb import mirror
from tests.configs.test_configs import ROOT
from tests.recipes.test_kill import TIMES
from tests.recipes.test_pretrain_scratch import RECIPE, SMALL, call_recipe
from tests.tracking.wandb.test_mirror import fake, history, tables  # noqa: F401 (a fixture)

CANARY = "canary-8b1f"
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "WANDB_USERNAME")


@pytest.mark.slow
def test_nothing_private_gets_into_the_folder_of_a_run(corpus_file, tokenizer_dir, tmp_path):
    """Stopped, gone on with, and evaluated, by a user whose home folder and keys are easily recognised."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    project = tmp_path / CANARY / "project"
    project.mkdir(parents=True)
    (project / "corpus.jsonl").write_bytes(corpus_file.read_bytes())
    (project / "tokenizer").symlink_to(tokenizer_dir)
    environment = {**os.environ, "HOME": str(tmp_path / CANARY), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    environment |= dict.fromkeys(SECRETS, f"{CANARY}{'0' * 29}")
    run = project / "runs" / "a"

    def call(recipe, *arguments):
        command = [sys.executable, str(ROOT / "recipes" / recipe), *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)
        assert "mirrored" not in done.stderr, done.stderr  # nothing went wrong there
        return done

    train = [*SMALL, "--sources", "corpus.jsonl", "--tokenizer", "tokenizer", "--shards_dir", "shards"]
    train += ["--output_dir", "runs/a", "--report_to", "wandb", "--save_steps", "5"]
    assert call("pretrain_scratch.py", *train, "--max_hours", "1e-6").returncode == 75
    refuse_canary(run)
    assert call("pretrain_scratch.py", *train).returncode == 0
    arguments = ["--model", "runs/a/model", "--texts", "runs/a/held_out.jsonl", "--max_new_tokens", "5"]
    done = call("evaluate.py", *arguments, "--output_dir", "runs/a/evaluation", "--report_to", "wandb")
    assert done.returncode == 0, done.stderr
    refuse_canary(run)

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [
        {key: row.get(key) for key in rows[index]} for index, row in enumerate(history(run, "training_seconds"))
    ] == rows
    (evaluated,) = json.loads((run / "evaluation" / "evaluation.json").read_text())["perplexity"]
    ((columns, data),) = tables(run, "evaluation_perplexity")
    assert evaluated.pop("versions")["torch"]  # no cell of a table
    assert dict(zip(columns, data[0], strict=True)) == evaluated
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    texts = {data[0][columns.index("text")] for columns, data in tables(run, "samples")}
    assert texts == {row["text"] for row in samples}
    assert len(json.loads((run / "environment.json").read_text())["sessions"]) == 2


def refuse_canary(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert [path for path in run.rglob("*") if path.is_symlink()] == []


SLOW = [pytest.param(what, marks=pytest.mark.slow) for what in ("init hangs", "finish hangs", "log raises")]


@pytest.mark.parametrize("what", ["log hangs", *SLOW])
def test_training_does_not_notice(corpus_file, tokenizer_dir, tmp_path, fake, monkeypatch, capfd, what):  # noqa: F811
    monkeypatch.setenv("FAKE_WANDB", what)
    monkeypatch.setattr(mirror, "CLOSING_SECONDS", 0.5)
    argv = [*SMALL, "--sources", str(corpus_file), "--tokenizer", str(tokenizer_dir)]
    argv += ["--shards_dir", str(tmp_path / "shards"), "--output_dir"]
    assert call_recipe(monkeypatch, RECIPE, [*argv, str(tmp_path / "alone")]) == 0
    monkeypatch.setattr("jpllm.training.callbacks.MetricsRecorder.close", closing_times := Closing())
    capfd.readouterr()
    assert call_recipe(monkeypatch, RECIPE, [*argv, str(fake), "--report_to", "wandb"]) == 0
    assert closing_times.seconds < 0.5 + mirror._GRACE_SECONDS + 5
    lines = [line for line in capfd.readouterr().err.splitlines() if "wandb: " in line]
    assert len([line for line in lines if "WANDB_MODE" not in line]) == 1
    assert contents(fake) == contents(tmp_path / "alone")


class Closing:
    """Stands in for `MetricsRecorder.close`, and measures it."""

    def __init__(self):
        from jpllm.training.callbacks import MetricsRecorder

        self._close = MetricsRecorder.close

    def __get__(self, recorder, _):
        def close():
            began = time.monotonic()
            self._close(recorder)
            self.seconds = time.monotonic() - began

        return close


def contents(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
