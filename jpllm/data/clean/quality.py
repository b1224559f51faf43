"""Keep or drop a whole document by one measured number."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

NGRAM_CHARACTERS = 16  # about the ten words of the longest n-gram in Rae et al. (2021); a power of two
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing modulo 2**64

# First and last code units (UTF-16) of kana and kanji; a kanji beyond U+FFFF counts by its first unit.
_JAPANESE = (
    (0x3005, 0x3007),  # 々〆〇
    (0x3031, 0x3035),  # repeat marks
    (0x3041, 0x309F),
    (0x30A1, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0xD840, 0xD8BF),  # U+20000 to U+3FFFF
)


@dataclass(frozen=True)
class Drop:
    """What a rule returns instead of a text to drop it: the reason, with the number that was measured."""

    reason: str


def japanese_share(text: str, at_least: float = 0.3) -> str | Drop:
    """Drop a document whose share of kana and kanji is below `at_least`.

    The share is that of the characters other than white space. Text in Chinese has one of nearly 1.
    """
    num_characters = len(_without_space(text))
    share = _count_japanese(text) / num_characters if num_characters else 0.0
    return text if share >= at_least else Drop(f"{_percent(share, at_least)} Japanese, below {_percent(at_least)}")


def repetition(text: str, at_most: float = 0.3) -> str | Drop:
    """Drop a document whose share of repeated characters is above `at_most`.

    Repeated is a character in a line that occurs more than once, or in a sequence of 16 characters that does, white
    space left out. This joins the duplicate lines and the duplicate n-grams of Rae et al. (2021, Gopher, table A1)
    in one number, with n-grams of characters because Japanese does not separate words.
    """
    share = repeated_share(text)
    return text if share <= at_most else Drop(f"{_percent(share, at_most)} repeated, above {_percent(at_most)}")


def length(text: str, at_least: float = 20, at_most: float | None = None) -> str | Drop:
    """Drop a document shorter than `at_least` or longer than `at_most` characters (any number without it)."""
    if len(text) < at_least:
        return Drop(f"{len(text):,} characters, below {at_least:,.0f}")
    if at_most is not None and len(text) > at_most:
        return Drop(f"{len(text):,} characters, above {at_most:,.0f}")
    return text


def repeated_share(text: str) -> float:
    """Return the share of characters, without white space, in repeated lines or 16-character sequences.

    The sequences are compared by hashes of 64 bits: all equal ones are found, at about 80 ns per character.
    """
    lines = [_without_space(line) for line in text.split("\n")]
    joined = "".join(lines)
    if not joined:
        return 0.0
    is_repeated = _in_repeated_ngram(joined)
    counts = Counter(lines)
    if len(counts) < len(lines):
        start = 0
        for line in lines:
            if counts[line] > 1:
                is_repeated[start : start + len(line)] = True
            start += len(line)
    return np.count_nonzero(is_repeated) / len(joined)


def _in_repeated_ngram(text: str) -> np.ndarray:
    """Return for each character whether it lies in a sequence of NGRAM_CHARACTERS that occurs more than once (bool)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    covered = np.zeros(len(codes), dtype=bool)
    if len(codes) <= NGRAM_CHARACTERS:
        return covered
    hashes, width, multiplier = codes.astype(np.uint64), 1, _MULTIPLIER
    while width < NGRAM_CHARACTERS:  # the hash of 2n characters from those of its halves
        hashes = hashes[:-width] * np.uint64(multiplier) + hashes[width:]
        width, multiplier = 2 * width, multiplier * multiplier % 2**64
    in_order = np.sort(hashes)
    is_equal = in_order[1:] == in_order[:-1]
    if not is_equal.any():
        return covered
    starts = np.flatnonzero(np.isin(hashes, in_order[1:][is_equal]))
    depth = np.zeros(len(codes) + 1, dtype=np.int32)
    depth[starts] += 1
    depth[starts + NGRAM_CHARACTERS] -= 1
    return np.cumsum(depth[:-1]) > 0


def _count_japanese(text: str) -> int:
    codes = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16)
    # Below the first of a range the difference wraps around to a large number.
    return sum(int(np.count_nonzero(codes - np.uint16(first) <= last - first)) for first, last in _JAPANESE)


def _without_space(text: str) -> str:
    return "".join(text.split())


def _percent(share: float, limit: float | None = None) -> str:
    """Return `12 %`, with as many digits as it takes to tell it from the limit."""
    digits = 0
    while limit is not None and share != limit and digits < 9 and f"{share:.{digits}%}" == f"{limit:.{digits}%}":
        digits += 1
    return f"{share * 100:.{digits}f} %"
