"""Which tokens are hidden, and what stands in their place: exactly these, at every position, in any order."""

from itertools import pairwise

import numpy as np
import pytest

from jpllm.data.blocks.dataset import IGNORED_LABEL, BlockDataset
from jpllm.data.blocks.masking import MaskedBlocks, Masking

EOS, MASK = 0, 1
TEXTS = ["国際", "連合", "安全", "保障", "の", "していた", "カード", "は", " the", "y", "。", "12", "345"]
TEXTS += ["食べる", " "]
PIECES = {index: text.encode() for index, text in enumerate(TEXTS, start=2)}
PIECES |= {20: b"\xe5", 21: b"\x9b", 22: b"\xbd"}
ID = {text: index for index, text in enumerate(TEXTS, start=2)}
NUM_IDS = 23
LENGTH = 64


class Tokens:
    """A stand-in for token shards: an EOS now and then, every other id in between."""

    eos_token_id, bos_token_id = EOS, None

    def __init__(self, num_tokens: int) -> None:
        ordinary = np.array(sorted(PIECES))
        self.ids = np.random.default_rng(0).choice(ordinary, num_tokens)
        self.ids[::37] = EOS
        self.size = type("Size", (), {"num_tokens": num_tokens})
        self.directory = type("Directory", (), {"name": "tokens"})

    def tokens(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop].copy()


def masking(**settings) -> Masking:
    return Masking(PIECES, NUM_IDS, MASK, **settings)


def blocks(num_positions: int = 4000, seed: int = 0, **settings) -> MaskedBlocks:
    return MaskedBlocks([Tokens(100 * LENGTH)], LENGTH, num_positions, seed, masking=masking(**settings))


def words(texts: list[str]) -> list[str]:
    starts = masking().word_starts(np.array([ID[text] for text in texts]))
    edges = [*np.flatnonzero(starts), len(texts)]
    return ["".join(texts[first:last]) for first, last in pairwise(edges)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["国際", "連合", "安全", "保障", "の"], ["国際連合", "安全保障", "の"]),  # kanji: the next word after four
        (["していた", "の", "は"], ["していた", "のは"]),
        (["カード", "カード", "は"], ["カードカード", "は"]),
        (["カード"] * 5, ["カード" * 4, "カード"]),  # katakana: after twelve
        ([" the", "y", " the"], [" they", " the"]),
        (["12", "345", "。", "。"], ["12345", "。", "。"]),
        (["安全", "食べる", "の", " ", "の"], ["安全", "食べる", "の", " ", "の"]),  # 食べる is kanji and hiragana
    ],
)
def test_words_are_runs_of_a_character_class(texts, expected):
    assert words(texts) == expected


def test_the_bytes_of_a_character_stay_together():
    ids = np.array([20, 21, 22, 20, 21, 22, ID["の"], EOS, EOS, 20])
    assert masking().word_starts(ids).tolist() == [True, False, False, True, False, False, True, True, True, True]


def test_golden_masks():
    """These numbers may not change: a run that goes on would see other masks."""
    ids = np.array([ID[text] for text in TEXTS] + [EOS, 20, 21, 22] + [ID[text] for text in TEXTS])
    hidden, labels = masking(masked_share=0.4).hide(ids, "0/7")
    chosen = np.flatnonzero(labels != IGNORED_LABEL)
    assert labels[chosen].tolist() == ids[chosen].tolist()
    assert [(int(n), int(hidden[n])) for n in chosen] == GOLDEN
    others = np.setdiff1d(np.arange(len(ids)), chosen)
    assert hidden[others].tolist() == ids[others].tolist()
    assert (hidden.dtype, labels.dtype) == (np.int64, np.int64)


GOLDEN = [(4, 1), (5, 8), (6, 1), (8, 1), (9, 11), (11, 1), (12, 1), (14, 1), (21, 5)]
GOLDEN += [(22, 1), (25, 1), (26, 1), (30, 1), (31, 1)]


def test_shares():
    """15 % of the tokens that are not special; of these 80 % become the mask, 10 % another token, 10 % stay."""
    dataset = blocks()
    plain = BlockDataset([Tokens(100 * LENGTH)], LENGTH, 4000)
    ids, hidden, labels = (
        np.stack(arrays)
        for arrays in zip(
            *((plain[n]["input_ids"], dataset[n]["input_ids"], dataset[n]["labels"]) for n in range(4000)), strict=True
        )
    )
    chosen = labels != IGNORED_LABEL
    assert (ids[chosen] == labels[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert not (chosen & (ids == EOS)).any()
    assert chosen.sum() / (ids != EOS).sum() == pytest.approx(0.15, abs=0.001)
    per_token = [chosen[ids == index].mean() for index in PIECES]
    assert per_token == pytest.approx([0.15] * len(PIECES), abs=0.015)  # no token more often than another
    counts = chosen.sum(axis=1)  # as even as whole words can be: within the longest word of the share
    assert (np.abs(counts - 0.15 * (ids != EOS).sum(axis=1)) <= 8).all()
    became_mask, became_other = hidden[chosen] == MASK, (hidden != ids)[chosen] & (hidden[chosen] != MASK)
    num_ordinary = len(PIECES)
    assert became_mask.mean() == pytest.approx(0.8, abs=0.006)
    assert became_other.mean() == pytest.approx(0.1 * (1 - 1 / num_ordinary), abs=0.004)
    replaced = hidden[chosen][became_other]
    assert set(replaced.tolist()) == set(PIECES)


def test_words_are_hidden_as_wholes():
    dataset = blocks(500)
    plain = BlockDataset([Tokens(100 * LENGTH)], LENGTH, 500)
    for position in range(500):
        word = np.cumsum(masking().word_starts(plain[position]["input_ids"]))
        chosen = dataset[position]["labels"] != IGNORED_LABEL
        for index in np.unique(word[chosen]):
            assert chosen[word == index].all()


def test_a_mask_depends_on_seed_and_position_alone():
    first, again, other = blocks(300), blocks(300), blocks(300, seed=1)
    expected = [first[n] for n in range(300)]
    for position in np.random.default_rng(0).permutation(300).tolist():
        item = again[position]
        assert all((item[key] == expected[position][key]).all() for key in item)
    assert any((first[n]["labels"] != other[n]["labels"]).any() for n in range(300))
    epoch = first.num_blocks  # the same block in the next epoch has another mask
    where = {first.block_at(n): n for n in range(epoch)}
    twin = where[first.block_at(epoch)]
    assert (first[twin]["labels"] != first[epoch]["labels"]).any()


def test_fingerprint():
    plain = BlockDataset([Tokens(100 * LENGTH)], LENGTH, 10)
    assert (
        len({plain.fingerprint, *(blocks(10, **s).fingerprint for s in ({}, {"masked_share": 0.2}, {"seed": 1}))}) == 4
    )
    assert blocks(10).fingerprint == blocks(20).fingerprint  # a longer run of the same masks
    other_pieces = Masking(PIECES | {2: "いち".encode()}, NUM_IDS, MASK)
    assert other_pieces.fingerprint != masking().fingerprint


def test_a_text_of_special_tokens_has_nothing_to_hide():
    ids = np.full(8, EOS)
    hidden, labels = masking().hide(ids, "0/0")
    assert (hidden == ids).all()
    assert (labels == IGNORED_LABEL).all()
