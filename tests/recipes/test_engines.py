"""Twenty steps in one process, its batch cut up, recomputed or in chunks, and in two processes below each engine.

All are launched with the shipped files. `pytest -rP` shows how far each drifts from the first one.
"""

import json
import os
import re
import socket
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.configs.test_configs import ROOT
from tests.configs.test_engines import ENGINES
from tests.recipes.test_pretrain_scratch import SMALL, call_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a busy machine makes of half a minute five
RECIPE = "recipes/pretrain_scratch.py"
FSDP_ON_CPU = "tests/recipes/fsdp_on_cpu.py"
TIED = ["--model", "gpt2-tiny"]
UNTIED = ["--model", "llama-tiny", "--hidden_size", "64", "--num_layers", "2", "--num_heads", "2"]
UNTIED += ["--intermediate_size", "128"]
STEPS_20 = ["--tokens", "10240", "--eval_steps", "10", "--logging_steps", "1", "--per_device_eval_batch_size", "4"]
LARGEST_DRIFT_NATS = 1e-5


@pytest.fixture(scope="module")
def script(corpus_file, tokenizer_dir, tmp_path_factory):
    """The recipe and its arguments, as typed: 20 steps of the same eight blocks, cut among the processes."""
    shards_dir = tmp_path_factory.mktemp("shards")

    def words(model, num_processes, output_dir, changes=()):
        settings = pairs([*SMALL, *STEPS_20, *model])
        settings |= {"--sources": corpus_file, "--tokenizer": tokenizer_dir, "--shards_dir": shards_dir}
        settings |= {"--output_dir": output_dir, "--per_device_train_batch_size": 8 // num_processes}
        settings |= pairs(changes)
        return [RECIPE, *(str(word) for pair in settings.items() for word in pair)]

    return words


@pytest.fixture(scope="module")
def train(script, tmp_path_factory):
    """Train below an engine; returns the run folder. What was trained already is not trained again."""
    folder = tmp_path_factory.mktemp("engines")

    def run(name, model, num_processes=2, changes=()):
        output_dir = folder / "-".join([name, model[1], *changes[:2]])
        if not output_dir.exists():
            words = script(model, num_processes, output_dir, changes)
            launch(name, num_processes, [FSDP_ON_CPU, *words] if name == "fsdp2" else words)
        return output_dir

    return run


def pairs(words):
    return dict(zip(words[::2], words[1::2], strict=True))


def launch(name, num_processes, script, *arguments):
    """`accelerate launch` with a shipped file, or with another whose path has no suffix here."""
    file = ROOT / "accelerate_configs" / f"{name}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += ["--num_processes", str(num_processes)]
    if not arguments and num_processes > 1:
        arguments = ["--main_process_port", "0"]  # any free one: tests run side by side
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command += [*arguments, *script]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stderr[-5000:]
    return finished


def rows(run, key):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def results(run):
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def assert_same_training(run, reference):
    for key in ("step", "tokens", "learning_rate"):
        assert rows(run, key) == rows(reference, key)
    for key in ("loss", "eval_loss"):
        drifts = [abs(one - other) for one, other in zip(rows(run, key), rows(reference, key), strict=True)]
        print(f"{run.name}: {key} drifts by {max(drifts):.1e} at most, {statistics.mean(drifts):.1e} on average")
        assert max(drifts) <= LARGEST_DRIFT_NATS, key
    assert rows(run, "grad_norm") == pytest.approx(rows(reference, "grad_norm"), rel=5e-4)
    assert len(rows(run, "loss")) == 20
    assert (run / "samples.jsonl").read_text() == (reference / "samples.jsonl").read_text()
    assert results(run)["num_parameters"] == results(reference)["num_parameters"]


def assert_model_gives_its_loss(run, monkeypatch, tmp_path):
    """With the second command, in a process without any engine."""
    argv = ["--model", str(run / "model"), "--texts", str(run / "held_out.jsonl"), "--max_new_tokens", "4"]
    assert call_recipe(monkeypatch, ROOT / "recipes" / "evaluate.py", [*argv, "--output_dir", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "evaluation.json").read_text())["perplexity"]
    assert row["loss"] == pytest.approx(results(run)["loss"], abs=LARGEST_DRIFT_NATS)
    assert results(run)["reloaded_loss"] == pytest.approx(results(run)["loss"], abs=1e-6)
    assert [file.name for file in (run / "model").glob("*.safetensors")] == ["model.safetensors"]


@pytest.fixture
def operators_are_compiled():
    """DeepSpeed compiles for minutes on first use: `make ops` does that ahead of the tests."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from jpllm.training import engine

    if len(list(engine.operators_dir().glob("*/*.so"))) < 2:
        pytest.skip("DeepSpeed's operators are not compiled: make ops")


@pytest.mark.parametrize("model", [TIED, UNTIED])
@pytest.mark.parametrize(
    "changes",
    [
        ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "8"],
        ["--activation_checkpointing", "true"],
        ["--chunked_loss", "false"],
    ],
)
def test_one_process_in_other_ways(train, model, changes):
    assert_same_training(train("cpu", model, 1, changes), train("cpu", model, 1))


@pytest.mark.parametrize(
    ("name", "model"), [("multi_gpu", TIED), ("multi_gpu", UNTIED), ("fsdp2", UNTIED), ("fsdp2", TIED)]
)
def test_two_processes_equal_one(train, name, model, monkeypatch, tmp_path):
    run = train(name, model)
    assert results(run)["engine"] == ENGINES[name]
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["engine"], plan["num_processes"]) == ("fsdp2" if name == "fsdp2" else "ddp", 2)
    assert ("published arithmetic" in (run / "plan.md").read_text()) == (name == "fsdp2")
    assert_same_training(run, train("cpu", model, 1))
    assert_model_gives_its_loss(run, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("zero1", TIED),
        ("zero2", UNTIED),
        ("zero2_offload", UNTIED),
        ("zero3", TIED),
        ("zero3", UNTIED),
        ("zero3_offload", UNTIED),
    ],
)
def test_two_processes_with_deepspeed_equal_one(train, operators_are_compiled, name, model, monkeypatch, tmp_path):
    run = train(name, model)
    assert results(run)["engine"] == ENGINES[name].replace("one process", "2 processes")
    assert_same_training(run, train("cpu", model, 1))
    assert_model_gives_its_loss(run, monkeypatch, tmp_path)


def test_two_machines_equal_one_process(train, script, tmp_path):
    """multi_node.yaml as on two machines: two launchers, each with one process and its own rank."""
    words = script(UNTIED, 2, tmp_path / "run")
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    with ThreadPoolExecutor() as machines:
        launched = [
            machines.submit(launch, "multi_node", 2, words, "--machine_rank", str(rank), *address) for rank in (0, 1)
        ]
    for machine in launched:
        machine.result()
    assert results(tmp_path / "run")["engine"] == ENGINES["multi_node"]
    assert_same_training(tmp_path / "run", train("cpu", UNTIED, 1))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cpu", "--num_processes", "2"], "several processes were asked for, but this one works alone"),
        (
            ["--config_file", "accelerate_configs/fsdp2.yaml", "--main_process_port", "0"],
            "FSDP2 needs GPUs: on CPUs accelerate would run DDP instead",
        ),
    ],
)
def test_engine_that_would_be_another_is_refused(script, tmp_path, arguments, message):
    command = [sys.executable, "-m", "accelerate.commands.launch", *arguments, *script(TIED, 2, tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert re.search(rf"^error: {message}", done.stderr, re.MULTILINE), done.stderr
    assert not (tmp_path / "run").exists()
