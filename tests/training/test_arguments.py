import pytest
import torch
from transformers import TrainingArguments

from jpllm import xla
from jpllm.runtime import InputError
from jpllm.training import arguments as arguments_module
from jpllm.training.arguments import choose_precision, num_steps, training_arguments
from jpllm.training.config import TrainingConfig
from jpllm.training.engine import Engine


def config(**settings):
    return TrainingConfig(**{"output_dir": "x", **settings})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"tokens": 1}, 1), ({"tokens": 100}, 1), ({"tokens": 101}, 2), ({"epochs": 2}, 20), ({"epochs": 0.05}, 1)],
)
def test_budget_is_rounded_up_to_whole_steps(settings, expected):
    assert num_steps(config(**settings), tokens_per_step=100, tokens_per_epoch=1000) == expected


@pytest.mark.parametrize("row_tokens", [1113, 1114, 1117, 1119])
def test_whole_epochs_of_mean_rows_take_no_step_more(row_tokens):
    """72 rows, 8 a step; a mean of their tokens times 72 may be a little more than their sum."""
    mean = row_tokens / 72
    assert num_steps(config(epochs=3), tokens_per_step=8 * mean, tokens_per_epoch=72 * mean) == 27


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, ("tokens", "give the budget: tokens or epochs")),
        ({"tokens": 5, "epochs": 1}, ("epochs", "tokens is given too; keep one of them")),
        (
            {"tokens": 5, "warmup_steps": 2.5},
            ("warmup_steps", "2.5 is neither a share below 1 nor a whole number of steps"),
        ),
    ],
)
def test_check(settings, problem):
    assert list(config(**settings).check()) == [problem]


@pytest.mark.parametrize(
    ("capability", "amx", "expected"),
    [
        ((9, 0), False, "bf16"),
        ((8, 0), False, "bf16"),
        ((7, 5), False, "fp16"),
        (None, True, "bf16"),
        (None, False, "fp32"),
    ],
)
def test_precision_for_the_hardware(monkeypatch, capability, amx, expected):
    """A T4 is 7.5: PyTorch says that it supports bf16, but only emulates it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("auto") == expected
    assert choose_precision("fp32") == "fp32"
    if capability is None:
        with pytest.raises(InputError, match="precision: fp16 needs a GPU"):
            choose_precision("fp16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # accelerate launch --cpu on a machine with a GPU
    assert choose_precision("auto") == ("bf16" if amx else "fp32")


@pytest.mark.parametrize(
    ("engine", "has_fp16", "problem"),
    [
        (
            "",
            True,
            r"fp16 needs a GPU, or DeepSpeed on a CPU with avx512_fp16; .* accelerate_configs/zero2_offload.yaml",
        ),
        ("DDP", True, "fp16 needs a GPU, or DeepSpeed"),
        ("DeepSpeed ZeRO-2 with optimizer offload", False, "fp16 needs a CPU with avx512_fp16, and this one has none"),
        ("DeepSpeed ZeRO-2 with optimizer offload", True, None),
    ],
)
def test_fp16_on_a_cpu_is_deepspeeds(monkeypatch, engine, has_fp16, problem):
    """accelerate alone would compute in float32 there without a word."""
    monkeypatch.setattr("jpllm.training.engine.has_fp16", lambda: has_fp16)
    monkeypatch.setattr("jpllm.training.engine.requested", lambda: Engine(1, engine))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if problem is None:
        assert choose_precision("fp16") == "fp16"
    else:
        with pytest.raises(InputError, match=problem):
            choose_precision("fp16")


def test_one_process_with_several_gpus_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(InputError, match="one process sees 2 GPUs"):
        training_arguments(config(output_dir=tmp_path, tokens=5), max_steps=8, precision="fp32")


def test_the_recipe_owns_the_precision(monkeypatch, tmp_path):
    """`accelerate launch` hands down the precision of its own configuration file in the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arguments = training_arguments(config(output_dir=tmp_path, tokens=5), max_steps=8, precision="fp32")
    assert (arguments.bf16, arguments.fp16) == (False, False)


def test_every_key_reaches_trainer(tmp_path):
    settings = config(output_dir=tmp_path, tokens=5, learning_rate=0.5, warmup_steps=0.25, adam_beta2=0.9, save_steps=7)
    arguments = training_arguments(settings, max_steps=8, precision="bf16")
    assert (arguments.learning_rate, arguments.adam_beta2, arguments.max_steps) == (0.5, 0.9, 8)
    assert arguments.get_warmup_steps(8) == 2
    assert (arguments.bf16, arguments.fp16, arguments.save_steps) == (True, False, 7)
    assert arguments.logging_nan_inf_filter is False


@pytest.fixture
def on_xla(monkeypatch):
    monkeypatch.setattr(xla, "is_launched", lambda: True)
    monkeypatch.setattr(arguments_module, "device", lambda: torch.device("xla"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # written by training_arguments; put back afterwards


@pytest.mark.usefixtures("on_xla")
@pytest.mark.parametrize(("kind", "expected"), [("TPU", "bf16"), ("CPU", "fp32")])
def test_precision_with_xla(monkeypatch, kind, expected):
    monkeypatch.setattr(xla, "kind", lambda: kind)
    assert choose_precision("auto") == expected
    assert choose_precision("bf16") == "bf16"
    with pytest.raises(InputError, match="precision: fp16 is nothing that a TPU is made for"):
        choose_precision("fp16")


@pytest.mark.usefixtures("on_xla")
def test_arguments_with_xla(tmp_path):
    """The optimizer is not fused; accelerate does nothing about precision, and Trainer nothing about checkpointing."""
    settings = config(output_dir=tmp_path, tokens=5, activation_checkpointing=True)
    arguments = training_arguments(settings, max_steps=8, precision="fp32")
    assert arguments.optim == "adamw_torch"
    assert arguments.mixed_precision == "no"
    assert not arguments.activation_checkpointing
    assert not arguments.use_cpu
    with pytest.raises(InputError, match="torch_compile: XLA compiles every step by itself"):
        training_arguments(config(output_dir=tmp_path, tokens=5, torch_compile=True), max_steps=8, precision="fp32")
