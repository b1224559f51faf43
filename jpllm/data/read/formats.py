"""Read the rows of files: JSON lines, Parquet, plain text and wiki dumps, on disk or in a repository of the Hub.

A row that cannot be read becomes a `BadRow`, and reading goes on with the next one.
"""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from jpllm.data.read.jsonl import PlacedRow, numbered_lines, read_jsonl
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import HUB_PREFIX, SUFFIXES, WIKI_SUFFIXES, SourceConfig, find_files
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import pyarrow
    from _typeshed import WriteableBuffer

_BUFFER_BYTES = 1 << 20


@dataclass
class ReadProgress:
    """Bytes of a source's files that have been read, for a progress bar; `total_bytes` is None when unknown."""

    bytes_read: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True)
class _File:
    name: str
    size_bytes: int
    open: Callable[[], io.BufferedIOBase]


def read_rows(source: SourceConfig, columns: Sequence[str], progress: ReadProgress) -> Iterator[PlacedRow]:
    """Yield place and columns of each row of a source; of Parquet files only `columns`, if they have all of them.

    Raises:
        InputError: a file is missing or damaged.
    """
    if source.is_hub and source.path.count("/") == HUB_PREFIX.count("/") + 1:
        yield from _read_hub_dataset(source)
        return
    files = _hub_files(source) if source.is_hub else _local_files(source)
    progress.total_bytes = sum(file.size_bytes for file in files)
    for file in files:
        start_bytes = progress.bytes_read
        with file.open() as raw:
            yield from _read_file(file, raw, source, columns, progress)
        progress.bytes_read = start_bytes + file.size_bytes


def _read_file(
    file: _File, raw: io.BufferedIOBase, source: SourceConfig, columns: Sequence[str], progress: ReadProgress
) -> Iterator[PlacedRow]:
    if file.name.endswith(".parquet"):
        yield from _read_parquet(file, raw, columns, progress)
        return
    stream = _decompressed(file.name, _CountingReader(raw, progress))
    if file.name.endswith(WIKI_SUFFIXES):
        from jpllm.data.clean.wikitext.plain_text import Wikitext
        from jpllm.data.read.mediawiki import read_pages

        for title, wikitext in read_pages(stream, file.name):
            yield f"{file.name}: {title}", {"title": title, "text": Wikitext(wikitext)}
    elif ".jsonl" in file.name:
        yield from read_jsonl(numbered_lines(file.name, stream, source.encoding))
    else:
        yield from _read_txt(numbered_lines(file.name, stream, source.encoding), source.document)


def _read_txt(lines: Iterator[tuple[str, str | BadRow]], document: str) -> Iterator[PlacedRow]:
    """Yield the documents of a text file; one with a line that cannot be decoded is bad as a whole."""
    gathered: list[str] = []
    bad: BadRow | None = None
    start = ""
    for index, (place, line) in enumerate(lines):
        if isinstance(line, str):
            line = line.removeprefix("\ufeff") if index == 0 else line  # the byte order mark of Windows is no text
            line = line[:-2] + "\n" if line.endswith("\r\n") else line
        if document == "line":
            yield place, line if isinstance(line, BadRow) else {"text": line.rstrip("\n")}
        elif document == "paragraph" and isinstance(line, str) and line.isspace():
            yield start or place, bad or {"text": "".join(gathered).rstrip("\n")}
            gathered, bad, start = [], None, ""
        elif isinstance(line, BadRow):
            bad = bad or line
        else:
            start = start or place
            gathered.append(line)
    if gathered or bad:
        yield start, bad or {"text": "".join(gathered)}


def _read_parquet(
    file: _File, raw: io.BufferedIOBase, columns: Sequence[str], progress: ReadProgress
) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(raw)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file.name}: not a readable Parquet file ({error})") from None
    wanted = list(columns) if set(columns) <= set(parquet.schema_arrow.names) else None
    num_rows, row_number = max(parquet.metadata.num_rows, 1), 0
    start_bytes = progress.bytes_read
    for batch in _readable_batches(parquet, wanted, file.name):
        for row in batch.to_pylist():
            row_number += 1
            yield f"{file.name}: row {row_number}", row
        progress.bytes_read = start_bytes + file.size_bytes * row_number // num_rows


def _readable_batches(
    parquet: pyarrow.parquet.ParquetFile, columns: list[str] | None, name: str
) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    try:
        yield from parquet.iter_batches(batch_size=256, columns=columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name}: damaged Parquet file ({error})") from None


def _read_hub_dataset(source: SourceConfig) -> Iterator[PlacedRow]:
    import datasets

    address = source.path.removeprefix(HUB_PREFIX)
    try:
        rows = datasets.load_dataset(
            address, source.subset, split=source.split, revision=source.revision, streaming=True
        )
        for row_number, row in enumerate(rows, start=1):
            yield f"{source.path}: row {row_number}", row
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the Hub client raise
        raise _unreachable(source, error) from error


def _local_files(source: SourceConfig) -> list[_File]:
    files = find_files(source.path)
    return [_File(str(file), file.stat().st_size, lambda file=file: file.open("rb")) for file in files]


def _hub_files(source: SourceConfig) -> list[_File]:
    """Return the files of a Hub repository that match the pattern, so that a loading script is not needed."""
    from huggingface_hub import HfFileSystem

    owner, name, pattern = source.path.removeprefix(HUB_PREFIX).split("/", 2)
    revision = f"@{source.revision}" if source.revision else ""
    try:
        hub = HfFileSystem()
        found = hub.glob(f"datasets/{owner}/{name}{revision}/{pattern}", detail=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreachable(source, error) from error
    files = [
        _File(path, facts["size"], lambda path=path: hub.open(path, "rb"))
        for path, facts in sorted(found.items())  # ty: ignore[missing-attribute]  # a dictionary, with detail
        if path.endswith(SUFFIXES)
    ]
    if not files:
        raise InputError(f"{source.path}: no file of the repository matches; readable are {', '.join(SUFFIXES)}")
    return files


def _unreachable(source: SourceConfig, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0]
    return InputError(f"{source.path}: the Hub dataset cannot be read: {first_line}")


def _decompressed(name: str, stream: io.RawIOBase) -> BinaryIO:
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.open(stream), _BUFFER_BYTES)  # whose lines come without a call in Python each
    if name.endswith(".bz2"):
        return io.BufferedReader(bz2.open(stream), _BUFFER_BYTES)
    if name.endswith(".zst"):
        import pyarrow

        # Unlike the zstandard package it notices a stream that was cut off.
        decompressed = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
        return io.BufferedReader(decompressed, _BUFFER_BYTES)
    return io.BufferedReader(stream, _BUFFER_BYTES)


class _CountingReader(io.RawIOBase):
    """A binary file that adds what is read from it to a `ReadProgress`."""

    def __init__(self, raw: io.BufferedIOBase, progress: ReadProgress) -> None:
        self._raw = raw
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        num_bytes = self._raw.readinto(buffer)
        self._progress.bytes_read += num_bytes
        return num_bytes
