"""Blend sources by token: which source comes at which position, known without counting up to it.

Blocks all have the same length, so a source's share of the positions is its share of the tokens. The weights become
whole numbers of slots in a cycle of `CYCLE_SLOTS` positions, the slots of each source spread evenly over it; the cycle
repeats for ever. A table of the cycle gives the source of position n and how many blocks of it came before, at once and
in the same memory for ten blocks or 10⁹.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CYCLE_SLOTS = 1 << 16


class Blend:
    """The order in which sources take turns.

    Args:
        weights: positive, one per source; their sum does not matter.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._slots = slots_per_cycle(weights)
        # The j-th of a source's c slots wants to stand at (j + ½)/c of the cycle: sorted by that wish, the sources
        # interleave evenly, and in any window no source is more than a few blocks off its share.
        wishes = np.concatenate([(np.arange(count) + 0.5) / count for count in self._slots])
        owners = np.repeat(np.arange(len(self._slots), dtype=np.uint16), self._slots)
        order = np.argsort(wishes, kind="stable")
        self._source_at = owners[order]
        starts = np.cumsum([0, *self._slots[:-1]])
        self._nth_at = (order - starts[self._source_at]).astype(np.uint32)

    @property
    def shares(self) -> np.ndarray:
        """Share of the tokens that each source gets in a whole cycle, float64 (sources,)."""
        return self._slots / CYCLE_SLOTS

    def at(self, position: int) -> tuple[int, int]:
        """Return the source of a position, and how many positions before it belong to the same source."""
        cycle, slot = divmod(position, CYCLE_SLOTS)
        source = int(self._source_at[slot])
        return source, cycle * int(self._slots[source]) + int(self._nth_at[slot])

    def counts(self, num_positions: int) -> np.ndarray:
        """Return the positions of each source among the first `num_positions`, int64 (sources,)."""
        cycles, slots = divmod(num_positions, CYCLE_SLOTS)
        return cycles * self._slots + np.bincount(self._source_at[:slots], minlength=len(self._slots))

    def num_positions_until(self, num_blocks: Sequence[int]) -> int:
        """Return the first position at which some source would need more than its `num_blocks`."""
        firsts = []
        for source, limit in enumerate(num_blocks):
            cycles, rest = divmod(limit, int(self._slots[source]))
            firsts.append(cycles * CYCLE_SLOTS + int(np.flatnonzero(self._source_at == source)[rest]))
        return min(firsts)


def slots_per_cycle(weights: Sequence[float]) -> np.ndarray:
    """Return the slots of each source in a cycle, int64 (sources,), at least one each; largest remainders go up.

    Raises:
        ValueError: a weight is not positive, or one is too small for a slot.
    """
    shares = np.asarray(weights, dtype=np.float64)
    if not (shares > 0).all() or not np.isfinite(shares).all():
        raise ValueError(f"weights must be positive numbers, not {list(weights)}")
    exact = shares / shares.sum() * CYCLE_SLOTS
    if exact.min() < 1:
        raise ValueError(f"the smallest weight is less than 1/{CYCLE_SLOTS:,} of all; raise it or leave the source out")
    slots = np.floor(exact).astype(np.int64)
    missing = CYCLE_SLOTS - int(slots.sum())
    slots[np.argsort(slots - exact, kind="stable")[:missing]] += 1
    return slots


@dataclass(frozen=True)
class SourceUse:
    """What a run takes from a source.

    Attributes:
        requested_share: share of the tokens by the weights, or by size where there are none.
        achieved_share: share of the tokens that the run really takes.
        epochs: passes over the source's blocks.
        tokens_left: tokens of the source that the run does not reach.
    """

    source: str
    requested_share: float
    achieved_share: float
    tokens: int
    epochs: float
    tokens_left: int


def source_uses(
    labels: Sequence[str],
    num_blocks: Sequence[int],
    used_blocks: Sequence[int],
    sequence_length: int,
    weights: Sequence[float] | None,
) -> list[SourceUse]:
    """Return what `used_blocks` of `num_blocks` blocks per source mean in shares, tokens and epochs."""
    wanted = weights or num_blocks
    return [
        SourceUse(
            label,
            requested_share=weight / sum(wanted),
            achieved_share=used / max(sum(used_blocks), 1),
            tokens=used * sequence_length,
            epochs=used / available,
            tokens_left=max(available - used, 0) * sequence_length,
        )
        for label, available, used, weight in zip(labels, num_blocks, used_blocks, wanted, strict=True)
    ]


def table(uses: Sequence[SourceUse]) -> str:
    """Return a line for each source: share asked for and achieved, tokens, epochs, tokens left."""
    width = max(len(use.source) for use in uses)
    return "\n".join(
        f"  {use.source:<{width}}  asked {use.requested_share:7.2%}  gets {use.achieved_share:7.2%}  "
        f"{use.tokens:>15,} tokens  {use.epochs:6.2f} epochs  {use.tokens_left:>15,} tokens left"
        for use in uses
    )
