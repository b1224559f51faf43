"""Choose lines of Japanese, and learn from them the merges of a byte pair encoding for a vocabulary that exists.

The trainers of tokenizers and SentencePiece cannot: they make a vocabulary of their own, and refuse no pair.
"""

from __future__ import annotations

import heapq
import random
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jpllm.config.settings import option
from jpllm.runtime import InputError
from jpllm.tokenizer.pieces import JAPANESE
from jpllm.tokenizer.train import training_lines

_MIN_COUNT = 2
Content = typing.TypeVar("Content", bytes, str)


def learn_merges(
    words: Sequence[Sequence[int]],
    counts: Sequence[int],
    contents: Sequence[Content],
    num_pieces: int,
    is_allowed: Callable[[Content], bool],
) -> list[tuple[int, int, int]]:
    """Return pairs to merge, most frequent first, each with the id of the piece that it makes (left, right, merged).

    They make exactly `num_pieces` new pieces, or fewer if no pair occurs twice any more; pairs that make a piece which
    is there already are merged too and do not count.

    Args:
        words: ids of each word before the first of the merges. No merge crosses the end of a word.
        counts: how often each word occurs.
        contents: what each old id spells. New ids count on from len(contents).
        is_allowed: whether a pair may be merged into this.

    Memory is about 40 bytes per id of `words`; time grows with the number of ids and little with `num_pieces`.
    Source: Sennrich et al. 2016, https://arxiv.org/abs/1508.07909, algorithm 1.
    """
    state = _Words(words, counts)
    contents = list(contents)
    ids = {content: index for index, content in enumerate(contents)}
    last_id = len(contents) + num_pieces - 1
    heap = [(-count, pair) for pair, count in state.counts.items()]
    heapq.heapify(heap)
    merges: dict[tuple[int, int], int] = {}
    while heap and len(contents) <= last_id:
        count, pair = heapq.heappop(heap)
        left, right = divmod(pair, 1 << 32)
        content = contents[left] + contents[right]
        if not is_allowed(content):
            continue
        count_now = state.counts.get(pair, 0)
        if count_now != -count:  # other merges have taken some of its places, or given it more
            if count_now >= _MIN_COUNT:
                heapq.heappush(heap, (-count_now, pair))
            continue
        merged = ids.setdefault(content, len(contents))
        if merged == len(contents):
            contents.append(content)
        merges[left, right] = merged
        for new_pair in state.merge(left, right, merged):
            heapq.heappush(heap, (-state.counts[new_pair], new_pair))
    return [(left, right, merged) for (left, right), merged in merges.items()]


class _Words:
    """Hold all words as one chain of ids, with the weight and the places of each pair.

    A pair is one number, the left id times 2³² plus the right one. A place is the position of its left id.
    """

    def __init__(self, words: Sequence[Sequence[int]], counts: Sequence[int]) -> None:
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        num_ids = int(lengths.sum())
        self._ids = np.fromiter((index for word in words for index in word), dtype=np.int32, count=num_ids)
        self._weights = np.repeat(np.array(counts, dtype=np.int64), lengths)
        self._next = np.arange(1, num_ids + 1, dtype=np.int32)
        self._previous = np.arange(-1, num_ids - 1, dtype=np.int32)
        stops = np.cumsum(lengths)
        self._next[(stops - 1)[lengths > 0]] = -1
        self._previous[(stops - lengths)[lengths > 0]] = -1
        self.counts: dict[int, int] = {}
        self._places: dict[int, np.ndarray] = {}
        self._add(np.arange(num_ids, dtype=np.int32))

    def merge(self, left: int, right: int, merged: int) -> list[int]:
        """Put `merged` wherever `right` follows `left`, from left to right; return the pairs that this makes."""
        first = np.sort(self._places.pop(left << 32 | right))
        del self.counts[left << 32 | right]
        second = self._next[first]
        stands = (self._ids[first] == left) & (second >= 0) & (self._ids[second] == right)
        first = first[stands]
        if left == right:
            first = self._without_overlaps(first)
        second = self._next[first]
        before, after = self._previous[first], self._next[second]
        self._subtract(_distinct(np.concatenate([before[before >= 0], second])))
        self._ids[first], self._ids[second] = merged, -1
        self._next[first] = after
        self._previous[after[after >= 0]] = first[after >= 0]
        before = self._previous[first]
        return self._add(_distinct(np.concatenate([before[before >= 0], first])))

    def _without_overlaps(self, places: np.ndarray) -> np.ndarray:
        """Return the sorted places without those that overlap the one before, as in a run of one id."""
        kept, taken = [], -1
        for place in places.tolist():
            if place != taken:
                kept.append(place)
                taken = int(self._next[place])
        return np.array(kept, dtype=np.int32)

    def _add(self, places: np.ndarray) -> list[int]:
        """Count the pairs at these places; return those that occur often enough."""
        added = []
        for pair, count, where in self._groups(places):
            if count >= _MIN_COUNT:
                known = self._places.get(pair)  # of a piece that two pairs make
                self._places[pair] = where if known is None else np.concatenate([known, where])
                self.counts[pair] = self.counts.get(pair, 0) + count
                added.append(pair)
        return added

    def _subtract(self, places: np.ndarray) -> None:
        for pair, count, _ in self._groups(places):
            if pair in self.counts:
                self.counts[pair] -= count

    def _groups(self, places: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the different pairs at these places, each with its count and its own places."""
        places = places[self._next[places] >= 0]
        if not len(places):
            return
        pairs = self._ids[places].astype(np.int64) << 32 | self._ids[self._next[places]]
        order = np.argsort(pairs, kind="stable")
        places, pairs = places[order], pairs[order]
        starts = np.flatnonzero(np.diff(pairs, prepend=-1))
        counts = np.add.reduceat(self._weights[places], starts)
        stops = np.append(starts[1:], len(places))
        for pair, count, start, stop in zip(
            pairs[starts].tolist(), counts.tolist(), starts.tolist(), stops, strict=True
        ):
            yield pair, count, places[start:stop]


def _distinct(places: np.ndarray) -> np.ndarray:
    """Return the places sorted, each once; `np.unique` is several times slower here."""
    places = np.sort(places)
    return places[np.diff(places, prepend=-1) != 0]


@dataclass
class ExtendConfig:
    """New pieces"""

    num_pieces: int = option(8000, "Number of pieces to add.", minimum=1)
    max_piece_characters: int = option(8, "Most characters of a new piece.", minimum=1)
    join_punctuation: bool = option(
        True,
        "Whether a new piece may end in 、 or 。 as in である。; a byte-level BPE then cuts Japanese into words by "
        "another rule, which programs other than tokenizers may not know.",
    )
    max_lines: int = option(
        50_000, "Number of Japanese lines to learn from, drawn evenly from the whole text.", minimum=1
    )
    seed: int = option(0, "Another seed draws other lines, where there are more than max_lines.", minimum=0)


def japanese_lines(texts: Iterable[str], config: ExtendConfig) -> list[str]:
    """Return `max_lines` of the lines with Japanese, each drawn with the same chance.

    Raises:
        InputError: no line has Japanese.
    """
    generator = random.Random(config.seed)
    lines = (line for line in training_lines(texts) if JAPANESE.search(line))
    drawn = heapq.nsmallest(config.max_lines, lines, key=lambda _: generator.random())
    if not drawn:
        raise InputError("the text to learn new pieces from has no Japanese line")
    return drawn


def refuse_too_few(num_found: int, num_pieces: int) -> None:
    """Raise InputError if the text gave fewer pieces than were asked for."""
    if num_found < num_pieces:
        raise InputError(
            f"num_pieces: the text gives only {num_found:,} new pieces, not {num_pieces:,}; "
            f"{'ask for fewer, ' if num_found else ''}raise max_lines or give more text"
        )
