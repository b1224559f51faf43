"""Cut blocks of equal length from token shards when they are read, in a shuffled order known in advance.

Position n of the training order is computed, not replayed: a keyed permutation gives the block of each position of
each epoch, so the data of any step is reached at once and a resumed run sees exactly what it would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from jpllm.data.blocks.blend import Blend, SourceUse, source_uses
from jpllm.data.shards.token_shards import TokenShards, own_bos
from jpllm.runtime import InputError

IGNORED_LABEL = -100
_FEISTEL_ROUNDS = 6


class BlockDataset:
    """`num_positions` training blocks in an order that is known in advance.

    Blocks are non-overlapping runs of `sequence_length` tokens of each source, across documents; the rest of a source
    that fills no block is left out. Where documents begin with a BOS, each block begins with one: inside a document it
    stands in place of the first id, which nothing predicts, so that no model reads what it never saw, a text without
    its BOS. Without weights all blocks are shuffled together, each once per epoch. With weights
    the sources take turns by them (`jpllm.data.blocks.blend`), and each is shuffled anew whenever it was read through.

    Item: `{"input_ids": int64 (sequence_length,), "labels": int64 (sequence_length,)}`. The first label is ignored:
    nothing predicts it, and with it out of the count the loss is the mean over predicted tokens for every
    architecture (Trainer counts the targets itself for some and takes all labels for others). Nor is a BOS between
    documents predicted: it is always given. With `isolate_documents`, also `"position_ids"`, which begin at 0 in each
    document of the block.

    Raises:
        InputError: a source that must give blocks holds fewer tokens than one.

    Attributes:
        masked_share: share of the tokens that are hidden, for an objective that fills them in.
    """

    masked_share = 0.0

    def __init__(
        self,
        sources: Sequence[TokenShards],
        sequence_length: int,
        num_positions: int = 0,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        isolate_documents: bool = False,
    ) -> None:
        self.sources, self.sequence_length, self.seed = list(sources), sequence_length, seed
        self.num_positions, self._isolate_documents = num_positions, isolate_documents
        self.blocks_per_source = [source.size.num_tokens // sequence_length for source in self.sources]
        self._first_blocks = np.cumsum([0, *self.blocks_per_source])
        self.num_blocks = int(self._first_blocks[-1])
        self._weights, self.blend = weights, None if weights is None else Blend(weights)
        if self.num_blocks == 0 or (self.blend and not all(self.blocks_per_source)):
            num_tokens = min(source.size.num_tokens for source in self.sources)
            raise InputError(
                f"the training texts{' of one source' if len(self.sources) > 1 else ''} hold {num_tokens:,} tokens, "
                f"fewer than one block: lower sequence_length ({sequence_length:,}) or add text"
            )

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if not 0 <= position < self.num_positions:
            raise IndexError(position)
        source, index = self.block_at(position)
        input_ids = self.block(source, index)
        eos_token_id = self.sources[source].eos_token_id
        bos_token_id = own_bos(self.sources[source].bos_token_id, eos_token_id)
        labels = input_ids.copy()
        labels[0] = IGNORED_LABEL
        if bos_token_id is not None:
            labels[input_ids == bos_token_id] = IGNORED_LABEL
        item = {"input_ids": input_ids, "labels": labels}
        if self._isolate_documents:
            first_token_id = eos_token_id if bos_token_id is None else bos_token_id
            item["position_ids"] = document_positions(input_ids, first_token_id)
        return item

    def block_at(self, position: int) -> tuple[int, int]:
        """Return the source of the block that is trained on at `position`, and its index in the source."""
        if self.blend is None:
            epoch, index = divmod(position, self.num_blocks)
            index = permuted(index, self.num_blocks, key=f"{self.seed}/{epoch}")
            source = int(np.searchsorted(self._first_blocks, index, side="right")) - 1
            return source, index - int(self._first_blocks[source])
        source, nth = self.blend.at(position)
        epoch, index = divmod(nth, self.blocks_per_source[source])
        return source, permuted(index, self.blocks_per_source[source], key=f"{self.seed}/{source}/{epoch}")

    def block(self, source: int, index: int) -> np.ndarray:
        """Return the ids of block `index` of a source in corpus order, int64 (sequence_length,), a BOS first."""
        start, bos_token_id = index * self.sequence_length, self.sources[source].bos_token_id
        input_ids = self.sources[source].tokens(start, start + self.sequence_length)
        if bos_token_id is not None:
            input_ids[0] = bos_token_id
        return input_ids

    @property
    def num_positions_without_repeats(self) -> int:
        """The number of positions before a block comes a second time."""
        if self.blend is None:
            return self.num_blocks
        return self.blend.num_positions_until(self.blocks_per_source)

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever a block at some position would."""
        facts = [
            [source.directory.name for source in self.sources],
            self._weights,
            self.sequence_length,
            self.seed,
            self._isolate_documents,
        ]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    @property
    def shards_hash(self) -> str | None:
        """A hash of the token ids of all sources; None where one of them is not known."""
        hashes = [source.content_hash for source in self.sources]
        return None if None in hashes else hashlib.sha256(repr(hashes).encode()).hexdigest()

    def uses(self) -> list[SourceUse]:
        """Return what the positions take of each source, to the nearest block where all are shuffled together."""
        if self.blend is not None:
            used = self.blend.counts(self.num_positions).tolist()
        else:
            used = [round(self.num_positions * count / self.num_blocks) for count in self.blocks_per_source]
        labels = [source.label for source in self.sources]
        return source_uses(labels, self.blocks_per_source, used, self.sequence_length, self._weights)


def document_positions(input_ids: np.ndarray, first_token_id: int) -> np.ndarray:
    """Return the position of each token in its document, int64 (length,), which begins with `first_token_id`.

    That is the BOS, or where documents have none, the EOS before them. So a document is read as in an evaluation, after
    one of these, and the EOS that ends it is predicted from inside it.
    """
    starts = np.where(input_ids == first_token_id, np.arange(len(input_ids)), 0)
    return np.arange(len(input_ids)) - np.maximum.accumulate(starts)


def permuted(index: int, num_items: int, key: str) -> int:
    """Return where a permutation of range(num_items), chosen by `key`, sends `index`; O(1) time and memory.

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
