"""The training keys of a classifier: those of every training, with what is different here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from jpllm.config.settings import option
from jpllm.training.arguments import TrainingConfig


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
    tokens: ClassVar[None] = None
    chunked_loss: ClassVar[bool] = True

    epochs: float = option(3.0, "Passes over the training rows.", above=0)
    per_device_train_batch_size: int = option(8, "Rows per device and forward pass.", minimum=1)
    per_device_eval_batch_size: int = option(32, "Rows per device and forward pass in evaluation.", minimum=1)
    optimizer: Literal["adamw", "adamw_8bit"] = option(
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
    eval_steps: int | None = option(None, "Optimizer steps between evaluations; by default one epoch.", minimum=1)
    dataloader_num_workers: int = option(0, "Processes that make batches ahead, per device.", minimum=0)
    seed: int = option(0, "Seed of the head, the order of the rows and dropout.", minimum=0)

    def check(self) -> Iterator[tuple[str, str]]:
        """A warm-up that is a share or a number of steps."""
        if self.warmup_steps >= 1 and self.warmup_steps != int(self.warmup_steps):
            yield "warmup_steps", f"{self.warmup_steps} is neither a share below 1 nor a whole number of steps"
