"""The plan in a run folder is `jpllm plan`'s, with the tokens that the run really reads; it never stops a run."""

import json
import logging
from pathlib import Path

import pytest
from transformers import GPT2Config

from jpllm.data.blocks.blend import SourceUse
from jpllm.planning.memory import estimate, rehearsal_of
from jpllm.planning.of_run import PlannedRun
from jpllm.planning.rehearsal import rehearse
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import model_size
from jpllm.training import machine
from jpllm.training.config import TrainingConfig
from jpllm.training.engine import Engine

MODEL = GPT2Config(vocab_size=500, n_embd=32, n_layer=2, n_head=2, n_positions=128)
ONE_PROCESS = Engine(1, "")
USES = [SourceUse("books", 0.75, 0.75, 7680, 2.0, 0), SourceUse("web", 0.25, 0.25, 2560, 0.5, 2560)]


def write(folder: Path, engine: Engine = ONE_PROCESS, **settings) -> None:
    training = TrainingConfig(output_dir=folder, tokens=10_000, precision="fp32", save_steps=0, **settings)
    details = {"isolates": False, "masked_share": 0.0}
    PlannedRun(MODEL, training, 64, engine, details).write(USES, 10_240, shards_dir=folder)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [])


def test_numbers_and_text(tmp_path):
    write(tmp_path)
    planned = json.loads((tmp_path / "plan.json").read_text())
    setup = TrainingSetup(8, 64, 1, 8, on_gpu=False)
    memory = estimate(model_size(MODEL), setup, rehearse(MODEL, rehearsal_of(setup)))
    assert planned["memory"]["peak_bytes"] == memory.peak
    assert planned["memory"]["tensor_bytes"] == memory.tensors
    assert planned["memory"]["available_bytes"] == machine.host_memory_bytes()
    assert (planned["num_tokens"], planned["num_steps"], planned["tokens_per_step"]) == (10_240, 20, 512)
    assert planned["disk"] == {"token shards": 0, "checkpoints": 0, "model": 4 * planned["num_parameters"]}
    assert planned["hours"] is None  # nothing is known of a CPU's speed
    text = (tmp_path / "plan.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Plan of {tmp_path.name}\n\n```text\n{tmp_path.name} (gpt2): ")
    (books,) = (line.split() for line in text.splitlines() if "books" in line)
    assert books == ["books", "3,840", "token", "shards", "75.0%", "7,680", "2.00"]


def test_hours_where_the_gpu_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [machine.LocalGpu("Tesla T4", (7, 5), 15 << 30)])
    write(tmp_path)
    planned = json.loads((tmp_path / "plan.json").read_text())
    assert planned["hardware"] == "Tesla T4"
    assert planned["hours"] == pytest.approx(10_240 / planned["tokens_per_second"] / 3600, abs=1e-4)


def test_an_engine_that_cannot_be_planned_for(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        write(tmp_path, Engine(2, "FSDP1"))
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == ["no plan of this run: the memory that FSDP1 takes is not estimated"]


def test_what_cannot_be_computed_is_left_out(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("jpllm.planning.rehearsal.rehearse", fail)
    with caplog.at_level(logging.INFO):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert caplog.messages == ["no plan of this run: RuntimeError: no such operator"]
