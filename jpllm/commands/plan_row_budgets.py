"""What runs on rows spend: tokens and steps, of rows that are encoded or not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jpllm.data.instruct import InstructDataConfig
from jpllm.data.labels import LabelledDataConfig
from jpllm.training.arguments import num_steps
from jpllm.training.config import ClassifierTrainingConfig, TrainingConfig

if TYPE_CHECKING:
    from jpllm.data.available import SourceTokens
    from jpllm.data.instruct_blocks import PackedRows, RowsByLength
    from jpllm.data.label_rows import EncodedSplits
    from jpllm.models.scheme import Scheme
    from jpllm.training.budget import Budget


def instruct_budget(
    data: InstructDataConfig, training: TrainingConfig, items: PackedRows | RowsByLength | None, scheme: Scheme
) -> Budget:
    """Tokens are counted without padding; replayed blocks are full."""
    label = " + ".join(source.label for source in data.sources)
    if items is None:
        return _unknown_budget(label, scheme, data.replay)
    mean = (1 - data.replay) * items.total_tokens / items.num_items + data.replay * data.sequence_length
    return _row_budget(label, training, scheme, items.total_tokens, mean, items.num_items, data.replay)


def label_budget(
    data: LabelledDataConfig, training: ClassifierTrainingConfig, splits: EncodedSplits | None, scheme: Scheme
) -> Budget:
    """Tokens are counted without padding."""
    if splits is None:
        return _unknown_budget(data.train_file.name, scheme)
    tokens, num_rows = sum(map(len, splits.train)), len(splits.train)
    return _row_budget(data.train_file.name, training, scheme, tokens, tokens / num_rows, num_rows)


def _row_budget(
    label: str,
    training: TrainingConfig,
    scheme: Scheme,
    row_tokens: int,
    mean_tokens: float,
    num_items: int,
    replay: float = 0.0,
) -> Budget:
    """Steps of so many items (rows, or blocks of them) of `mean_tokens`, of which `replay` is a share."""
    from jpllm.data.available import SourceTokens
    from jpllm.training.budget import Budget, SourceShare

    items_per_step = training.blocks_per_step(scheme.num_processes)
    per_step, per_epoch = mean_tokens * items_per_step, mean_tokens * round(num_items / (1 - replay))
    steps = num_steps(training, per_step, per_epoch)
    num_tokens = round(steps * per_step)
    replayed = round(steps * items_per_step * replay) * scheme.sequence_length
    share = 1 - replayed / num_tokens
    source = SourceTokens(label, row_tokens, True, "encoded rows")
    parts = [SourceShare(source, share, num_tokens - replayed, num_tokens / per_epoch)]
    if replay:
        parts.append(SourceShare(_replayed_texts(), 1 - share, replayed, None))
    return Budget(num_tokens, steps, round(per_step), parts, is_of_rows=True)


def _unknown_budget(label: str, scheme: Scheme, replay: float = 0.0) -> Budget:
    """`replay` is a share of the blocks; what it is of the tokens depends on the rows."""
    from jpllm.data.available import SourceTokens
    from jpllm.training.budget import Budget, SourceShare

    parts = [SourceShare(SourceTokens(label, None, False, "not there yet"), None if replay else 1.0, None, None)]
    if replay:
        parts.append(SourceShare(_replayed_texts(), None, None, None))
    return Budget(None, None, scheme.tokens_per_step, parts, is_of_rows=True)


def _replayed_texts() -> SourceTokens:
    from jpllm.data.available import SourceTokens

    return SourceTokens("replayed texts", None, False, "not counted here")
