"""Find documents that repeat an earlier one, exactly or nearly, and list them: no text is rewritten.

`find_duplicates` reads the sources once, in order, and keeps the first of several copies, within a source and across
sources. Evaluation texts count as seen before all of them. The result is a drop list for each source: the positions of
the documents that packing leaves out. Documents are compared as wholes: an evaluation text inside a longer document is
a matter of contamination and not found here. Blank documents are neither kept nor dropped.

- Exact: equal texts, told by 64 bits of BLAKE2b (of 1.4 million different texts, two share them with odds of 5e-8).
- Near: Jaccard similarity of the sets of character n-grams, after NFKC and without all that is neither letter nor digit
  (white space, punctuation, symbols). It is estimated by MinHash (Broder 1997, "On the resemblance and containment of
  documents") and looked for among documents that agree in a whole band of their signature (Leskovec, Rajaraman, Ullman,
  "Mining of Massive Datasets", chapter 3). With the defaults (from 0.8; 128 values: 18 bands of 7) a pair is dropped
  with a probability of 0.5 % at Jaccard 0.70, 9 % at 0.75, 50 % at 0.80, 93.6 % at 0.85 and 99.96 % at 0.90. A text
  without a whole n-gram is compared exactly only.

Signatures come from rensa 0.5: from the n-grams of 200 works of Aozora Bunko it makes them at 52 million characters a
second, of 1,000 paragraphs at 5, datasketch 2.0 at 2.4 and 1.4; its error is 0.027 on paragraphs, datasketch's 0.034.
The index is ours: for each document rensa's takes 1.4 kB and datasketch's 6 kB, without signatures to confirm a pair.
Here a document takes 420 bytes with its signature, and at worst 570: 0.8 GB for the 1.4 million of a Wikipedia.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np

from jpllm import runtime
from jpllm.config.settings import option
from jpllm.data.dedup.drop_list import Duplicate, SourceDuplicates
from jpllm.data.dedup.minhash import (
    choose_bands,
    comparable,
    groups_of_bands,
    is_first,
    minhash_signatures,
    ngram_hashes,
)
from jpllm.runtime import InputError, map_in_order

NEAR_SETTINGS = ("near_threshold", "ngram_characters", "num_permutations")
BATCH_CHARACTERS = 1 << 19
BATCH_DOCUMENTS = 1000


@dataclass
class DedupConfig:
    """Deduplication"""

    duplicates: Literal["exact", "near"] = option(
        "near", "What is dropped: texts equal to an earlier one (exact), or also texts nearly equal to one (near)."
    )
    near_threshold: float = option(
        0.8, "Jaccard similarity of character n-grams from which texts are nearly equal.", minimum=0.5, maximum=1
    )
    ngram_characters: int = option(
        5, "Letters and digits in an n-gram; a text with fewer is compared exactly only.", minimum=2, maximum=50
    )
    num_permutations: int = option(
        128,
        "MinHash values per document, 2 bytes each; the error of a similarity of 0.8 is 0.4 / √num_permutations.",
        minimum=32,
        maximum=1024,
    )
    processes: int = option(
        0, "Processes that compute signatures; 0 is one per core. The result does not depend on it.", minimum=0
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield key and problem of settings of near duplicates that would be ignored."""
        for name in NEAR_SETTINGS:
            value = getattr(self, name)
            if self.duplicates == "exact" and value != getattr(DedupConfig, name):
                yield name, f"{value} has no effect with duplicates: exact; remove it"

    def settings(self) -> dict[str, object]:
        """Return what the result depends on, for the head of a drop list."""
        if self.duplicates == "exact":
            return {"duplicates": "exact"}
        bands, values = choose_bands(self.near_threshold, self.num_permutations)
        return {
            "duplicates": "near",
            **{name: getattr(self, name) for name in NEAR_SETTINGS},
            "bands": bands,
            "values_per_band": values,
            "rensa": importlib.metadata.version("rensa"),
        }


def find_duplicates(
    sources: Iterable[tuple[str, Iterable[str]]],
    config: DedupConfig,
    evaluation: Iterable[tuple[str, Iterable[str]]] = (),
) -> Iterator[SourceDuplicates]:
    """Yield the duplicates of each (label, documents) of `sources` in their order, after one pass over all documents.

    A document is dropped when it repeats one that stays, never for repeating a dropped one alone. The most similar is
    named, and the first of equally similar ones. Where a document was already left out (by cleaning, say), pass an
    empty text in its place, so that positions stay right.

    Raises:
        InputError: two sources have one label; and whatever reading the documents raises.
    """
    sources, evaluation = list(sources), list(evaluation)
    for label, count in Counter(label for label, _ in sources).items():
        if count > 1:
            raise InputError(f"{count} sources are called {label!r}; give each a name of its own")
    labels = [label for label, _ in chain(evaluation, sources)]
    ends: list[int] = []
    prints = _fingerprints(_counted(chain(evaluation, sources), ends), config)
    starts = np.array([0, *ends])
    originals = _exact_originals(prints.keys)
    similarities = np.full(len(originals), np.nan, dtype=np.float32)
    if config.duplicates == "near":
        _find_near(prints, starts[len(evaluation)], config.near_threshold, originals, similarities)
    for number in range(len(evaluation), len(labels)):
        start, end = starts[number : number + 2]
        duplicates = []
        for document in np.flatnonzero(originals[start:end] >= 0).tolist():
            original, similarity = originals[start + document], similarities[start + document]
            owner = int(np.searchsorted(starts, original, side="right")) - 1
            of = labels[owner], int(original - starts[owner]), owner < len(evaluation)
            is_exact = bool(np.isnan(similarity))
            kind, similarity = ("exact", 1.0) if is_exact else ("near", round(float(similarity), 4))
            duplicates.append(Duplicate(document, kind, *of, similarity))
        yield SourceDuplicates(labels[number], int(end - start), labels[:number], duplicates)


@dataclass(frozen=True)
class _Fingerprints:
    """What is kept of the documents: 64 bits each, and the signatures of those in `signed` (ascending)."""

    keys: np.ndarray
    signed: np.ndarray
    signatures: np.ndarray


def _counted(sources: Iterable[tuple[str, Iterable[str]]], ends: list[int]) -> Iterator[str]:
    """Yield the documents of all sources; afterwards `ends` has their number up to the end of each source."""
    count = 0
    for _, documents in sources:
        for text in documents:
            count += 1
            yield text
        ends.append(count)


def _fingerprints(texts: Iterator[str], config: DedupConfig) -> _Fingerprints:
    """Read all texts and return their fingerprints, which grow in place, without a second copy."""
    keys, has_signature, signatures = bytearray(), bytearray(), bytearray()
    with runtime.progress_bar("find duplicates", "documents", "characters") as update:
        for part in map_in_order(partial(_fingerprint, config=config), _batches(texts), config.processes):
            keys += part[0]
            has_signature += part[1]
            signatures += part[2]
            update(0, None, documents=len(part[1]), characters=part[3])
    return _Fingerprints(
        np.frombuffer(keys, dtype=np.uint64),
        np.flatnonzero(np.frombuffer(has_signature, dtype=np.bool_)),
        np.frombuffer(signatures, dtype=np.uint16).reshape(-1, config.num_permutations),
    )


def _fingerprint(texts: list[str], config: DedupConfig) -> tuple[bytes, bytes, bytes, int]:
    """Return the key of each text (0 if blank), whether it has a signature, the signatures, and the characters read."""
    digests = [hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts]
    keys = np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
    keys[[not text or text.isspace() for text in texts]] = 0
    num_characters = sum(map(len, texts))
    if config.duplicates == "exact":
        return keys.tobytes(), bytes(len(texts)), b"", num_characters
    hashes = [ngram_hashes(comparable(text), config.ngram_characters) for text in texts]
    has_signature = bytes(len(ngrams) > 0 for ngrams in hashes)
    return keys.tobytes(), has_signature, minhash_signatures(hashes, config.num_permutations).tobytes(), num_characters


def _exact_originals(keys: np.ndarray) -> np.ndarray:
    """Return for each document the first one with its key, or -1 where that is itself or the key is 0 (blank)."""
    order = np.argsort(keys, kind="stable")
    first = is_first(keys[order])
    firsts = order[first][np.cumsum(first) - 1]
    originals = np.empty_like(order)
    originals[order] = np.where(first | (keys[order] == 0), -1, firsts)
    return originals


def _find_near(
    prints: _Fingerprints, first_document: int, threshold: float, originals: np.ndarray, similarities: np.ndarray
) -> None:
    """Enter the near duplicates from `first_document` on, with what they repeat, into the last two arguments.

    Documents come in order. One that stays is added to the group of each of its bands, where later ones meet it; one
    that is dropped is added nowhere, so that groups stay small and no document is dropped for repeating it alone.
    """
    signatures, num_values = prints.signatures, prints.signatures.shape[1]
    needed = math.ceil(threshold * num_values - 1e-9)
    groups_of, num_places = groups_of_bands(signatures, *choose_bands(threshold, num_values))
    members, sizes = np.empty(num_places, dtype=np.int32), np.zeros(num_places, dtype=np.int32)
    for row in np.flatnonzero((groups_of >= 0).any(axis=1) & (originals[prints.signed] < 0)):
        document, groups = prints.signed[row], groups_of[row][groups_of[row] >= 0]
        candidates = np.unique(np.concatenate([members[group : group + sizes[group]] for group in groups]))
        if len(candidates) and document >= first_document:
            num_equal = np.count_nonzero(signatures[candidates] == signatures[row], axis=1)
            best = num_equal.argmax()
            if num_equal[best] >= needed:
                originals[document] = prints.signed[candidates[best]]
                similarities[document] = num_equal[best] / num_values
                continue
        members[groups + sizes[groups]] = row
        sizes[groups] += 1
    # A copy of a text that was dropped just now repeats the one that stays.
    copies = np.flatnonzero((originals >= 0) & (originals[originals] >= 0))
    similarities[copies] = similarities[originals[copies]]
    originals[copies] = originals[originals[copies]]


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Yield lists of BATCH_DOCUMENTS texts, or of about BATCH_CHARACTERS in fewer."""
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
