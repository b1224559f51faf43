"""Blocks of equal length, cut from token shards when they are read, in a shuffled order known in advance.

Position n of the training order is computed, not replayed: a keyed permutation gives the block of each position of
each epoch, so the data of any step is reached at once and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jpllm.data.shards import TokenShards
from jpllm.runtime import InputError

IGNORED_LABEL = -100
_FEISTEL_ROUNDS = 6


class BlockDataset:
    """`num_positions` training blocks in shuffled order, each block once per epoch.

    Blocks are non-overlapping runs of `sequence_length` tokens of each source, across documents; the rest of a source
    that fills no block is left out.

    Item: `{"input_ids": int64 (sequence_length,), "labels": int64 (sequence_length,)}`. The first label is ignored:
    nothing predicts it, and with it out of the count the loss is the mean over predicted tokens for every
    architecture (Trainer counts the targets itself for some and takes all labels for others).

    Raises:
        InputError: the sources together hold fewer tokens than one block.
    """

    def __init__(self, sources: Sequence[TokenShards], sequence_length: int, num_positions: int = 0, seed: int = 0):
        self.sources, self.sequence_length, self.seed = list(sources), sequence_length, seed
        self._first_blocks = np.cumsum([0, *(source.size.num_tokens // sequence_length for source in self.sources)])
        self.num_blocks = int(self._first_blocks[-1])
        self.num_positions = num_positions
        if self.num_blocks == 0:
            num_tokens = sum(source.size.num_tokens for source in self.sources)
            raise InputError(
                f"the training texts hold {num_tokens:,} tokens, fewer than one block: "
                f"lower sequence_length ({sequence_length:,}) or add text"
            )

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if not 0 <= position < self.num_positions:
            raise IndexError(position)
        input_ids = self.block(self.block_at(position))
        labels = input_ids.copy()
        labels[0] = IGNORED_LABEL
        return {"input_ids": input_ids, "labels": labels}

    def block_at(self, position: int) -> int:
        """Index of the block that is trained on at `position`."""
        epoch, index = divmod(position, self.num_blocks)
        return permuted(index, self.num_blocks, key=f"{self.seed}/{epoch}")

    def block(self, index: int) -> np.ndarray:
        """Ids of block `index` in corpus order, int64 (sequence_length,)."""
        source = int(np.searchsorted(self._first_blocks, index, side="right")) - 1
        start = (index - int(self._first_blocks[source])) * self.sequence_length
        return self.sources[source].tokens(start, start + self.sequence_length)


def permuted(index: int, num_items: int, key: str) -> int:
    """Where a permutation of range(num_items), chosen by `key`, sends `index`; O(1) time and memory.

    A Feistel network over the next even number of bits, repeated until the result is in range (cycle walking: Black
    and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Fewer than four passes are expected.
    """
    half_bits = max(1, ((num_items - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(_FEISTEL_ROUNDS):
            digest = hashlib.blake2b(f"{key}/{round_number}/{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        index = left << half_bits | right
        if index < num_items:
            return index
