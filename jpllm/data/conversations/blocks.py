"""Order instruction rows for training: packed into blocks, or batched by length; each position is known in advance."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jpllm.data.blocks.blend import Blend, SourceUse
from jpllm.data.blocks.dataset import IGNORED_LABEL, BlockDataset, permuted
from jpllm.data.conversations.rows import Row
from jpllm.runtime import InputError

_STEPS_SORTED_TOGETHER = 50


class PackedRows:
    """Blocks of whole rows, each row seeing itself alone; blocks are shuffled anew in each epoch.

    Item: `{"input_ids", "labels", "position_ids"}`, int64 (sequence_length,). Positions begin at 0 in each row; what is
    left of a block is filled, with a row of its own without labels.

    Attributes:
        num_items: blocks of an epoch.
        total_tokens: tokens of an epoch, without padding.
    """

    def __init__(self, rows: Sequence[Row], sequence_length: int, filler_token_id: int, seed: int = 0) -> None:
        self._rows, self.sequence_length, self._filler, self._seed = rows, sequence_length, filler_token_id, seed
        self._blocks = pack_rows([len(row) for row in rows], sequence_length)
        self.num_items, self.total_tokens = len(self._blocks), sum(map(len, rows))

    @property
    def fingerprint(self) -> str:
        """Changes whenever a block at some position would."""
        return _fingerprint(self._rows, "packed", self.sequence_length, self._seed)

    def item(self, nth: int) -> dict[str, np.ndarray]:
        """Return the block that comes `nth`, counted through all epochs."""
        rows = [self._rows[index] for index in self._blocks[_shuffled(nth, self.num_items, self._seed)]]
        rest = self.sequence_length - sum(map(len, rows))
        pieces = {
            "input_ids": [row.ids for row in rows] + [np.full(rest, self._filler)],
            "labels": [row.labels for row in rows] + [np.full(rest, IGNORED_LABEL)],
            "position_ids": [np.arange(len(row)) for row in rows] + [np.arange(rest)],
        }
        return {name: np.concatenate(parts).astype(np.int64) for name, parts in pieces.items()}

    def num_tokens(self, nth: int) -> int:
        """Return the tokens of the block that comes `nth`, without padding."""
        return sum(len(self._rows[index]) for index in self._blocks[_shuffled(nth, self.num_items, self._seed)])


class RowsByLength:
    """Rows, in steps of rows of about the same length; the steps are shuffled anew in each epoch.

    Item: `{"input_ids", "labels"}`, int64 (tokens,); `padded` makes a batch of them.

    Attributes:
        num_items: rows of an epoch.
        total_tokens: tokens of an epoch.
    """

    def __init__(self, rows: Sequence[Row], rows_per_step: int, seed: int = 0) -> None:
        self._rows, self._rows_per_step, self._seed = rows, rows_per_step, seed
        self.num_items, self.total_tokens = len(rows), sum(map(len, rows))
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def fingerprint(self) -> str:
        """Changes whenever a row at some position would."""
        return _fingerprint(self._rows, "by_length", self._rows_per_step, self._seed)

    def item(self, nth: int) -> dict[str, np.ndarray]:
        """Return the row that comes `nth`, counted through all epochs."""
        row = self._row(nth)
        return {"input_ids": row.ids.astype(np.int64), "labels": row.labels}

    def num_tokens(self, nth: int) -> int:
        """Return the tokens of the row that comes `nth`."""
        return len(self._row(nth))

    def _row(self, nth: int) -> Row:
        epoch, index = divmod(nth, self.num_items)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        return self._rows[self._order[index]]

    def _order_of(self, epoch: int) -> np.ndarray:
        rng = _random(self._seed, epoch)
        lengths = np.array([len(row) for row in self._rows])
        order = rng.permutation(self.num_items)
        together = self._rows_per_step * _STEPS_SORTED_TOGETHER
        steps: list[np.ndarray] = []
        for start in range(0, self.num_items, together):
            chunk = order[start : start + together]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            found = [chunk[at : at + self._rows_per_step] for at in range(0, len(chunk), self._rows_per_step)]
            whole = [step for step in found if len(step) == self._rows_per_step]
            steps += [whole[index] for index in rng.permutation(len(whole))]
            steps += [step for step in found if len(step) < self._rows_per_step]  # the last of an epoch
        return np.concatenate(steps)


class InstructDataset:
    """Positions of a run: instruction items, with blocks of plain text in between where there is `replay`.

    Attributes:
        num_positions: set it to what the run takes.
        items_per_epoch: positions until each row was seen once.
    """

    masked_share = 0.0

    def __init__(
        self, items: PackedRows | RowsByLength, replay_blocks: BlockDataset | None = None, replay: float = 0.0
    ) -> None:
        self._items, self._replay = items, replay
        self._replayed: tuple[Blend, BlockDataset] | None = None
        if replay:
            if replay_blocks is None:
                raise ValueError("a share is replayed, and there are no blocks of it")
            self._replayed = Blend([1 - replay, replay]), replay_blocks
        self.num_positions = 0
        self.items_per_epoch = round(items.num_items / (1 - replay))

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if not 0 <= position < self.num_positions:
            raise IndexError(position)
        blocks, nth = self._at(position)
        if blocks is None:
            return self._items.item(nth)
        blocks.num_positions = nth + 1
        return blocks[nth]

    def _at(self, position: int) -> tuple[BlockDataset | None, int]:
        """Return the replayed blocks, or None for the rows, and which of their items stands at a position."""
        if self._replayed is None:
            return None, position
        blend, blocks = self._replayed
        source, nth = blend.at(position)
        return (blocks if source else None), nth

    @property
    def mean_tokens(self) -> float:
        """Tokens of a position without padding, on average over an epoch."""
        if self._replayed is None:
            return self._items.total_tokens / self._items.num_items
        blend, blocks = self._replayed
        replay = blend.shares[1]
        return (1 - replay) * self._items.total_tokens / self._items.num_items + replay * blocks.sequence_length

    def num_tokens(self, position: int) -> int:
        """Return the tokens at a position, without padding."""
        blocks, nth = self._at(position)
        return self._items.num_tokens(nth) if blocks is None else blocks.sequence_length

    def tokens_until(self, positions_per_step: int) -> np.ndarray:
        """Return the tokens before each step and after the last one, int64 (steps + 1,)."""
        tokens = np.array([self.num_tokens(position) for position in range(self.num_positions)], np.int64)
        return np.cumsum([0, *tokens.reshape(-1, positions_per_step).sum(axis=1)])

    def uses(self, label: str, num_tokens: int) -> list[SourceUse]:
        """Return what the positions, of `num_tokens` tokens, take of the rows, called `label`, and of replayed sources.

        What is asked for is a share of the blocks; those of rows are not always full.
        """
        of_rows, row_tokens, uses = self.num_positions, num_tokens, []
        if self._replayed is not None:
            blend, blocks = self._replayed
            of_rows, replayed = blend.counts(self.num_positions).tolist()
            if replayed:
                blocks.num_positions = replayed
                uses, row_tokens = blocks.uses(), num_tokens - replayed * blocks.sequence_length
        rows = SourceUse(
            label,
            requested_share=1 - self._replay,
            achieved_share=row_tokens / num_tokens,
            tokens=row_tokens,
            epochs=of_rows / self._items.num_items,
            tokens_left=max(self._items.total_tokens - row_tokens, 0),
        )
        shares = ((self._replay * use.requested_share, use.tokens / num_tokens) for use in uses)
        return [
            rows,
            *(
                replace(use, requested_share=asked, achieved_share=achieved)
                for use, (asked, achieved) in zip(uses, shares, strict=True)
            ),
        ]


def pack_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return the rows of each block: the longest row first, each into the fullest block that has room (best fit).

    Raises:
        InputError: a row is longer than a block.
    """
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room left, block), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise InputError(f"a row has {length:,} tokens, and sequence_length is {capacity:,}")
        at = bisect.bisect_left(rooms, (length, -1))
        if at < len(rooms):
            room, block = rooms.pop(at)
        else:
            room, block = capacity, len(blocks)
            blocks.append([])
        blocks[block].append(index)
        bisect.insort(rooms, (room - length, block))
    return blocks


def padded(
    items: Sequence[dict[str, np.ndarray]], pad_token_id: int, padding_side: str = "right"
) -> dict[str, np.ndarray]:
    """Return one batch, int64 (items, longest), with `attention_mask`, and positions that begin at 0 in each row."""
    longest = max(len(item["input_ids"]) for item in items)
    shape = len(items), longest
    batch = {
        "input_ids": np.full(shape, pad_token_id),
        "labels": np.full(shape, IGNORED_LABEL),
        "attention_mask": np.zeros(shape, np.int64),
        "position_ids": np.zeros(shape, np.int64),
    }
    for index, item in enumerate(items):
        length = len(item["input_ids"])
        where = slice(0, length) if padding_side == "right" else slice(longest - length, longest)
        batch["input_ids"][index, where], batch["labels"][index, where] = item["input_ids"], item["labels"]
        batch["attention_mask"][index, where], batch["position_ids"][index, where] = 1, np.arange(length)
    return {name: values.astype(np.int64) for name, values in batch.items()}


def _fingerprint(rows: Sequence[Row], *facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for row in rows:
        digest.update(row.ids.tobytes())
        digest.update(row.learned.tobytes())
    return digest.hexdigest()


def _shuffled(nth: int, num_items: int, seed: int) -> int:
    epoch, index = divmod(nth, num_items)
    return permuted(index, num_items, key=f"{seed}/{epoch}")


def _random(seed: int, epoch: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
