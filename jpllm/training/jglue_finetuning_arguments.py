"""The keys of the part jglue_finetuned of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from jpllm.config import option
from jpllm.models.classifier import Trainable

FinetuneTask = Literal["jnli", "jsts", "jcommonsenseqa", "marc_ja", "jcola"]


@dataclass
class FinetuneConfig:
    """Fine-tuning, for the part jglue_finetuned"""

    finetune_tasks: list[FinetuneTask] | None = option(
        None, "Tasks to fine-tune on; by default those whose training files are in jglue_dir."
    )
    finetune_learning_rates: list[float] = option(
        default_factory=lambda: [2e-5, 5e-5],
        help="Peak learning rates; the one that is best on held-out training rows is reported.",
        above=0,
    )
    finetune_seeds: list[int] = option(
        default_factory=lambda: [0, 1, 2], help="Seeds of head, order and dropout; a run for each of them.", minimum=0
    )
    finetune_epochs: float = option(4.0, "Passes over the training rows.", above=0)
    finetune_batch_size: int = option(32, "Rows that a step learns from; a question counts as one.", minimum=1)
    finetune_gradient_accumulation_steps: int = option(
        1, "Forward passes that share the rows of a step: the same step in less memory.", minimum=1
    )
    finetune_activation_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )
    finetune_optimizer: Literal["adamw", "adamw_8bit"] = option(
        "adamw", "adamw_8bit keeps AdamW's moments in a quarter of the memory (GPU)."
    )
    finetune_trainable: Trainable = option("all", "What learns: all, or the head with or without the last layer.")
    finetune_max_train_rows: int | None = option(
        None, "Train on so many of the rows, chosen by chance: for a quick try.", minimum=1
    )
    finetune_split_validation: bool = option(
        False,
        "Where a training file is absent, cut the validation file into training, held-out and test rows (7 : 1 : 2).",
    )
    finetune_keep_models: bool = option(False, "Keep the model of each run beside its figures and predictions.")

    def check(self) -> Iterator[tuple[str, str]]:
        """At least one run, and none twice; forward passes of equally many rows."""
        for key in ("finetune_tasks", "finetune_learning_rates", "finetune_seeds"):
            values = getattr(self, key)
            if values is not None and (not values or len(set(values)) < len(values)):
                yield key, f"{values}: name at least one, and each once"
        rows, passes = self.finetune_batch_size, self.finetune_gradient_accumulation_steps
        if rows % passes:
            yield (
                "finetune_gradient_accumulation_steps",
                f"{passes} passes cannot share the {rows} rows of finetune_batch_size equally; name a divisor",
            )
