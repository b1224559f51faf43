"""What a run spends: tokens of each source, steps, disk, hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.data.shards.available import SourceTokens
from jpllm.data.shards.token_shards import token_dtype
from jpllm.planning.memory import checkpoint_bytes, model_bytes
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import ModelSize
from jpllm.training import machine
from jpllm.training.arguments import num_steps
from jpllm.training.config import TrainingConfig

if TYPE_CHECKING:
    from jpllm.data.blocks.blend import SourceUse
    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.data.conversations.layouts import InstructDataConfig
    from jpllm.data.labels.encoding import EncodedSplits
    from jpllm.data.labels.rows import LabelledDataConfig
    from jpllm.training.config import ClassifierTrainingConfig


@dataclass(frozen=True)
class SourceShare:
    """A source's part in a run; None where the size of a source is not known.

    Attributes:
        share: of all training tokens.
        num_tokens: that the run reads.
        epochs: how often it reads the source.
    """

    source: SourceTokens
    share: float | None
    num_tokens: int | None
    epochs: float | None


@dataclass(frozen=True)
class Budget:
    """Tokens and steps of a run.

    Attributes:
        num_tokens: None where the budget is in epochs of sources whose size is not known.
        is_of_rows: rows of conversations or with labels, not texts to learn a language from.
    """

    num_tokens: int | None
    num_steps: int | None
    tokens_per_step: int
    sources: list[SourceShare]
    is_of_rows: bool = False

    @property
    def is_exact(self) -> bool:
        """No number of tokens is an estimate."""
        return all(part.source.is_exact for part in self.sources)


def text_budget(
    training: TrainingConfig,
    available: Sequence[SourceTokens],
    weights: Sequence[float] | None,
    setup: TrainingSetup,
    stops_when_exhausted: bool = False,
) -> Budget:
    """Return how many tokens a run on texts takes, and from where; without weights sources share by size."""
    sizes = [source.num_tokens for source in available]
    known = [size for size in sizes if size is not None]
    per_epoch = sum(known) if len(known) == len(sizes) else None
    wanted = weights or (known if per_epoch else None)
    shares = [weight / sum(wanted) for weight in wanted] if wanted else []
    num_tokens = num_run_steps = None
    if training.tokens or per_epoch:
        num_run_steps = num_steps(training, setup.tokens_per_step, per_epoch or 0)
        if stops_when_exhausted and per_epoch:
            limit = min(size / share for size, share in zip(known, shares, strict=True))
            num_run_steps = min(num_run_steps, int(limit // setup.tokens_per_step))
        num_tokens = num_run_steps * setup.tokens_per_step
    parts = []
    for source, share in zip(available, shares or [None] * len(sizes), strict=True):
        used = None if num_tokens is None or share is None else round(num_tokens * share)
        epochs = used / source.num_tokens if used is not None and source.num_tokens else None
        parts.append(SourceShare(source, share, used, epochs))
    return Budget(num_tokens, num_run_steps, setup.tokens_per_step, parts)


def share_of_use(use: SourceUse, origin: str) -> SourceShare:
    """Return the part of a source whose tokens are counted."""
    available = SourceTokens(use.source, round(use.tokens / use.epochs) if use.epochs else None, True, origin)
    return SourceShare(available, use.achieved_share, use.tokens, use.epochs)


def instruct_budget(
    data: InstructDataConfig, training: TrainingConfig, items: PackedRows | RowsByLength | None, setup: TrainingSetup
) -> Budget:
    """Return what a run on conversations takes; tokens are counted without padding, replayed blocks are full."""
    label = " + ".join(source.label for source in data.sources)
    if items is None:
        return _unknown_budget(label, setup, data.replay)
    mean = (1 - data.replay) * items.total_tokens / items.num_items + data.replay * data.sequence_length
    return _row_budget(label, training, setup, items.total_tokens, mean, items.num_items, data.replay)


def label_budget(
    data: LabelledDataConfig, training: ClassifierTrainingConfig, splits: EncodedSplits | None, setup: TrainingSetup
) -> Budget:
    """Return what the training of a classifier takes; tokens are counted without padding."""
    if splits is None:
        return _unknown_budget(data.train_file.name, setup)
    tokens, num_rows = sum(map(len, splits.train)), len(splits.train)
    return _row_budget(data.train_file.name, training, setup, tokens, tokens / num_rows, num_rows)


def _row_budget(
    label: str,
    training: TrainingConfig,
    setup: TrainingSetup,
    row_tokens: int,
    mean_tokens: float,
    num_items: int,
    replay: float = 0.0,
) -> Budget:
    """Return the budget of steps of items (rows, or blocks of them) of `mean_tokens`; `replay` is a share of them."""
    items_per_step = training.blocks_per_step(setup.num_processes)
    per_step, per_epoch = mean_tokens * items_per_step, mean_tokens * round(num_items / (1 - replay))
    steps = num_steps(training, per_step, per_epoch)
    num_tokens = round(steps * per_step)
    replayed = round(steps * items_per_step * replay) * setup.sequence_length
    share = 1 - replayed / num_tokens
    source = SourceTokens(label, row_tokens, True, "encoded rows")
    parts = [SourceShare(source, share, num_tokens - replayed, num_tokens / per_epoch)]
    if replay:
        parts.append(SourceShare(_replayed_texts(), 1 - share, replayed, None))
    return Budget(num_tokens, steps, round(per_step), parts, is_of_rows=True)


def _unknown_budget(label: str, setup: TrainingSetup, replay: float = 0.0) -> Budget:
    """Return a budget without counts; `replay` is a share of the blocks, of the tokens it depends on the rows."""
    parts = [SourceShare(SourceTokens(label, None, False, "not there yet"), None if replay else 1.0, None, None)]
    if replay:
        parts.append(SourceShare(_replayed_texts(), None, None, None))
    return Budget(None, None, setup.tokens_per_step, parts, is_of_rows=True)


def _replayed_texts() -> SourceTokens:
    return SourceTokens("replayed texts", None, False, "not counted here")


@dataclass(frozen=True)
class DiskNeed:
    """What will be written below a folder; bytes, None where not known."""

    name: str
    folder: Path
    num_bytes: int | None


def disk_needs(
    training: TrainingConfig,
    shards_dir: Path | None,
    spends: Budget,
    size: ModelSize,
    setup: TrainingSetup,
) -> list[DiskNeed]:
    """Return the disk that a run takes: shards that are not there yet, the model, one checkpoint more than are kept.

    `shards_dir` is None where a run has no shards.
    """
    missing = [part.source.num_tokens for part in spends.sources if not part.source.is_exact]
    token_bytes = token_dtype(size.vocab_size).itemsize
    known = [num_tokens for num_tokens in missing if num_tokens is not None]
    shards = sum(known) * token_bytes if len(known) == len(missing) else None
    num_checkpoints = 0
    if training.save_steps:
        most = training.save_total_limit + 1
        written = most if spends.num_steps is None else spends.num_steps // training.save_steps
        num_checkpoints = min(written, most)
    return [
        *([DiskNeed("token shards", shards_dir, shards)] if shards_dir else []),
        *([DiskNeed("kept output", training.output_dir, setup.kept_bytes or None)] if setup.passes_trunk_over else []),
        DiskNeed("checkpoints", training.output_dir, num_checkpoints * checkpoint_bytes(size, setup)),
        DiskNeed("model", training.output_dir, model_bytes(size, setup)),
    ]


def disk_shortages(needs: Sequence[DiskNeed]) -> list[str]:
    """Return a sentence for each disk that lacks room for what is known to be written to it."""
    by_disk: dict[int, list[DiskNeed]] = {}
    for need in needs:
        by_disk.setdefault(machine.disk_of(need.folder), []).append(need)
    lines = []
    for group in by_disk.values():
        needed, free = sum(need.num_bytes or 0 for need in group), machine.free_disk_bytes(group[0].folder)
        if needed > free:
            names = " and ".join(need.name for need in group)
            lines.append(f"{needed / 1e9:.1f} GB of disk for {names}, and {free / 1e9:.1f} GB are free")
    return lines
