"""Hide words of a block, for a model that learns to fill them in.

Masked language modelling is Devlin et al. 2019 (BERT, https://arxiv.org/abs/1810.04805): 15 % of the tokens are to be
predicted; of these 80 % become the mask token, 10 % another token by chance, and 10 % stay. Whole words are chosen
(whole-word masking, in BERT's repository since May 2019; Cui et al. 2019, https://arxiv.org/abs/1906.08101, for
Chinese): a piece of a word whose other pieces are in sight is too easy. Which of the three happens is drawn for each
token of a word, as in both.

Japanese writes no spaces, so a word here is a run of tokens of one character class: kanji, hiragana, katakana, other
letters, digits. Long runs are cut every few characters (`_MOST_CHARACTERS`), a space begins a word, and a token of
several classes (食べる) or of punctuation is one by itself. So okurigana are joined to their kanji only where the
tokenizer does it. The bytes of a character that has no piece of its own stay together.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import numpy as np

from jpllm.data.blocks.dataset import IGNORED_LABEL, BlockDataset

MASKED_SHARE = 0.15
_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1  # of the tokens to be predicted

# What a token is made of. A special token is never chosen; a rest is the inside of a character that is cut in bytes.
_SPECIAL, _ALONE, _REST, _KANJI, _HIRAGANA, _KATAKANA, _DIGITS, _LETTERS = range(8)
_MOST_CHARACTERS = {_KANJI: 4, _HIRAGANA: 4, _KATAKANA: 12, _DIGITS: 8, _LETTERS: 20}
_NO_LIMIT = 2**31 - 1
_JAPANESE = {
    _KANJI: "々〆〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    _HIRAGANA: "\u3041-\u309f",
    _KATAKANA: "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
}
_PATTERNS = {kind: re.compile(f"[{characters}]+") for kind, characters in _JAPANESE.items()} | {
    _DIGITS: re.compile(r"\d+"),
    _LETTERS: re.compile(rf"(?:(?![{''.join(_JAPANESE.values())}])[^\W\d_])+"),
}


class Masking:
    """Chooses words and hides them; what it does depends on the ids and a key alone.

    Args:
        pieces: the UTF-8 bytes of each id that text has; ids without an entry are special.
        num_ids: all ids are below it.
        masked_share: share of the tokens, without special ones, that are to be predicted.
    """

    def __init__(
        self, pieces: Mapping[int, bytes], num_ids: int, mask_token_id: int, masked_share: float = MASKED_SHARE
    ) -> None:
        self.mask_token_id, self.masked_share = mask_token_id, masked_share
        self._ordinary_ids = np.array(sorted(pieces), dtype=np.int64)
        self._kinds = np.full(num_ids, _SPECIAL, dtype=np.uint8)
        self._begins_word = np.ones(num_ids, dtype=bool)
        self._num_characters = np.zeros(num_ids, dtype=np.int64)
        for index, content in pieces.items():
            text = content.decode(errors="replace")
            kind = _kind(content)
            self._kinds[index], self._num_characters[index] = kind, len(text)
            self._begins_word[index] = kind == _ALONE or text[:1].isspace()
        most = [_MOST_CHARACTERS.get(kind, _NO_LIMIT) for kind in range(8)]
        self._most_characters = np.array(most)[self._kinds]

    def word_starts(self, input_ids: np.ndarray) -> np.ndarray:
        """Return whether a word begins at each token, bool (length,); a special token is a word by itself."""
        kinds, num_characters = self._kinds[input_ids], self._num_characters[input_ids]
        run_starts = self._begins_word[input_ids]
        run_starts[1:] |= (kinds[1:] != kinds[:-1]) & ((kinds[1:] != _REST) | (kinds[:-1] == _SPECIAL))
        run_starts[0] = True
        before = np.cumsum(num_characters) - num_characters
        before -= np.maximum.accumulate(np.where(run_starts, before, 0))  # in the run
        part = before // self._most_characters[input_ids]
        run_starts[1:] |= part[1:] != part[:-1]
        return run_starts

    def hide(self, input_ids: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids with words hidden, and labels: the ids to predict, and `IGNORED_LABEL` elsewhere; both int64.

        Words are taken in random order until their tokens are `masked_share` of all that are not special; the word at
        the edge is taken with the probability that makes the mean exact.
        """
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        order, edge, action, replacement = generator.random((4, len(input_ids)))

        is_ordinary = self._kinds[input_ids] != _SPECIAL
        word = np.cumsum(self.word_starts(input_ids)) - 1
        num_tokens = np.bincount(word, weights=is_ordinary)  # of each word
        in_order = np.argsort(order[: len(num_tokens)])
        sizes = num_tokens[in_order]
        before = np.cumsum(sizes) - sizes
        taken = np.empty(len(sizes), dtype=bool)
        taken[in_order] = before + sizes * edge[: len(sizes)] < self.masked_share * sizes.sum()
        chosen = taken[word] & is_ordinary

        labels = np.where(chosen, input_ids, IGNORED_LABEL)
        hidden = np.where(chosen & (action < _MASK_SHARE), self.mask_token_id, input_ids)
        by_chance = chosen & (action >= 1 - _RANDOM_SHARE)
        hidden[by_chance] = self._ordinary_ids[(replacement[by_chance] * len(self._ordinary_ids)).astype(np.int64)]
        return hidden, labels

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever a mask of the same ids would."""
        digest = hashlib.sha256(repr([self.mask_token_id, self.masked_share, _MASK_SHARE, _RANDOM_SHARE]).encode())
        for table in (self._kinds, self._begins_word, self._num_characters, self._most_characters):
            digest.update(table.tobytes())
        return digest.hexdigest()


class MaskedBlocks(BlockDataset):
    """The blocks of `BlockDataset` with words hidden; the mask depends on the seed and the position alone.

    A block that comes again in a later epoch has another position, and so another mask. Item: `{"input_ids": int64
    (sequence_length,), "labels": int64 (sequence_length,)}`, see `Masking.hide`.
    """

    def __init__(self, *args, masking: Masking, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.masking, self.masked_share = masking, masking.masked_share

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        item = super().__getitem__(position)
        hidden, labels = self.masking.hide(item["input_ids"], f"{self.seed}/{position}")
        return item | {"input_ids": hidden, "labels": labels}

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever a block or a mask at some position would."""
        return hashlib.sha256(f"{super().fingerprint}{self.masking.fingerprint}".encode()).hexdigest()


def _kind(content: bytes) -> int:
    """Return the kind of characters that a token is made of."""
    if content and 0x80 <= content[0] < 0xC0:
        return _REST
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        return _ALONE
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(text)), _ALONE)
