"""Two processes below DDP and ZeRO, stopped and killed on the way: bit for bit the run that was not."""

import json
import os
import re
import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file

from tests.configs.test_configs import ROOT
from tests.recipes.test_engines import TIED, launch, operators_are_compiled, pairs  # noqa: F401 — a fixture
from tests.recipes.test_kill import TIMES, step_of
from tests.recipes.test_pretrain_scratch import SMALL

pytestmark = pytest.mark.slow
NEOX = ["--model", "neox-tiny", "--dropout", "0.1"]
STEPS_24 = ["--tokens", "6144", "--eval_steps", "9", "--logging_steps", "3", "--save_steps", "4"]
KILL_AT_STEP = 15


@pytest.fixture
def words(corpus_file, tokenizer_dir, tmp_path):
    """The recipe and its arguments: 24 steps, which are more than two epochs of a small corpus."""

    def make(model, output_dir):
        source = json.dumps({"path": str(corpus_file), "max_bytes": 8_000})
        settings = pairs([*SMALL, *STEPS_24, *model]) | {"--sources": source, "--tokenizer": str(tokenizer_dir)}
        settings |= {"--held_out_fraction": "0.1", "--per_device_train_batch_size": "2"}
        settings |= {"--shards_dir": str(tmp_path / "shards"), "--output_dir": str(output_dir)}
        return ["recipes/pretrain_scratch.py", *(word for pair in settings.items() for word in pair)]

    return make


def outcome(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(run / "model" / "model.safetensors")
    return (
        [{key: value for key, value in row.items() if key not in TIMES} for row in rows],
        (run / "samples.jsonl").read_text(),
        {name: weight.tolist() for name, weight in weights.items()},
    )


def launch_and_kill(engine, script, run):
    """SIGKILL to all processes of a launch, once the metrics have a row of KILL_AT_STEP or later; returns their step.

    Those that train come first: they are in sessions of their own, and would stop with a checkpoint when the launcher
    is gone.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{engine}.yaml"]
    command += ["--num_processes", "2", "--main_process_port", "0", *script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (run.parent / "killed.log").open("w") as log:
        launched = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        while step_of(run) < KILL_AT_STEP:
            assert launched.poll() is None, (run.parent / "killed.log").read_text()[-3000:]
            time.sleep(0.02)
        launcher = psutil.Process(launched.pid)
        processes = [*launcher.children(recursive=True), launcher]
        for process in processes:
            process.kill()
        launched.wait()
    assert len(processes) >= 3
    assert psutil.wait_procs(processes, 30)[1] == []
    return step_of(run)


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        *(("multi_gpu", TIED), ("multi_gpu", NEOX), ("zero2", NEOX), ("zero3", NEOX), ("zero3", TIED)),
        *(("zero2_offload", NEOX), ("zero3_offload", NEOX)),
    ],
)
def test_stopped_and_killed(request, words, tmp_path, engine, model):
    if engine.startswith("zero"):
        request.getfixturevalue("operators_are_compiled")
    whole, run = tmp_path / "whole", tmp_path / "run"
    launch(engine, 2, words(model, whole))
    expected = outcome(whole)
    assert expected[0][-1]["epoch"] > 2
    with pytest.raises(AssertionError, match=r"stopped at step 1 of 24 \(max_hours"):
        launch(engine, 2, [*words(model, run), "--max_hours", "1e-6"])
    step = launch_and_kill(engine, words(model, run), run)
    assert step < expected[0][-1]["step"]
    assert not (run / "results.json").exists()
    resumed = launch(engine, 2, words(model, run))
    assert re.search(r"going on from \S+/checkpoint-(8|12|16|20)$", resumed.stdout, re.MULTILINE), resumed.stdout
    assert outcome(run) == expected
    with pytest.raises(AssertionError, match="finished run with another"):
        launch(engine, 2, [*words(model, run), "--seed", "1"])


def test_another_number_of_processes_is_refused(words, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(AssertionError, match="stopped at step 1"):
        launch("multi_gpu", 2, [*words(NEOX, run), "--max_hours", "1e-6"])
    with pytest.raises(AssertionError, match=r"world_size: 2 when it was written, 1 now"):
        launch("cpu", 1, words(NEOX, run))
