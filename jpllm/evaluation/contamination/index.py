"""Find texts inside documents by their character n-grams.

Texts and documents are compared by their letters and digits alone (`comparable`): Japanese has no spaces to cut words
at. A text is found where a stretch of a document, at most twice as long as the text, holds at least `min_share` of its
different n-grams; a text of few n-grams needs all of them. The rule is that of "PaLM: Scaling Language Modeling with
Pathways" (Chowdhery et al. 2022, section 8) with characters for words and a stretch for the whole training data, since
a long novel has most n-grams of a plain sentence somewhere.

The hash of each n-gram of a document is looked up in a table of one byte an entry, which rejects most n-grams that are
in no text, and then in a sorted list. What is found is compared letter by letter, so that equal hashes of different
n-grams never make a hit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jpllm.data.dedup.minhash import is_first, ngram_hashes

_BETWEEN_DOCUMENTS = "\n"  # in no comparable text
_TEXT_LENGTHS_PER_STRETCH = 2
_TABLE_ENTRIES_PER_NGRAM = 16


@dataclass(frozen=True)
class Stretch:
    """Characters `start` to `stop` − 1 of a document, which hold `share` of the n-grams of a text.

    Attributes:
        text: position of the text in the index.
        document: position of the document in its batch.
    """

    text: int
    document: int
    start: int
    stop: int
    share: float


class NgramIndex:
    """The n-grams of the texts to look for, in about 40 bytes each."""

    def __init__(self, texts: Sequence[str], ngram_characters: int, min_share: float) -> None:
        """`texts` are comparable ones; one that is shorter than an n-gram is never found."""
        self._texts, self._ngram_characters = texts, ngram_characters
        ngrams = [np.unique(ngram_hashes(text, ngram_characters)) for text in texts]
        self._num_ngrams = np.array([len(one) for one in ngrams], dtype=np.int64)
        self._num_needed = np.ceil(self._num_ngrams * min_share - 1e-9).astype(np.int64)  # 7 of 10 for 0.7
        flat = np.concatenate([np.zeros(0, dtype=np.uint64), *ngrams])
        order = np.argsort(flat, kind="stable")
        first = is_first(flat[order])
        self._hashes = flat[order][first]
        # Texts with n-gram i are self._owners[self._starts[i] : self._starts[i + 1]].
        self._starts = np.append(np.flatnonzero(first), len(flat))
        self._owners = np.repeat(np.arange(len(texts), dtype=np.int32), self._num_ngrams)[order]
        num_bits = math.ceil(math.log2(_TABLE_ENTRIES_PER_NGRAM * max(len(self._hashes), 1)))
        self._shift = np.uint64(64 - num_bits)
        self._is_possible = np.zeros(1 << num_bits, dtype=bool)
        self._is_possible[self._hashes >> self._shift] = True

    def find(self, documents: Sequence[str]) -> Iterator[Stretch]:
        """Yield the stretches of comparable `documents` that hold a text, by document, text and place; none overlap."""
        starts = np.cumsum([0, *(len(document) + 1 for document in documents)])
        hashes = ngram_hashes(_BETWEEN_DOCUMENTS.join(documents), self._ngram_characters)
        positions, ngrams = self._look_up(hashes)
        places = np.searchsorted(starts, positions, side="right") - 1
        # By document and n-gram, so that the places of a text's n-grams are found without a look at all the others.
        keys = places * len(self._hashes) + ngrams
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        for document, text in self._candidates(places, ngrams):
            of_text = np.searchsorted(self._hashes, np.unique(ngram_hashes(self._texts[text], self._ngram_characters)))
            of_text += document * len(self._hashes)
            bounds = np.searchsorted(keys, of_text), np.searchsorted(keys, of_text, side="right")
            offsets = np.concatenate([positions[order[first:last]] for first, last in zip(*bounds, strict=True)])
            for start, stop, share in self._stretches(documents[document], np.sort(offsets - starts[document]), text):
                yield Stretch(text, document, start, stop, share)

    def _look_up(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions of the hashes that are in the index, and their numbers there."""
        positions = np.flatnonzero(self._is_possible[hashes >> self._shift])
        ngrams = np.searchsorted(self._hashes, hashes[positions])
        ngrams[ngrams == len(self._hashes)] = 0
        is_known = self._hashes[ngrams] == hashes[positions] if len(self._hashes) else ngrams > 0
        return positions[is_known], ngrams[is_known]

    def _candidates(self, places: np.ndarray, ngrams: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield (document, text) where the whole document has enough n-grams of the text."""
        pairs = np.unique(places * len(self._hashes) + ngrams)
        documents, ngrams = np.divmod(pairs, max(len(self._hashes), 1))
        counts = self._starts[ngrams + 1] - self._starts[ngrams]
        before = np.cumsum(counts) - counts
        owners = self._owners[np.arange(counts.sum()) + np.repeat(self._starts[ngrams] - before, counts)]
        pairs, num_found = np.unique(np.repeat(documents, counts) * len(self._texts) + owners, return_counts=True)
        enough = num_found >= self._num_needed[pairs % max(len(self._texts), 1)]
        yield from (divmod(pair, len(self._texts)) for pair in pairs[enough].tolist())

    def _stretches(self, document: str, offsets: np.ndarray, text: int) -> Iterator[tuple[int, int, float]]:
        """Yield (start, stop, share) of the best of each group of overlapping stretches, from offsets of n-grams."""
        length = self._ngram_characters
        wanted = {self._texts[text][start : start + length] for start in range(len(self._texts[text]) - length + 1)}
        starts = [offset for offset in offsets.tolist() if document[offset : offset + length] in wanted]
        most, needed = _TEXT_LENGTHS_PER_STRETCH * len(self._texts[text]), self._num_needed[text]
        inside: Counter[str] = Counter()
        best, best_found, end = (0, 0), 0, 0
        for start in starts:
            while end < len(starts) and starts[end] + length - start <= most:
                inside[document[starts[end] : starts[end] + length]] += 1
                end += 1
            if best_found and start >= best[1]:
                yield *best, best_found / len(wanted)
                best_found = 0
            if len(inside) >= needed and len(inside) > best_found:
                best, best_found = (start, starts[end - 1] + length), len(inside)
            ngram = document[start : start + length]
            inside[ngram] -= 1
            if not inside[ngram]:
                del inside[ngram]
        if best_found:
            yield *best, best_found / len(wanted)
