"""What a run spends: tokens of each source, steps, disk, hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm.data.available import SourceTokens
from jpllm.data.shards import token_dtype
from jpllm.models.estimate import checkpoint_bytes
from jpllm.models.scheme import Scheme
from jpllm.models.size import ModelSize
from jpllm.training import machine
from jpllm.training.arguments import num_steps
from jpllm.training.config import TrainingConfig


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


def budget(
    training: TrainingConfig,
    available: Sequence[SourceTokens],
    weights: Sequence[float] | None,
    scheme: Scheme,
    stops_when_exhausted: bool = False,
) -> Budget:
    """How many tokens a run takes, and from where. Without weights sources share by size."""
    sizes = [source.num_tokens for source in available]
    per_epoch = None if None in sizes else sum(sizes)
    wanted = weights or (sizes if per_epoch else None)
    shares = [weight / sum(wanted) for weight in wanted] if wanted else [None] * len(sizes)
    num_tokens = num_run_steps = None
    if training.tokens or per_epoch:
        num_run_steps = num_steps(training, scheme.tokens_per_step, per_epoch or 0)
        if stops_when_exhausted and per_epoch:
            limit = min(size / share for size, share in zip(sizes, shares, strict=True))
            num_run_steps = min(num_run_steps, int(limit // scheme.tokens_per_step))
        num_tokens = num_run_steps * scheme.tokens_per_step
    parts = []
    for source, share in zip(available, shares, strict=True):
        used = None if num_tokens is None or share is None else round(num_tokens * share)
        epochs = used / source.num_tokens if used is not None and source.num_tokens else None
        parts.append(SourceShare(source, share, used, epochs))
    return Budget(num_tokens, num_run_steps, scheme.tokens_per_step, parts)


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
    scheme: Scheme,
) -> list[DiskNeed]:
    """Shards that are not there yet, checkpoints and the model. A checkpoint is written before an older one goes.

    `shards_dir` is None where a run has no shards.
    """
    missing = [part.source.num_tokens for part in spends.sources if not part.source.is_exact]
    token_bytes = token_dtype(size.vocab_size).itemsize
    shards = None if None in missing else sum(missing) * token_bytes
    num_checkpoints = 0
    if training.save_steps:
        most = training.save_total_limit + 1
        written = most if spends.num_steps is None else spends.num_steps // training.save_steps
        num_checkpoints = min(written, most)
    return [
        *([DiskNeed("token shards", shards_dir, shards)] if shards_dir else []),
        *(
            [DiskNeed("kept output", training.output_dir, scheme.kept_bytes or None)]
            if scheme.passes_trunk_over
            else []
        ),
        DiskNeed("checkpoints", training.output_dir, num_checkpoints * checkpoint_bytes(size, scheme)),
        DiskNeed("model", training.output_dir, size.num_saved * scheme.saved_bytes),
    ]


def disk_shortages(needs: Sequence[DiskNeed]) -> list[str]:
    """A sentence for each disk that lacks room for what is known to be written to it."""
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
