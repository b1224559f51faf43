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
import json
import math
import multiprocessing
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import numpy as np

from jpllm import runtime
from jpllm.config import option
from jpllm.data.sources import write_jsonl
from jpllm.runtime import InputError

MAX_BAND_MISS = 0.02
NEAR_SETTINGS = ("near_threshold", "ngram_characters", "num_permutations")
BATCH_CHARACTERS = 1 << 19
BATCH_DOCUMENTS = 1000
_SEED = 1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio
_NOISE = re.compile(r"[\W_]+")
_FREQUENT_NOISE = re.compile(r"[\s、。，．・：；？！…―（）「」『』]+")


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
        """Settings of near duplicates that would be ignored."""
        for name in NEAR_SETTINGS:
            value = getattr(self, name)
            if self.duplicates == "exact" and value != getattr(DedupConfig, name):
                yield name, f"{value} has no effect with duplicates: exact; remove it"


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document to drop, and the earlier one that it repeats, which stays or is an evaluation text."""

    document: int
    kind: Literal["exact", "near"]
    of_source: str
    of_document: int
    of_evaluation: bool
    similarity: float

    def row(self) -> dict:
        """The line of a drop list."""
        of = {"source": self.of_source, "document": self.of_document, "evaluation": self.of_evaluation}
        return {"document": self.document, "kind": self.kind, "of": of, "similarity": self.similarity}


@dataclass(frozen=True)
class SourceDuplicates:
    """What to drop of one source.

    Attributes:
        label: name of the source.
        num_documents: how many documents it has, blank ones included.
        compared_with: labels of the evaluation texts and the earlier sources.
        duplicates: by position of the document in reading order (from 0), ascending.
    """

    label: str
    num_documents: int
    compared_with: list[str]
    duplicates: list[Duplicate]


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


def choose_bands(threshold: float, num_permutations: int) -> tuple[int, int]:
    """(number of bands, values in each): the longest bands, so the fewest false candidates, that miss few pairs.

    Of pairs with similarity `threshold`, at most MAX_BAND_MISS agree in no band; that is (1 - threshold^values)^bands.
    """
    rows = 1
    for longer in range(2, num_permutations + 1):
        if (1 - threshold**longer) ** (num_permutations // longer) <= MAX_BAND_MISS:
            rows = longer
    return num_permutations // rows, rows


def comparable(text: str) -> str:
    """The letters and digits of `text` after NFKC: what near duplicates are compared by."""
    # Most pieces between frequent marks are in NFKC already, which is seen at a glance: four times faster.
    pieces = map(partial(unicodedata.normalize, "NFKC"), _FREQUENT_NOISE.split(text))
    return _NOISE.sub("", "".join(pieces))


def ngram_hashes(text: str, ngram_characters: int) -> np.ndarray:
    """uint64 hash of the character n-gram at each position of `text`, the same on every machine.

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
    """uint16 (sets that are not empty, num_permutations): two rows' share of equal values estimates the similarity.

    rensa's R-MinHash: the values of Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup 2017), whose error is below
    that of plain MinHash for small sets. Their low 16 bits are kept, by which different values are equal with odds of
    1 in 65,536 (b-bit minwise hashing, Li and König 2010).
    """
    import rensa

    hashes = [ngrams for ngrams in hashes if len(ngrams)]
    if not hashes:
        return np.empty((0, num_permutations), dtype=np.uint16)
    ends = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(hashes), ends, num_permutations, _SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).astype(np.uint16)


def write_drop_list(file: Path, found: SourceDuplicates, identity: str, config: DedupConfig) -> None:
    """Write what `find_duplicates` found in one source: a header line, then a line for each document to drop.

    `identity` stands for all that decides the documents and their positions: the content of the source and how it is
    read, and that of everything it was compared with. `read_drop_list` asks for the same one.
    """
    settings = {"duplicates": config.duplicates}
    if config.duplicates == "near":
        settings |= {name: getattr(config, name) for name in NEAR_SETTINGS}
        settings["bands"], settings["values_per_band"] = choose_bands(config.near_threshold, config.num_permutations)
        settings["rensa"] = importlib.metadata.version("rensa")
    kinds = Counter(duplicate.kind for duplicate in found.duplicates)
    header = {
        "source": found.label,
        "identity": identity,
        "num_documents": found.num_documents,
        "num_exact": kinds["exact"],
        "num_near": kinds["near"],
        "compared_with": found.compared_with,
        "settings": settings,
    }
    write_jsonl(chain([header], (duplicate.row() for duplicate in found.duplicates)), file)


def read_drop_list(file: Path, label: str, identity: str) -> np.ndarray:
    """The positions of the documents to leave out of source `label`, int64, ascending.

    Raises:
        InputError: no such file, not a whole drop list, or that of another source or of other content.
    """
    advice = f"find the duplicates of {label} again"
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        header = rows[0]
        expected = header["num_exact"] + header["num_near"]
        found = header["source"], header["identity"]
        documents = np.array([row["document"] for row in rows[1:]], dtype=np.int64)
    except OSError as error:
        raise InputError(f"{file}: cannot read the drop list ({error.strerror}); {advice}") from None
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file}: not a drop list ({type(error).__name__}: {error}); {advice}") from None
    if found[0] != label:
        raise InputError(f"{file}: the drop list of {found[0]!r}, not of {label!r}; {advice}")
    if found[1] != identity:
        raise InputError(f"{file}: made for other texts (identity {found[1]}, now {identity}); {advice}")
    if len(documents) != expected:
        raise InputError(f"{file}: {len(documents)} documents, and {expected} in its first line; {advice}")
    return documents


@dataclass(frozen=True)
class _Fingerprints:
    """What is kept of the documents: 64 bits each, and the signatures of those in `signed` (ascending)."""

    keys: np.ndarray
    signed: np.ndarray
    signatures: np.ndarray


def _counted(sources: Iterable[tuple[str, Iterable[str]]], ends: list[int]) -> Iterator[str]:
    """The documents of all sources; afterwards `ends` has their number up to the end of each source."""
    count = 0
    for _, documents in sources:
        for text in documents:
            count += 1
            yield text
        ends.append(count)


def _fingerprints(texts: Iterator[str], config: DedupConfig) -> _Fingerprints:
    """Read all texts; what is kept of them grows in place, without a second copy."""
    keys, has_signature, signatures = bytearray(), bytearray(), bytearray()
    with runtime.progress_bar("find duplicates", "documents", "characters") as update:
        for part in _in_order(partial(_fingerprint, config=config), _batches(texts), config.processes):
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
    """Key of each text (0 for a blank one), whether it has a signature, the signatures, and the characters read."""
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
    """For each document the first one with its key, or -1 where that is itself or the key is 0 (blank)."""
    order = np.argsort(keys, kind="stable")
    is_first = _is_first(keys[order])
    firsts = order[is_first][np.cumsum(is_first) - 1]
    originals = np.empty_like(order)
    originals[order] = np.where(is_first | (keys[order] == 0), -1, firsts)
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
    groups_of, num_places = _groups(signatures, *choose_bands(threshold, num_values))
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


def _groups(signatures: np.ndarray, num_bands: int, num_rows: int) -> tuple[np.ndarray, int]:
    """Reserve places for groups of documents that agree in a band: (first place of each group, places in all).

    The former is int32 (documents, num_bands), and -1 where no other document has the values of that band.
    """
    groups_of, num_places = np.full((len(signatures), num_bands), -1, dtype=np.int32), 0
    for band in range(num_bands):
        values = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * num_rows, (band + 1) * num_rows):
            values *= _MULTIPLIER
            values += signatures[:, column]
        order = np.argsort(values)
        group = np.cumsum(_is_first(values[order])) - 1
        sizes = np.bincount(group)
        sizes[sizes == 1] = 0
        first_places = np.where(sizes, num_places + np.cumsum(sizes) - sizes, -1)
        groups_of[order, band] = first_places[group]
        num_places += int(sizes.sum())
    return groups_of, num_places


def _is_first(values: np.ndarray) -> np.ndarray:
    """True where a sorted value differs from the one before."""
    return np.append(np.ones(min(len(values), 1), dtype=bool), values[1:] != values[:-1])


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of BATCH_DOCUMENTS texts, or of about BATCH_CHARACTERS in fewer."""
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


def _in_order(work: Callable, batches: Iterator[list[str]], processes: int) -> Iterator:
    """`map(work, batches)` in several processes, reading only a few batches ahead."""
    processes = processes or runtime.num_cores()
    head = list(islice(batches, 2))
    if processes == 1 or len(head) < 2:  # not worth starting processes
        yield from map(work, chain(head, batches))
        return
    waiting: deque[Future] = deque()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _use_one_thread) as pool:
        for batch in chain(head, batches):
            waiting.append(pool.submit(work, batch))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _use_one_thread() -> None:
    """The processes share the cores; rensa would start a thread per core in each."""
    os.environ["RAYON_NUM_THREADS"] = "1"
