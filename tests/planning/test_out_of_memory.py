"""Memory that runs out: the message says what would need less, and what else goes wrong passes through."""

import re
from pathlib import Path

import pytest
import torch

from jpllm.models.trained_parts import TrainedParts
from jpllm.planning import hardware
from jpllm.planning.hardware import Hardware, HardwareConfig, resolve
from jpllm.planning.of_run import PlannedRun
from jpllm.runtime import InputError
from jpllm.training.config import ClassifierTrainingConfig, TrainingConfig
from jpllm.training.engine import Engine
from tests.models.test_build import tiny_model

GIB = 1 << 30
T4 = Hardware("t4", True, 16 * GIB, 65.0, False, 1, 32 * GIB, True)
CPU = Hardware("CPU", False, 16 * GIB, None, False, 1, 16 * GIB, True)


def message(monkeypatch, where, error, runs=None, **settings):
    monkeypatch.setattr(hardware, "resolve", lambda config: where)
    training = TrainingConfig(
        output_dir=Path("run"), tokens=1, per_device_train_batch_size=8, per_device_eval_batch_size=1, **settings
    )
    config = tiny_model("neox-tiny", 8000).config
    with (
        pytest.raises(InputError) as raised,
        PlannedRun(config, training, 512, runs or Engine(1, "")).explained(),
    ):
        raise error
    return str(raised.value)


def peaks(text):
    """Of what was asked for, then of each line; MiB."""
    return [
        float(n) * (1024 if unit == "GiB" else 1) for n, unit in re.findall(r"([\d.]+) ([GM]iB)(?: of the| with)", text)
    ]


def test_what_needs_less_memory_of_a_gpu(monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")
    text = message(monkeypatch, T4, error, chunked_loss=False, gradient_accumulation_steps=3)
    first, *rest = text.splitlines()
    assert first == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    for change in (
        "per_device_train_batch_size: 4, gradient_accumulation_steps: 6",
        "activation_checkpointing: true",
        "chunked_loss: true",
        "optimizer: adamw_8bit",
        "accelerate_configs/zero2_offload.yaml",
    ):
        assert sum(line.endswith(f"with {change}") for line in rest) <= 1
    assert "with per_device_train_batch_size: 4, gradient_accumulation_steps: 6" in text
    assert "with chunked_loss: true" in text
    asked, *ways = peaks(text)
    assert len(ways) >= 3
    assert ways == sorted(ways)
    assert ways[-1] <= asked
    assert rest[-1].startswith("jpllm plan")


def test_on_a_cpu(monkeypatch):
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried …")
    text = message(monkeypatch, CPU, error)
    assert "of the 16.00 GiB that CPU has in all" in text
    assert "per_device_train_batch_size: 4, gradient_accumulation_steps: 2" in text
    assert "adamw_8bit" not in text
    assert "accelerate_configs" not in text


def test_a_classifier_needs_less_without_more_layers_that_learn(monkeypatch):
    """Its own keys; what is no key of a classifier, such as chunked_loss, is not named."""
    monkeypatch.setattr(hardware, "resolve", lambda config: T4)
    training = ClassifierTrainingConfig(output_dir=Path("run"), per_device_eval_batch_size=1, precision="fp32")
    config = tiny_model("gpt2-tiny", max_positions=512).config
    peaks_of = {}
    for trainable in ("all", "last_block"):
        details = {"trained_parts": TrainedParts(trainable), "keeps_trunk": trainable != "all"}
        with (
            pytest.raises(InputError) as raised,
            PlannedRun(config, training, 512, Engine(1, ""), details).explained(),
        ):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        text = str(raised.value)
        assert "with per_device_train_batch_size: 4, gradient_accumulation_steps: 2" in text
        assert "chunked_loss" not in text
        peaks_of[trainable] = peaks(text)[0]
    assert peaks_of["last_block"] < peaks_of["all"]


def test_an_engine_without_an_estimate(monkeypatch):
    text = message(monkeypatch, T4, torch.OutOfMemoryError("CUDA out of memory."), Engine(2, "FSDP1"))
    assert "a smaller per_device_train_batch_size" in text


def test_a_prediction_that_fails_hides_nothing(monkeypatch):
    def fail(*_):
        raise ValueError("no such layer")

    monkeypatch.setattr("jpllm.planning.rehearsal.rehearse", fail)
    text = message(monkeypatch, T4, torch.OutOfMemoryError("CUDA out of memory."))
    assert text.startswith("out of memory: CUDA out of memory.\nless memory: a smaller per_device_train_batch_size")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), PlannedRun(None, None, 8, Engine(1, "")).explained():
        raise RuntimeError("shapes do not match")


def test_memory_of_an_xla_device(monkeypatch):
    error = RuntimeError("Bad StatusOr access: RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm.")
    text = message(monkeypatch, resolve(HardwareConfig(gpu="v5e-8")), error, Engine(8, "XLA"))
    assert text.startswith("out of memory: Bad StatusOr access: RESOURCE_EXHAUSTED")
    assert "activation_checkpointing: true" in text
    assert "adamw_8bit" not in text
