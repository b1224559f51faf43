"""The keys of the training itself, which all recipes have, and what is different of them for a classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from jpllm.config.settings import REQUIRED, option

Precision = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass
class Machine:
    """The machine that a configuration is written for; sizes in GiB, the keys are those of `jpllm plan`."""

    gpu: str | None = option(None, "Name of the GPU as jpllm plan knows it, or cpu.")
    gpu_memory_gib: float | None = option(None, "Memory of each GPU in GiB, where it has no such name.", above=0)
    num_gpus: int = option(1, "GPUs in the machine.", minimum=1)
    host_memory_gib: float | None = option(None, "Host memory in GiB.", above=0)


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
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon"] = option(
        "adamw",
        "adamw_8bit keeps AdamW's moments in a quarter of the memory (GPU), paged_adamw_8bit in host memory too where "
        "the GPU is full; muon orthogonalises the updates of matrices and leaves the rest to AdamW.",
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
    ddp_timeout: int = option(
        900, "Seconds that processes wait for another one that hangs, which is named before they end.", minimum=10
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
    machine: Machine | None = option(
        None,
        "What the file is written for: gpu or gpu_memory_gib, num_gpus, host_memory_gib. jpllm plan plans for it where "
        "no GPU is named; a run passes over it.",
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for no budget or two, half a step of warm-up, and a setting that could not act."""
        if self.label_smoothing and not self.chunked_loss:
            yield "label_smoothing", "works with chunked_loss: true only"
        if self.tokens is None and self.epochs is None:
            yield "tokens", "give the budget: tokens or epochs"
        if self.tokens is not None and self.epochs is not None:
            yield "epochs", "tokens is given too; keep one of them"
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            yield "warmup_steps", f"{self.warmup_steps} is neither a share below 1 nor a whole number of steps"

    def blocks_per_step(self, num_processes: int) -> int:
        """Return how many blocks (or rows) one optimizer step learns from, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * num_processes


@dataclass
class ClassifierTrainingConfig(TrainingConfig):
    """Training"""

    renamed_keys: ClassVar[dict[str, str]] = TrainingConfig.renamed_keys | {
        "tokens": "write epochs: rows differ in length",
        "group_by_length": "rows are padded by `padding`; remove it",
        "block_size": "write max_row_tokens",
        "max_length": "write max_row_tokens",
        "max_seq_length": "write max_row_tokens",
        "chunked_loss": "the output of a classifier is small; remove it",
    }
    # Keys of language models: they have one value here, and cannot be set.
    tokens: ClassVar[None] = None  # ty: ignore[incompatible-attribute-override]  # no field, so no key
    chunked_loss: ClassVar[bool] = True  # ty: ignore[incompatible-attribute-override]  # no field, so no key

    epochs: float = option(  # ty: ignore[incompatible-mutable-override]  # the one budget here, and nobody writes to it
        3.0, "Passes over the training rows.", above=0
    )
    per_device_train_batch_size: int = option(8, "Rows per device and forward pass.", minimum=1)
    per_device_eval_batch_size: int = option(32, "Rows per device and forward pass in evaluation.", minimum=1)
    optimizer: Literal["adamw", "adamw_8bit"] = option(  # ty: ignore[incompatible-mutable-override]  # nobody writes to it
        "adamw", "adamw_8bit keeps AdamW's moments in a quarter of the memory (GPU)."
    )
    learning_rate: float = option(5e-5, "Peak learning rate.", above=0)
    warmup_steps: float = option(0.1, "Steps of linear warm-up; below 1 it is the share of all steps.", minimum=0)
    adam_beta2: float = option(0.999, "Decay of AdamW's second moment.", minimum=0, maximum=0.99999)
    label_smoothing: float = option(
        0.0, "Share of each row's probability that is spread over all classes.", minimum=0, maximum=0.9
    )
    early_stopping_evals: int = option(
        0, "Stop when this many evaluations in a row bring no better metric, and keep the best; 0 is off.", minimum=0
    )
    eval_steps: int | None = option(  # ty: ignore[incompatible-attribute-override]  # None is what a pass takes
        None, "Optimizer steps between evaluations; by default one epoch.", minimum=1
    )
    dataloader_num_workers: int = option(0, "Processes that make batches ahead, per device.", minimum=0)
    seed: int = option(0, "Seed of the head, the order of the rows and dropout.", minimum=0)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for a warm-up that is neither a share nor a whole number of steps."""
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            yield "warmup_steps", f"{self.warmup_steps} is neither a share below 1 nor a whole number of steps"
