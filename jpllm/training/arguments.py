"""Trainer's arguments, made from the training keys of a recipe, and the arithmetic and the steps that these come to."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Literal

from jpllm import xla
from jpllm.runtime import InputError, device
from jpllm.training import engine
from jpllm.training.checkpoint import PARTIAL_NAME
from jpllm.training.config import Precision, TrainingConfig
from jpllm.training.run_folder import CHECKPOINTS_NAME

if TYPE_CHECKING:
    from transformers import TrainingArguments

_ROUNDING_STEPS = 1e-9  # of a step: what sums and means of floating-point numbers are off by


def choose_precision(wanted: Precision) -> Precision:
    """Return `wanted`, or for "auto" what this machine computes fastest without losing accuracy (`precision_on`).

    Raises InputError for fp16 where it is not computed, see `refuse_fp16_on_cpu`.
    """
    import torch

    if xla.is_launched():
        return precision_on(wanted, "xla", xla.kind() == "TPU")
    if device().type == "cuda":
        return precision_on(wanted, "cuda", torch.cuda.get_device_capability()[0] >= 8)
    if wanted == "fp16":
        refuse_fp16_on_cpu(engine.requested().name)
    return precision_on(wanted, "cpu", has_fast_bf16_on_cpu())


def precision_on(
    wanted: Precision, device_type: Literal["cuda", "xla", "cpu"], has_fast_bf16: bool
) -> Literal["fp32", "fp16", "bf16"]:
    """Return `wanted`, or for "auto" the fastest precision of a device that loses no accuracy.

    That is bf16 where it is fast: on a TPU, on a GPU of compute capability 8 or more (below it PyTorch emulates bf16,
    slower than fp32) and on a CPU with AMX tiles; else fp16 on a GPU and fp32 on a CPU.

    Raises InputError for fp16 on a TPU.
    """
    if wanted == "fp16" and device_type == "xla":
        raise InputError("precision: fp16 is nothing that a TPU is made for; write auto, bf16 or fp32")
    if wanted != "auto":
        return wanted
    return "bf16" if has_fast_bf16 else "fp16" if device_type == "cuda" else "fp32"


def has_fast_bf16_on_cpu() -> bool:
    """Return whether this CPU has AMX tiles; others with AVX-512 may run bf16 products at half the speed of fp32."""
    import torch

    return torch.cpu._is_amx_tile_supported()


def refuse_fp16_on_cpu(engine_name: str) -> None:
    """Raise InputError where fp16 cannot be computed on a CPU below this engine ("" is one process alone).

    DeepSpeed computes it where the CPU has instructions for it. accelerate (1.15) leaves autocast and loss scaling
    out on a CPU without a word, so that nothing but DeepSpeed would compute in fp16.
    """
    if not engine_name.startswith("DeepSpeed"):
        raise InputError(
            "precision: fp16 needs a GPU, or DeepSpeed on a CPU with avx512_fp16; write auto, bf16 or fp32, or launch "
            "with accelerate_configs/zero2_offload.yaml"
        )
    if not engine.has_fp16():
        raise InputError("precision: fp16 needs a CPU with avx512_fp16, and this one has none; write bf16 or fp32")


def num_steps(config: TrainingConfig, tokens_per_step: float, tokens_per_epoch: float) -> int:
    """Return the optimizer steps that spend the budget: the next whole number, at least one.

    Tokens may be means, so that whole epochs in whole steps are a little more or less than a whole number of them.
    """
    budget_tokens = config.tokens or (config.epochs or 0.0) * tokens_per_epoch
    return max(1, math.ceil(budget_tokens / tokens_per_step - _ROUNDING_STEPS))


def _warmup_steps(config: TrainingConfig, max_steps: int) -> float:
    """Return the steps of warm-up, or their share; a share leaves at least one step after it.

    The first step of a warm-up has a learning rate of 0, so that a run of one step would learn nothing.

    Raises InputError for a number of steps after which nothing is left.
    """
    if config.warmup_steps < 1:
        return max_steps - 1 if math.ceil(config.warmup_steps * max_steps) >= max_steps else config.warmup_steps
    if config.warmup_steps >= max_steps:
        raise InputError(
            f"warmup_steps: {config.warmup_steps:,.0f} are not fewer than the run's {max_steps:,} steps, so that "
            "learning_rate is never reached; lower it (0 is no warm-up), or raise the budget"
        )
    return config.warmup_steps


def training_arguments(
    config: TrainingConfig, max_steps: int, precision: Precision, steps_per_epoch: int | None = None
) -> TrainingArguments:
    """Return Trainer's arguments. Items come in the dataset's own order, which is already shuffled.

    Evaluations are `steps_per_epoch` apart where the configuration names no number of steps.

    Raises InputError if one process would use several GPUs, what would be compiled is compiled already, or the run is
    over before its warm-up.
    """
    import torch
    from transformers import TrainingArguments

    from jpllm.training.optimizer import trainer_name

    on_gpu, on_xla = device().type == "cuda", device().type == "xla"
    if on_xla and config.torch_compile:
        raise InputError("torch_compile: XLA compiles every step by itself; remove it")
    # accelerate hands its own setting down here; precision belongs to the recipe.
    os.environ["ACCELERATE_MIXED_PRECISION"] = {"fp32": "no"}.get(precision, precision)
    arguments = TrainingArguments(
        output_dir=str(config.output_dir / CHECKPOINTS_NAME / PARTIAL_NAME),
        max_steps=max_steps,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=_warmup_steps(config, max_steps),
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim=trainer_name(config.optimizer, on_xla),
        use_cpu=not (on_gpu or on_xla),
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=on_gpu,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        tf32=True if on_gpu and torch.cuda.get_device_capability()[0] >= 8 else None,
        torch_compile=config.torch_compile,
        activation_checkpointing=config.activation_checkpointing and not on_xla,  # BaseTrainer sees to it there
        train_sampling_strategy="sequential",
        logging_steps=config.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # the filter writes a NaN step down as loss 0
        eval_strategy="steps",
        eval_steps=config.eval_steps or steps_per_epoch,
        eval_on_start=True,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        seed=config.seed,
        ddp_timeout=config.ddp_timeout,
        dataloader_num_workers=config.dataloader_num_workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    if on_xla:
        # accelerate would set XLA_USE_BF16 on a TPU, which makes weights and moments bf16 too; BaseTrainer has autocast
        arguments.mixed_precision = "no"
    if arguments.n_gpu > 1:  # Trainer would split each batch over them, and every count of tokens would be wrong
        raise InputError(
            f"one process sees {arguments.n_gpu} GPUs: launch one process for each with "
            "accelerate_configs/multi_gpu.yaml, or choose one with CUDA_VISIBLE_DEVICES=0"
        )
    return arguments
