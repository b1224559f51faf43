"""The plan of a classifier's training: what has to be known of its rows."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jpllm.data.label_rows import EncodedSplits, sequences_of
from jpllm.data.mix import SourceUse
from jpllm.models.classifier import Trainable
from jpllm.models.learned import Learned
from jpllm.training import engine, out_of_memory, run_plan
from jpllm.training.arguments import TrainingConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class ClassifierPlan:
    """A run on these rows.

    Attributes:
        keeps_trunk: the output of the frozen layers is kept, if there are some.
    """

    model: PretrainedConfig
    training: TrainingConfig
    splits: EncodedSplits
    trainable: Trainable
    keeps_trunk: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: some batch is padded to it."""
        return max(map(len, sequences_of([*self.splits.train, *self.splits.validation, *self.splits.test])))

    @property
    def way(self) -> dict[str, object]:
        """What `jpllm.training.plan.as_written` has to be told beside the length."""
        return {
            "learned": Learned(classifier=self.trainable),
            "sequences_per_row": len(self.splits.train[0].sequences),
            "keeps_trunk": self.keeps_trunk,
            "kept_bytes": self._kept_bytes,
        }

    @property
    def _kept_bytes(self) -> int:
        """Size of the file with the kept output, see `jpllm.models.trunk.KeptStates`."""
        if not self.keeps_trunk:
            return 0
        num_tokens = sum(map(len, sequences_of([*self.splits.train, *self.splits.validation])))
        return 4 * num_tokens * self.model.get_text_config().hidden_size

    def write(self, num_tokens: int, num_steps: int) -> None:
        """Write it into the run folder."""
        epochs = num_tokens / sum(map(len, self.splits.train))
        uses = [SourceUse("training rows", 1.0, 1.0, num_tokens, epochs, 0)]
        run_plan.write(
            *(self.model, self.training, self.longest, engine.requested(), uses, num_tokens, num_steps), **self.way
        )

    def explained(self) -> AbstractContextManager[None]:
        """See `jpllm.training.out_of_memory.explained`."""
        return out_of_memory.explained(self.model, self.training, self.longest, engine.requested(), **self.way)
