"""Encoded rows: what is cut, how a batch is padded, and an order of training that is known in advance."""

import numpy as np
import pytest

from jpllm.data.labels.encoding import (
    EncodedRow,
    LabelledDataset,
    batches_by_length,
    encode_splits,
    padded,
    sequences_of,
)
from jpllm.data.labels.rows import LabelledRow
from jpllm.data.labels.splits import Splits
from jpllm.runtime import InputError


def character_tokenizer(texts, pairs=None, truncation=False, max_length=None, verbose=True):
    """One id per character; spaces give none. Of a pair each character of the second has type 1."""
    pairs = pairs or [""] * len(texts)
    ids = [[ord(c) for c in text + pair if c != " "] for text, pair in zip(texts, pairs, strict=True)]
    types = [[0] * len(text) + [1] * len(pair) for text, pair in zip(texts, pairs, strict=True)]
    if truncation:
        ids, types = ([row[:max_length] for row in rows] for rows in (ids, types))
    return {"input_ids": ids, "token_type_ids": types}


def labelled(*texts, pair=None):
    return [LabelledRow(f"f:{n}", text, pair, "ab"[n % 2]) for n, text in enumerate(texts)]


def encoded(*lengths):
    row = labelled("x")[0]
    return [EncodedRow(row, np.arange(1, n + 1, dtype=np.int32), None, 0, i) for i, n in enumerate(lengths)]


def test_rows_of_every_split_are_cut_at_the_same_length():
    """Rows to evaluate on may be longer than those that are trained on."""
    splits = Splits(labelled("abc", "abcdefgh"), labelled("abcdefg"), labelled("a", "ab"), ["a", "b"])
    rows = encode_splits(splits, character_tokenizer, max_tokens=5)
    assert [len(row) for part in (rows.train, rows.validation, rows.test) for row in part] == [3, 5, 5, 1, 2]
    assert (rows.max_tokens, rows.num_cut) == (5, {"train": 1, "validation": 1, "test": 0})
    assert [row.number for part in (rows.train, rows.validation, rows.test) for row in part] == [0, 1, 2, 3, 4]
    assert [row.target for row in rows.train] == [0, 1]
    short = encode_splits(splits, character_tokenizer, max_tokens=100)
    assert (short.max_tokens, short.num_cut["validation"]) == (100, 0)
    few = encode_splits(Splits(labelled("ab", "c"), labelled("abcdefg"), [], ["a", "b"]), character_tokenizer, 5)
    assert ([len(row) for row in few.validation], few.num_cut) == ([5], {"train": 0, "validation": 1})


def questions(*choices, label=0):
    return [LabelledRow(f"f:{n}", f"q{n}", None, label, own) for n, own in enumerate(choices)]


def test_a_question_is_a_pair_with_each_of_its_choices():
    parts = questions(("a", "bcd"), ("ef", "g")), questions(("hijklm", "n")), questions(("o", "p"), label=1)
    rows = encode_splits(Splits(*parts, ["x", "y"]), character_tokenizer, max_tokens=6)
    first, second = rows.train
    assert [sequence.ids.tolist() for sequence in first.sequences] == [list(map(ord, "q0a")), list(map(ord, "q0bcd"))]
    assert (len(first), len(second), first.row, rows.test[0].target) == (8, 7, parts[0][0], 1)
    numbers = [one.number for one in sequences_of([*rows.train, *rows.validation, *rows.test])]
    assert numbers == list(range(8))
    assert (rows.max_tokens, rows.num_cut, rows.has_choices) == (6, {"train": 0, "validation": 1, "test": 0}, True)
    assert [len(one) for one in rows.validation[0].sequences] == [6, 3]
    batch = padded(rows.train, pad_token_id=9)
    assert batch["input_ids"].shape == (4, 5)
    assert batch["input_ids"][3].tolist() == [ord("q"), ord("1"), ord("g"), 9, 9]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_fingerprint_follows_choices_and_their_order():
    def fingerprint(*choices, label=0):
        return encode_splits(Splits(questions(choices, label=label), [], [], ["x", "y"]), character_tokenizer, 9)

    found = [fingerprint("a", "bc"), fingerprint("bc", "a"), fingerprint("ab", "c"), fingerprint("a", "bc", label=1)]
    assert len({one.fingerprint for one in found}) == 4


def test_fingerprint_follows_texts_labels_and_splits():
    def fingerprint(*parts):
        return encode_splits(Splits(*parts, ["a", "b"]), character_tokenizer, 9).fingerprint

    first, second = labelled("abc", "abd")
    other = LabelledRow(second.place, second.text, None, "a")
    values = {
        fingerprint([first, second], [first], []),
        fingerprint([first, other], [first], []),
        fingerprint([first, second], [second], []),
        fingerprint([first], [second, first], []),
    }
    assert len(values) == 4
    assert fingerprint([first], [second], []) == fingerprint([first], [second], [])


def test_a_text_without_tokens_is_refused():
    with pytest.raises(InputError, match=r"f:1: the tokenizer makes no token of '   '; remove the row"):
        encode_splits(Splits(labelled("a", "   "), [], [], ["a", "b"]), character_tokenizer, 9)


def test_padding_is_on_the_right():
    batch = padded(encoded(3, 1), pad_token_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [1, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert padded(encoded(3, 1), 9, length=5)["input_ids"].shape == (2, 5)


def test_types_of_a_pair_are_padded_with_zero():
    splits = Splits(labelled("ab", "a", pair="c"), [], [], ["a", "b"])
    batch = padded(encode_splits(splits, character_tokenizer, 9).train, 0)
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_batches_by_length_hold_each_row_once():
    assert batches_by_length(encoded(2, 7, 7, 1, 5), 2) == [[1, 2], [4, 0], [3]]


def test_the_order_is_known_in_advance_and_new_in_each_epoch():
    rows = encoded(*range(1, 8))
    dataset = LabelledDataset(rows, num_positions=14, seed=3)
    numbers = [dataset[position].number for position in range(14)]
    assert sorted(numbers[:7]) == sorted(numbers[7:]) == list(range(7))
    assert numbers[:7] != numbers[7:]
    assert [LabelledDataset(rows, 14, 3)[position].number for position in (13, 5)] == [numbers[13], numbers[5]]
    assert [LabelledDataset(rows, 14, 4)[position].number for position in range(14)] != numbers
    tokens = [number + 1 for number in numbers]
    assert dataset.tokens_until(2).tolist() == [sum(tokens[: 2 * step]) for step in range(8)]
    with pytest.raises(IndexError):
        dataset[14]
