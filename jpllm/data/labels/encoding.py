"""Encode labelled rows, order them for training, and pad batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.labels.rows import LabelledRow
from jpllm.data.labels.splits import Splits
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class EncodedRow:
    """A row, or one choice of it, as the model takes it.

    Attributes:
        ids: int32 (tokens,), with the special tokens that the tokenizer adds.
        type_ids: int8 (tokens,), which of two texts each token is of, for tokenizers that say so.
        target: index of the class, or a number.
        number: place among all of them: those of the training first, then validation, then test.
    """

    row: LabelledRow = field(repr=False)
    ids: np.ndarray
    type_ids: np.ndarray | None
    target: int | float
    number: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sequences(self) -> list[EncodedRow]:
        """The one sequence that the model is given for this row."""
        return [self]


@dataclass(frozen=True)
class EncodedChoices:
    """A question with its choices: the model scores each pair of them.

    Attributes:
        sequences: question and choice, in the order of the choices.
        target: index of the right choice.
    """

    row: LabelledRow = field(repr=False)
    sequences: list[EncodedRow]
    target: int

    def __len__(self) -> int:
        """Return the tokens of all sequences together."""
        return sum(map(len, self.sequences))


AnyRow = EncodedRow | EncodedChoices


@dataclass(frozen=True)
class EncodedSplits:
    """The encoded rows of a run.

    Attributes:
        class_names: sorted, or the columns of the choices; None for regression.
        max_tokens: what a sequence may have at most.
        num_cut: rows of each split that were cut.
    """

    train: list[AnyRow]
    validation: list[AnyRow]
    test: list[AnyRow]
    class_names: list[str] | None
    max_tokens: int
    num_cut: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever a row, a label or its split would."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for rows in (self.train, self.validation, self.test):
            digest.update(f"{len(rows)} rows\n".encode())
            for row in sequences_of(rows):
                digest.update(f"{row.target!r} {len(row)}\n".encode())
                digest.update(row.ids.tobytes())
        return digest.hexdigest()

    @property
    def has_choices(self) -> bool:
        """Whether each row is a question with choices."""
        return bool(self.train[0].row.choices)


def encode_splits(splits: Splits, tokenizer: PreTrainedTokenizerFast, max_tokens: int) -> EncodedSplits:
    """Encode all rows, each sequence to at most `max_tokens`.

    Of a pair the longer text is cut first. Raises InputError if a text gives no token.
    """
    parts: dict[str, list[AnyRow]] = {"train": [], "validation": [], "test": []}
    num_cut = {}
    first_number = 0
    for name, rows in splits.named.items():
        parts[name], num_cut[name] = _encode(rows, splits, tokenizer, max_tokens, first_number)
        first_number += len(sequences_of(parts[name]))
    return EncodedSplits(**parts, class_names=splits.class_names, max_tokens=max_tokens, num_cut=num_cut)


def sequences_of(rows: Sequence[AnyRow]) -> list[EncodedRow]:
    """Return what the model is given for these rows: a sequence for each, or for each of its choices."""
    return [sequence for row in rows for sequence in row.sequences]


def padded(any_rows: Sequence[AnyRow], pad_token_id: int, length: int | None = None) -> dict[str, np.ndarray]:
    """Return one batch, int64 (sequences, `length`, or by default the longest one), padded on the right.

    So the default positions, from 0 on, are right for every architecture.
    """
    rows = sequences_of(any_rows)
    shape = len(rows), length or max(map(len, rows))
    batch = {"input_ids": np.full(shape, pad_token_id), "attention_mask": np.zeros(shape, np.int64)}
    if rows[0].type_ids is not None:
        batch["token_type_ids"] = np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        batch["input_ids"][index, : len(row)] = row.ids
        batch["attention_mask"][index, : len(row)] = 1
        if row.type_ids is not None:
            batch["token_type_ids"][index, : len(row)] = row.type_ids
    return batch


def batches_by_length(rows: Sequence[AnyRow], batch_size: int) -> list[list[int]]:
    """Return the indices of the rows of each batch, the longest first, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class LabelledDataset:
    """`num_positions` training rows: each once per epoch, in an order that depends on `seed` and the epoch alone."""

    def __init__(self, rows: Sequence[AnyRow], num_positions: int, seed: int) -> None:
        self.rows, self.num_positions, self._seed = rows, num_positions, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self.num_positions

    def __getitem__(self, position: int) -> AnyRow:
        if not 0 <= position < self.num_positions:
            raise IndexError(position)
        epoch, index = divmod(position, len(self.rows))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        return self.rows[self._order[index]]

    def tokens_until(self, rows_per_step: int) -> np.ndarray:
        """Return the tokens before each step and after the last one, without padding, int64 (steps + 1,)."""
        lengths = np.array([len(row) for row in self.rows], np.int64)
        num_epochs = -(-self.num_positions // len(self.rows))
        tokens = np.concatenate([lengths[self._order_of(epoch)] for epoch in range(num_epochs)])[: self.num_positions]
        return np.cumsum([0, *tokens.reshape(-1, rows_per_step).sum(axis=1)])

    def _order_of(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self.rows))


def _encode(
    rows: Sequence[LabelledRow],
    splits: Splits,
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    first_number: int,
) -> tuple[list[AnyRow], int]:
    """Return the rows, each sequence in at most `max_tokens`, and how many rows were longer."""
    num_choices = len(rows[0].choices)
    row_of = [row for row in rows for _ in range(num_choices or 1)]
    texts = [row.text for row in row_of]
    pairs = [choice for row in rows for choice in row.choices] or [row.pair for row in rows]
    pairs = None if pairs[0] is None else pairs
    whole = tokenizer(texts, pairs, verbose=False)["input_ids"]
    cut = {id(row) for row, ids in zip(row_of, whole, strict=True) if len(ids) > max_tokens}
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_tokens)
    all_type_ids = encoded.get("token_type_ids")
    found: list[AnyRow] = []
    for index, (row, ids) in enumerate(zip(row_of, encoded["input_ids"], strict=True)):
        if not ids:
            raise InputError(f"{row.place}: the tokenizer makes no token of {row.text!r:.40}; remove the row")
        found.append(
            EncodedRow(
                row,
                np.array(ids, np.int32),
                None if all_type_ids is None else np.array(all_type_ids[index], np.int8),
                splits.target(row),
                first_number + index,
            )
        )
    if num_choices:
        starts = range(0, len(found), num_choices)
        found = [
            EncodedChoices(row, sequences_of(found[start : start + num_choices]), int(splits.target(row)))
            for row, start in zip(rows, starts, strict=True)
        ]
    return found, len(cut)
