"""Cut the rows of a source into batches and clean these in several processes, in order and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from jpllm.data.clean.pipeline import Cleaned
from jpllm.data.dedup.drop_list import excluded_documents
from jpllm.data.parallel import map_in_order
from jpllm.data.read.quarantine import BadRow, Quarantine
from jpllm.data.read.sources import ReadProgress, SourceConfig, prepare, read_texts

BATCH_CHARACTERS = 1 << 20
BATCH_ROWS = 1 << 14


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
    """Yield batches `first_number`, `first_number + every`, … with their documents, those of its drop list left out.

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
    """Batches of about BATCH_CHARACTERS: enough for a batch encoder, and bounded in memory."""
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
    """The batch without the texts at these positions of the source."""
    if duplicates:
        kept = [text for index, text in enumerate(batch.texts, batch.first_text) if index not in duplicates]
        batch.num_duplicates = len(batch.texts) - len(kept)
        batch.texts = kept
    return batch


def _clean(source: SourceConfig, batch: TextBatch) -> TextBatch:
    batch.documents = list(prepare(source, batch.texts))
    batch.texts = []
    return batch
