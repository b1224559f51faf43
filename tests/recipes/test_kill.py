"""`kill -9` at twenty random moments, two in each of ten runs, while training, evaluating and saving."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.configs.test_configs import ROOT, load_recipe

NUM_RUNS, KILLS_PER_RUN = 10, 2
TIMES = ("training_seconds", "tokens_per_second", "peak_host_bytes", "peak_gpu_bytes")
SETTINGS = {
    "model": "neox-tiny",
    "dropout": "0.1",
    "sequence_length": "64",
    "epochs": "2",
    "per_device_train_batch_size": "16",
    "learning_rate": "3e-3",
    "held_out_fraction": "0.05",
    "held_out_bytes": "5000",
    "logging_steps": "3",
    "eval_steps": "10",
    "save_steps": "4",
    "max_new_tokens": "4",
    "sample_prompts": "むかし、",
}


def train(argv: list[str], log: str) -> None:
    """The recipe's main, as if typed; ends the process with its exit code."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with Path(log).open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    from jpllm import runtime

    runtime.use_all_cores = lambda: None
    sys.argv = ["recipes/pretrain_scratch.py", *argv]
    os._exit(runtime.run_command(load_recipe(ROOT / "recipes" / "pretrain_scratch.py").main))


def contents(run) -> dict:
    """What must be equal: all rows but for their times, the samples, and the weights."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "rows": [{key: value for key, value in row.items() if key not in TIMES} for row in rows],
        "samples": (run / "samples.jsonl").read_text(),
        "model": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
    }


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(corpus_file, tokenizer_dir, tmp_path):
    processes = multiprocessing.get_context("forkserver")  # imports once, and forks a child in no time
    processes.set_forkserver_preload(["torch", "transformers", "accelerate", "jpllm.training.run"])
    generator = random.Random(0)
    source = json.dumps({"path": str(corpus_file), "max_bytes": 60_000})
    settings = SETTINGS | {"sources": source, "tokenizer": str(tokenizer_dir)}

    def start(run):
        argv = [
            f"--{key}={value}" for key, value in (settings | {"output_dir": run, "shards_dir": tmp_path / "s"}).items()
        ]
        process = processes.Process(target=train, args=(argv, str(tmp_path / f"{run.name}.log")))
        process.start()
        return process

    start(tmp_path / "warm").join()  # packs the corpus and fills the file cache
    whole = start(tmp_path / "whole")
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "whole.log").read_text()
    expected = contents(tmp_path / "whole")
    last_step = expected["rows"][-1]["step"]
    assert expected["rows"][-1]["epoch"] >= 2

    steps = []
    for number in range(NUM_RUNS):
        run = tmp_path / f"run{number}"
        for kill in range(KILLS_PER_RUN):  # the first in the first half of the steps, the second in the second
            target = generator.uniform(kill, kill + 1) * (last_step - 4) / KILLS_PER_RUN
            process = start(run)
            while process.exitcode is None and step_of(run) < target:
                time.sleep(0.002)
            time.sleep(generator.uniform(0, 0.2))
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL, (tmp_path / f"{run.name}.log").read_text()
            steps.append(step_of(run))
        last = start(run)
        last.join()
        assert last.exitcode == 0, (tmp_path / f"{run.name}.log").read_text()
        assert contents(run) == expected, f"run {number}, killed at about {steps[-KILLS_PER_RUN:]}"
    assert len(set(steps)) > NUM_RUNS / 2, steps  # at different moments


def step_of(run) -> int:
    """The step of the last row that is whole."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
