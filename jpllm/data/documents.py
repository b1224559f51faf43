"""Read a source as cleaned documents: one by one, or in batches that several processes clean, in order.

Batches are the unit of packing; where one begins depends on the rows alone. Memory is bounded by a few batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from jpllm.data.clean.pipeline import Cleaned, clean
from jpllm.data.dedup.drop_list import excluded_documents
from jpllm.data.read.formats import ReadProgress
from jpllm.data.read.quarantine import BadRow, Quarantine
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import read_texts
from jpllm.runtime import map_in_order

BATCH_CHARACTERS = 1 << 20
BATCH_ROWS = 1 << 14


def clean_texts(source: SourceConfig, texts: Iterable[str]) -> Iterator[Cleaned]:
    """Yield the document that each of `texts`, which are of `read_texts`, becomes by the rules of `source`."""
    return (clean(text, source.rules_for(text)) for text in texts)


def read_documents(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[str]:
    """Yield the cleaned documents of `source` in a fixed order.

    Left out are blank ones, those that a rule drops, and those of the drop list of `source`.

    Raises:
        InputError: what `read_texts` raises, and more bad rows than `max_bad_fraction`, after the last document.
    """
    return (text for _, text in numbered_documents(source, progress))


def numbered_documents(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[tuple[int, str]]:
    """Yield what `read_documents` does, each with the position (from 0) that it has in a drop list."""
    quarantine = Quarantine(source.label, source.max_bad_fraction)
    duplicates = excluded_documents(source)
    for index, document in enumerate(clean_texts(source, _good_texts(source, quarantine, progress))):
        if document.text is not None and index not in duplicates:
            yield index, document.text
    quarantine.conclude()


def documents_in_place(source: SourceConfig) -> Iterator[str]:
    """Yield the document of each text of `source`, an empty one where a rule drops it, so that positions stay.

    Raises:
        InputError: what `read_documents` raises.
    """
    quarantine = Quarantine(source.label, source.max_bad_fraction)
    for document in clean_texts(source, _good_texts(source, quarantine)):
        yield document.text or ""
    quarantine.conclude()


def _good_texts(source: SourceConfig, quarantine: Quarantine, progress: ReadProgress | None = None) -> Iterator[str]:
    """Yield the texts of `source`; all rows are counted in `quarantine`."""
    for text in read_texts(source, progress):
        quarantine.add(text)
        if isinstance(text, str):
            yield text


@dataclass
class TextBatch:
    """A run of rows: as texts when read, as documents when cleaned.

    Attributes:
        number: 0 for the first batch of the source.
        first_text: index of the first text among those of the source.
    """

    number: int
    first_text: int
    texts: list[str] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    documents: list[Cleaned] = field(default_factory=list)
    num_duplicates: int = 0


def cleaned_batches(
    source: SourceConfig,
    first_number: int,
    every: int,
    progress: ReadProgress,
    quarantine: Quarantine,
    processes: int = 0,
) -> Iterator[TextBatch]:
    """Yield the batches `first_number`, `first_number + every`, … of `source`, without the documents of its drop list.

    All rows are read, and counted in `quarantine`; where batches begin depends on the rows alone.
    """
    duplicates = excluded_documents(source)
    batches = (
        _without(batch, duplicates)
        for batch in _text_batches(source, progress, quarantine)
        if batch.number >= first_number and (batch.number - first_number) % every == 0
    )
    work = partial(_clean, source)
    if not source.clean and not source.has_wikitext:
        yield from map(work, batches)
        return
    yield from map_in_order(work, batches, processes)


def _text_batches(source: SourceConfig, progress: ReadProgress, quarantine: Quarantine) -> Iterator[TextBatch]:
    """Yield the rows of `source` in batches of about BATCH_CHARACTERS: enough for a batch encoder."""
    batch, num_characters, num_texts = TextBatch(0, 0), 0, 0
    for text in read_texts(source, progress):
        quarantine.add(text)
        if isinstance(text, BadRow):
            batch.bad_rows.append(text)
        else:
            batch.texts.append(text)
            num_texts += 1
            num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS or len(batch.texts) + len(batch.bad_rows) >= BATCH_ROWS:
            yield batch
            batch, num_characters = TextBatch(batch.number + 1, num_texts), 0
    if batch.texts or batch.bad_rows:
        yield batch


def _without(batch: TextBatch, duplicates: frozenset[int]) -> TextBatch:
    """Return the batch without the texts at the positions `duplicates` of the source."""
    if duplicates:
        kept = [text for index, text in enumerate(batch.texts, batch.first_text) if index not in duplicates]
        batch.num_duplicates = len(batch.texts) - len(kept)
        batch.texts = kept
    return batch


def _clean(source: SourceConfig, batch: TextBatch) -> TextBatch:
    batch.documents = list(clean_texts(source, batch.texts))
    batch.texts = []
    return batch
