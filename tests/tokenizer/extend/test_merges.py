"""Merges against a plain implementation that counts everything anew after each one."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from jpllm.tokenizer.extend.merges import learn_merges


def merged_word(word: tuple[int, ...], left: int, right: int, new: int) -> tuple[int, ...]:
    result, position = [], 0
    while position < len(word):
        if word[position : position + 2] == (left, right):
            result.append(new)
            position += 2
        else:
            result.append(word[position])
            position += 1
    return tuple(result)


def plain_merges(words, counts, contents, num_pieces, is_allowed) -> list[tuple[int, int, int]]:
    contents, merges = list(contents), []
    num_old = len(contents)
    while len(contents) < num_old + num_pieces:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in zip(words, counts, strict=True):
            positions = list(range(len(word) - 1))
            for position in positions:
                pairs[word[position], word[position + 1]] += count
        allowed = [
            (-n, pair) for pair, n in pairs.items() if n > 1 and is_allowed(contents[pair[0]] + contents[pair[1]])
        ]
        if not allowed:
            break
        _, (left, right) = min(allowed)
        content = contents[left] + contents[right]
        if content not in contents:
            contents.append(content)
        new = contents.index(content)
        if (left, right, new) not in merges:
            merges.append((left, right, new))
        words = [merged_word(tuple(word), left, right, new) for word in words]
    return merges


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_counting_everything_anew(seed: int) -> None:
    """Counts differ widely, so that no order is left to chance."""
    generator = random.Random(seed)
    words = [[generator.randrange(5) for _ in range(generator.randrange(9))] for _ in range(40)]
    counts = [generator.randrange(1, 10**9) for _ in words]
    contents = ["a", "b", "c", "d", "ab"]

    def is_allowed(content: str) -> bool:
        return "cd" not in content and len(content) < 7

    expected = plain_merges(words, counts, contents, 25, is_allowed)
    assert learn_merges(words, counts, contents, 25, is_allowed) == expected
    assert len(expected) >= 20


def test_runs_are_merged_from_the_left() -> None:
    merges = learn_merges([[0] * 7], [1], ["a"], 10, lambda _: True)
    assert merges == [(0, 0, 1), (1, 1, 2)]  # aa aa aa a, then aaaa aa a
    merges = learn_merges([[0] * 8, [0] * 8], [1, 1], ["a"], 10, lambda _: True)
    assert merges == [(0, 0, 1), (1, 1, 2), (2, 2, 3)]


def test_a_piece_that_is_there_keeps_its_id_and_does_not_count() -> None:
    merges = learn_merges([[0, 1, 2]], [5], ["a", "b", "c", "ab"], 1, lambda _: True)
    assert merges == [(0, 1, 3), (3, 2, 4)]


def test_no_pair_crosses_words_and_rare_ones_are_left() -> None:
    assert learn_merges([[0], [], [1]], [9, 9, 9], ["a", "b"], 5, lambda _: True) == []
    assert learn_merges([[0, 1]], [1], ["a", "b"], 5, lambda _: True) == []
    assert learn_merges([], [], ["a"], 5, lambda _: True) == []
