"""The training keys of a recipe, and Trainer's arguments made from them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from jpllm import xla
from jpllm.config.settings import REQUIRED, option
from jpllm.runtime import InputError, device
from jpllm.training import engine, operators
from jpllm.training.checkpoint import PARTIAL_NAME
from jpllm.training.run_folder import CHECKPOINTS_NAME

if TYPE_CHECKING:
    from transformers import TrainingArguments

Precision = Literal["auto", "fp32", "fp16", "bf16"]
_ROUNDING_STEPS = 1e-9  # of a step: what sums and means of floating-point numbers are off by


@dataclass
class TrainingConfig:
    """Training"""

    renamed_keys: ClassVar[dict[str, str]] = {
        "warmup_ratio": "write warmup_steps: a value below 1 is the share of all steps",
        "num_train_epochs": "write epochs",
        "max_steps": "write tokens (the budget) or epochs",
        "fp16": "write precision: fp16",
        "bf16": "write precision: bf16",
        "no_cuda": "choose the hardware with accelerate: accelerate launch --cpu …",
        "use_cpu": "choose the hardware with accelerate: accelerate launch --cpu …",
        "evaluation_strategy": "write eval_steps: the number of steps between evaluations",
        "eval_strategy": "write eval_steps: the number of steps between evaluations",
        "save_strategy": "write save_steps: the number of steps between checkpoints, 0 for none",
        "logging_dir": "metrics are written to output_dir",
        "overwrite_output_dir": "a run is never overwritten: choose another output_dir",
        "resume_from_checkpoint": "the same command goes on by itself; remove it",
        "save_safetensors": "models are always saved as safetensors; remove it",
        "gradient_checkpointing": "write activation_checkpointing",
        "per_gpu_train_batch_size": "write per_device_train_batch_size",
        "block_size": "write sequence_length",
        "group_by_length": "blocks all have sequence_length tokens; remove it",
    }

    output_dir: Path = option(REQUIRED, "Folder of the run; where it holds an unfinished one, that goes on.")
    tokens: int | None = option(
        None, "Budget in training tokens; rounded up to whole steps. Or give epochs.", minimum=1
    )
    epochs: float | None = option(None, "Budget in passes over the training texts. Or give tokens.", above=0)
    per_device_train_batch_size: int = option(8, "Blocks per device and forward pass.", minimum=1)
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.", minimum=1)
    per_device_eval_batch_size: int = option(8, "Blocks per device and forward pass in evaluation.", minimum=1)
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = option(
        "adamw",
        "adamw_8bit keeps AdamW's moments in a quarter of the memory (GPU); muon orthogonalises the updates of "
        "matrices and leaves the rest to AdamW.",
    )
    learning_rate: float = option(3e-4, "Peak learning rate.", above=0)
    lr_scheduler_type: Literal["cosine", "linear", "constant_with_warmup"] = option(
        "cosine", "Shape of the learning rate after warm-up; cosine and linear end at 0."
    )
    warmup_steps: float = option(0.02, "Steps of linear warm-up; below 1 it is the share of all steps.", minimum=0)
    weight_decay: float = option(0.1, "Decoupled weight decay of matrices and embeddings.", minimum=0)
    adam_beta1: float = option(0.9, "Decay of AdamW's first moment.", minimum=0, maximum=0.9999)
    adam_beta2: float = option(0.95, "Decay of AdamW's second moment.", minimum=0, maximum=0.99999)
    label_smoothing: float = option(
        0.0, "Share of each target's probability that is spread over the vocabulary.", minimum=0, maximum=0.9
    )
    early_stopping_evals: int = option(
        0,
        "Stop when this many evaluations in a row bring no better bits per byte (mlm: loss), and keep the best; 0 is "
        "off.",
        minimum=0,
    )
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm; 0 is off.", minimum=0)
    precision: Precision = option(
        "auto", "Arithmetic of the forward and backward pass; auto takes what the hardware is fast at."
    )
    torch_compile: bool = option(False, "Compile the model first: about a minute more, then faster steps.")
    activation_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )
    chunked_loss: bool = option(
        True,
        "Compute the loss a few hundred tokens at a time (mlm: only where tokens are to be predicted): the same loss "
        "in less memory, and faster on a CPU.",
    )
    logging_steps: int = option(10, "Optimizer steps between rows of metrics.jsonl.", minimum=1)
    eval_steps: int = option(100, "Optimizer steps between evaluations with samples.", minimum=1)
    save_steps: int = option(
        500, "Optimizer steps between checkpoints, from which a run goes on; 0 saves the final model only.", minimum=0
    )
    save_total_limit: int = option(2, "Checkpoints kept; older ones are deleted.", minimum=1)
    max_hours: float | None = option(
        None, "Stop with a checkpoint, and exit code 75, this long after the launch; the same command goes on.", above=0
    )
    resume_changed: bool = option(
        False, "Go on from a checkpoint though processes, data or settings changed; the losses are then others."
    )
    report_to: Literal["none", "wandb"] = option(
        "none", "Mirror metrics and samples to Weights & Biases; without a login to files that wandb sync sends later."
    )
    measure_energy: bool = option(False, "Also note the energy that the machine takes, in kWh (needs codecarbon).")
    dataloader_num_workers: int = option(0, "Processes that read blocks ahead, per device.", minimum=0)
    seed: int = option(0, "Seed of the weights, the order of the data and dropout.", minimum=0)

    def check(self) -> Iterator[tuple[str, str]]:
        """One budget, no more and no less; a warm-up that is a share or a number of steps; settings that can act."""
        if self.label_smoothing and not self.chunked_loss:
            yield "label_smoothing", "works with chunked_loss: true only"
        if self.tokens is None and self.epochs is None:
            yield "tokens", "give the budget: tokens or epochs"
        if self.tokens is not None and self.epochs is not None:
            yield "epochs", "tokens is given too; keep one of them"
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            yield "warmup_steps", f"{self.warmup_steps} is neither a share below 1 nor a whole number of steps"

    def blocks_per_step(self, num_processes: int) -> int:
        """Blocks that one optimizer step learns from, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * num_processes


def choose_precision(wanted: Precision) -> Precision:
    """`wanted`, or for "auto" what this machine computes fastest without losing accuracy.

    bf16 on a TPU, on a GPU of compute capability 8 or more (below it PyTorch emulates bf16, slower than fp32) and on a
    CPU with AMX tiles; fp16 on older GPUs; fp32 on other CPUs, where AVX-512 runs bf16 products at half the speed of
    fp32.

    Raises InputError for fp16 on a CPU that does not compute it, see `refuse_fp16_on_cpu`.
    """
    import torch

    if xla.is_launched():
        return _precision_with_xla(wanted)
    on_gpu = device().type == "cuda"
    if wanted == "fp16" and not on_gpu:
        refuse_fp16_on_cpu(engine.requested().name)
    if wanted != "auto":
        return wanted
    if on_gpu:
        return "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def _precision_with_xla(wanted: Precision) -> Precision:
    if wanted == "fp16":
        raise InputError("precision: fp16 is nothing that a TPU is made for; write auto, bf16 or fp32")
    if wanted != "auto":
        return wanted
    return "bf16" if xla.kind() == "TPU" else "fp32"


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
    if not operators.has_fp16():
        raise InputError("precision: fp16 needs a CPU with avx512_fp16, and this one has none; write bf16 or fp32")


def num_steps(config: TrainingConfig, tokens_per_step: float, tokens_per_epoch: float) -> int:
    """Optimizer steps that spend the budget: the next whole number, at least one.

    Tokens may be means, so that whole epochs in whole steps are a little more or less than a whole number of them.
    """
    budget_tokens = config.tokens or config.epochs * tokens_per_epoch
    return max(1, math.ceil(budget_tokens / tokens_per_step - _ROUNDING_STEPS))


def training_arguments(config: TrainingConfig, max_steps: int, precision: Precision) -> TrainingArguments:
    """Trainer's arguments. Blocks come in the dataset's own order, which is already shuffled.

    Raises InputError if one process would use several GPUs, or what would be compiled is compiled already.
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
        warmup_steps=config.warmup_steps,
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
        eval_steps=config.eval_steps,
        eval_on_start=True,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
        save_total_limit=config.save_total_limit,
        seed=config.seed,
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
