"""What only a CUDA GPU can show: half precision, loss scaling, 8-bit Adam, and exact resume on it."""

import logging
import math

import pytest
import torch

from jpllm.models import losses
from jpllm.models.losses import causal_loss
from jpllm.runtime import InputError
from tests.models import test_chunked_loss
from tests.training.test_resume import NUM_STEPS, SETTINGS, Interrupt, result_of
from tests.training.test_run import make_trainer, rows_of, train_and_prove

HAS_BF16 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
NEEDS_BF16 = pytest.mark.skipif(not HAS_BF16, reason="needs a GPU with bf16 (compute capability 8.0)")
PRECISIONS = ["fp32", "fp16", pytest.param("bf16", marks=NEEDS_BF16)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_training_learns_and_its_loss_is_finite(tmp_path, preset, precision):
    results = train_and_prove(make_trainer(tmp_path, preset, num_steps=20, precision=precision))
    losses = rows_of(tmp_path, "loss")
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] - 0.1
    assert losses[0] == pytest.approx(math.log(50), abs=0.2)  # random weights know nothing
    assert results["reloaded_loss"] == pytest.approx(results["loss"], abs=1e-3)
    assert torch.cuda.get_device_name() in results["device"]


def test_steps_skipped_while_the_loss_scale_is_sought_are_counted(tmp_path, caplog):
    trainer = make_trainer(tmp_path, num_steps=40, precision="fp16")
    trainer.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)
    with caplog.at_level(logging.INFO, "jpllm"):
        train_and_prove(trainer)
    (line,) = [record.getMessage() for record in caplog.records if "were skipped" in record.getMessage()]
    num_skipped = int(line.split()[1])
    assert 1 <= num_skipped < 25
    assert line.startswith(f"fp16: {num_skipped} of 40 steps were skipped")
    assert trainer.accelerator.scaler.get_scale() == 2.0 ** (30 - num_skipped)  # each skip halves it


def test_nothing_but_skipped_steps_ends_the_run(tmp_path):
    trainer = make_trainer(tmp_path, num_steps=40, precision="fp16")
    trainer.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**120)
    with pytest.raises(InputError, match=r"step 25: fp16 gradients overflowed in 25 steps in a row"):
        train_and_prove(trainer)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_8bit_adam_learns(tmp_path, precision):
    pytest.importorskip("bitsandbytes")
    trainer = make_trainer(tmp_path, "neox-tiny", num_steps=20, precision=precision, optimizer="adamw_8bit")
    trainer.train()
    losses = rows_of(tmp_path, "loss")
    assert losses[-1] < losses[0] - 0.1
    assert type(trainer.optimizer.optimizer).__module__.startswith("bitsandbytes")


@pytest.mark.parametrize(
    ("precision", "loss_tolerance", "gradient_tolerance"),
    [
        ("fp32", 1e-6, 1e-5),
        ("fp16", 2e-3, 0.02),
        pytest.param("bf16", 5e-3, 0.05, marks=NEEDS_BF16),
    ],
)
def test_chunked_loss_is_the_whole_one(monkeypatch, precision, loss_tolerance, gradient_tolerance):
    monkeypatch.setattr(losses, "CHUNK_LOGITS_GPU", 3 * test_chunked_loss.VOCABULARY)
    monkeypatch.setattr(torch.backends, "fp32_precision", "ieee")  # Trainer may have switched TF32 on
    hidden, weight, labels = test_chunked_loss.inputs()
    on_gpu = [tensor.detach().cuda().requires_grad_() for tensor in (hidden, weight)]
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float16)
    with torch.autocast("cuda", dtype, enabled=precision != "fp32"):
        loss = causal_loss(*on_gpu, labels.cuda(), None)
    loss.backward()
    expected, *gradients = test_chunked_loss.reference(hidden, weight, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=loss_tolerance)
    for tensor, gradient in zip(on_gpu, gradients, strict=True):
        assert tensor.grad.dtype == torch.float32
        absolute = gradient_tolerance * gradient.abs().max().item()
        torch.testing.assert_close(tensor.grad.cpu().double(), gradient, rtol=gradient_tolerance, atol=absolute)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny"])
def test_interrupted_run_equals_the_whole_one(tmp_path, preset, precision):
    def trainer_in(name):
        return make_trainer(tmp_path / name, preset, NUM_STEPS, dropout=0.1, precision=precision, **SETTINGS)

    train_and_prove(trainer_in("whole"))
    for step in (4, 10):
        trainer = trainer_in("interrupted")
        trainer.add_callback(Interrupt(step, "on_step_end"))
        with pytest.raises(RuntimeError, match="interrupted"):
            train_and_prove(trainer)
    train_and_prove(trainer_in("interrupted"))
    rows, weights = result_of(tmp_path / "interrupted")
    whole_rows, whole_weights = result_of(tmp_path / "whole")
    assert rows == whole_rows
    assert weights == whole_weights
