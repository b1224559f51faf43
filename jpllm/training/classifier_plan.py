"""What the plan of a classifier's training has to know of its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jpllm.data.blocks.blend import SourceUse
from jpllm.data.labels.encoding import EncodedSplits, sequences_of
from jpllm.models.classifier import Trainable
from jpllm.models.learned import Learned

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def longest_sequence(splits: EncodedSplits) -> int:
    """Tokens of the longest sequence: some batch is padded to it."""
    return max(map(len, sequences_of([*splits.train, *splits.validation, *splits.test])))


def way_of_rows(
    model: PretrainedConfig, splits: EncodedSplits, trainable: Trainable, keeps_trunk: bool
) -> dict[str, object]:
    """What `jpllm.training.plan.as_written` has to be told beside the length.

    `keeps_trunk` says that the output of the frozen layers is kept, if there are some.
    """
    num_kept_tokens = sum(map(len, sequences_of([*splits.train, *splits.validation]))) if keeps_trunk else 0
    return {
        "learned": Learned(classifier=trainable),
        "sequences_per_row": len(splits.train[0].sequences),
        "keeps_trunk": keeps_trunk,
        # of the file, see `jpllm.models.trunk.KeptStates`
        "kept_bytes": 4 * num_kept_tokens * model.get_text_config().hidden_size,
    }


def uses_of_rows(splits: EncodedSplits, num_tokens: int) -> list[SourceUse]:
    """The training rows as the one source of the run."""
    epochs = num_tokens / sum(map(len, splits.train))
    return [SourceUse("training rows", 1.0, 1.0, num_tokens, epochs, 0)]
