"""Write and read drop lists: the documents to leave out of a source, and what each one repeats."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.fingerprints import document_fingerprint
from jpllm.runtime import InputError


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
        """Return the document as a line of a drop list."""
        of = {"source": self.of_source, "document": self.of_document, "evaluation": self.of_evaluation}
        return {"document": self.document, "kind": self.kind, "of": of, "similarity": self.similarity}


@dataclass(frozen=True)
class SourceDuplicates:
    """The documents to drop of one source.

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


def write_drop_list(file: Path, found: SourceDuplicates, fingerprint: str, settings: dict[str, object]) -> None:
    """Write what `find_duplicates` found in one source: a header line, then a line for each document to drop.

    `fingerprint` stands for all that decides the documents and their positions: the content of the source and how it is
    read, and that of everything it was compared with. `read_drop_list` asks for the same one.
    """
    kinds = Counter(duplicate.kind for duplicate in found.duplicates)
    header = {
        "source": found.label,
        "identity": fingerprint,
        "num_documents": found.num_documents,
        "num_exact": kinds["exact"],
        "num_near": kinds["near"],
        "compared_with": found.compared_with,
        "settings": settings,
    }
    write_jsonl(chain([header], (duplicate.row() for duplicate in found.duplicates)), file)


def excluded_documents(source: SourceConfig) -> frozenset[int]:
    """Return the positions that the drop list of `source` leaves out; none where it names no list."""
    if not source.exclude:
        return frozenset()
    return frozenset(read_drop_list(Path(source.exclude), source.label, document_fingerprint(source)).tolist())


def read_drop_list(file: Path, label: str, fingerprint: str) -> np.ndarray:
    """Return the positions of the documents to leave out of source `label`, int64, ascending.

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
    if found[1] != fingerprint:
        raise InputError(f"{file}: made for other texts (identity {found[1]}, now {fingerprint}); {advice}")
    if len(documents) != expected:
        raise InputError(f"{file}: {len(documents)} documents, and {expected} in its first line; {advice}")
    return documents
