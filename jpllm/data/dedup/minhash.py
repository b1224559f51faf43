"""Compare texts by MinHash: character n-grams, their signatures, and groups of documents that may be nearly equal."""

from __future__ import annotations

import re
import unicodedata
from functools import partial

import numpy as np

MAX_BAND_MISS = 0.02
_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio
_NOISE = re.compile(r"[\W_]+")
_FREQUENT_NOISE = re.compile(r"[\s、。，．・：；？！…―（）「」『』]+")


def choose_bands(threshold: float, num_permutations: int) -> tuple[int, int]:
    """Return the number of bands and the values in each: the longest bands that miss few pairs.

    Of pairs with similarity `threshold`, at most MAX_BAND_MISS agree in no band; that is (1 - threshold^values)^bands.
    """
    rows = 1
    for longer in range(2, num_permutations + 1):
        if (1 - threshold**longer) ** (num_permutations // longer) <= MAX_BAND_MISS:
            rows = longer
    return num_permutations // rows, rows


def comparable(text: str) -> str:
    """Return the letters and digits of `text` after NFKC, by which near duplicates are compared."""
    # Most pieces between frequent marks are in NFKC already, which is seen at a glance: four times faster.
    pieces = map(partial(unicodedata.normalize, "NFKC"), _FREQUENT_NOISE.split(text))
    return _NOISE.sub("", "".join(pieces))


def ngram_hashes(text: str, ngram_characters: int) -> np.ndarray:
    """Return a uint64 hash of the character n-gram at each position of `text`, the same on every machine.

    A polynomial of the code points modulo 2^64, then the finalizer of MurmurHash3 (Appleby), which mixes all bits.
    """
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    count = max(len(code_points) - ngram_characters + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(ngram_characters):
        hashes *= _MULTIPLIER
        hashes += code_points[offset : offset + count]
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes ^= hashes >> np.uint64(33)
        hashes *= np.uint64(multiplier)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def minhash_signatures(hashes: list[np.ndarray], num_permutations: int) -> np.ndarray:
    """Return uint16 (sets that are not empty, num_permutations): the share of equal values estimates the similarity.

    rensa's R-MinHash: the values of Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup 2017), whose error is below
    that of plain MinHash for small sets. Their low 16 bits are kept, by which different values are equal with odds of
    1 in 65,536 (b-bit minwise hashing, Li and König 2010).
    """
    from rensa import RMinHash  # ty: ignore[missing-module-member]  # compiled, without stubs

    hashes = [ngrams for ngrams in hashes if len(ngrams)]
    if not hashes:
        return np.empty((0, num_permutations), dtype=np.uint16)
    ends = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(hashes), ends, num_permutations, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).astype(np.uint16)


def groups_of_bands(signatures: np.ndarray, num_bands: int, num_rows: int) -> tuple[np.ndarray, int]:
    """Reserve places for groups of documents that agree in a band; return the first place of each, and all places.

    The former is int32 (documents, num_bands), and -1 where no other document has the values of that band.
    """
    groups_of, num_places = np.full((len(signatures), num_bands), -1, dtype=np.int32), 0
    for band in range(num_bands):
        values = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * num_rows, (band + 1) * num_rows):
            values *= _MULTIPLIER
            values += signatures[:, column]
        order = np.argsort(values)
        group = np.cumsum(is_first(values[order])) - 1
        sizes = np.bincount(group)
        sizes[sizes == 1] = 0
        first_places = np.where(sizes, num_places + np.cumsum(sizes) - sizes, -1)
        groups_of[order, band] = first_places[group]
        num_places += int(sizes.sum())
    return groups_of, num_places


def is_first(values: np.ndarray) -> np.ndarray:
    """Return True where a sorted value differs from the one before."""
    return np.append(np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1])
