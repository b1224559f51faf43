"""Read the rows of files: JSON lines, tables, plain text and wiki dumps, on disk or in a repository of the Hub.

A row that cannot be read becomes a `BadRow`, and reading goes on with the next one.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.data.read.files import HUB_PREFIX, READABLE, FileKind, decompressed, kind_of, look_for_files, printable
from jpllm.data.read.jsonl import PlacedRow, numbered_lines, read_jsonl, refuse_other_json
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import Encoding, SourceConfig
from jpllm.data.read.tables import read_delimited
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import pyarrow
    from _typeshed import WriteableBuffer

_PARQUET_ROWS = 256
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_ALL_COLUMNS = ("*",)  # no such column: all are read
logger = logging.getLogger(__name__)


@dataclass
class ReadProgress:
    """Bytes of a source's files that have been read, for a progress bar; `total_bytes` is None when unknown."""

    bytes_read: int = 0
    total_bytes: int | None = None


@dataclass(frozen=True)
class _File:
    """A file to read; its name, in printable characters, is for places."""

    name: str
    kind: FileKind
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
    if file.kind.format == "parquet":
        yield from _read_parquet(file, raw, columns, progress)
        return
    stream = decompressed(_CountingReader(raw, progress), file.kind.compression)
    if file.kind.format == "xml":
        from jpllm.data.clean.wikitext.plain_text import Wikitext
        from jpllm.data.read.mediawiki import read_pages

        for title, wikitext in read_pages(stream, file.name):
            yield f"{file.name}: {title}", {"title": title, "text": Wikitext(wikitext)}
        return
    lines = numbered_lines(file.name, stream, source.encoding, source.max_characters)
    if file.kind.format == "txt":
        yield from _read_txt(lines, source.document, source.max_characters)
    elif file.kind.format in ("csv", "tsv"):
        yield from read_delimited(file.name, file.kind.format, lines, source.max_characters)
    else:
        if file.kind.format == "json":
            refuse_other_json(file.name, stream)
        yield from read_jsonl(lines)


def read_table(file: Path, encoding: Encoding = "utf-8") -> Iterator[tuple[str, dict[str, object]]]:
    """Yield place and columns of each row of a file whose rows have named columns.

    Raises:
        InputError: no such file, one of plain texts, or a row that cannot be read.
    """
    if not file.is_file():
        raise InputError(f"{printable(file)}: no such file")
    kind = kind_of(file.name)
    if not kind or kind.format in ("txt", "xml"):
        raise InputError(f"{printable(file)}: unknown file type; readable are {', '.join(TABLE_SUFFIXES)}")
    for place, row in read_rows(SourceConfig(str(file), encoding=encoding), _ALL_COLUMNS, ReadProgress()):
        if isinstance(row, BadRow):
            raise InputError(str(row))
        yield place, row


def _read_txt(lines: Iterator[tuple[str, str | BadRow]], document: str, max_characters: int) -> Iterator[PlacedRow]:
    """Yield the documents of a text file; one with a line that cannot be decoded is bad as a whole.

    Of a document that is too long no more than `max_characters` are kept.
    """
    gathered: list[str] = []
    num_characters = 0
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
            gathered, num_characters, bad, start = [], 0, None, ""
        elif isinstance(line, BadRow):
            bad, start = bad or line, start or place
        else:
            start = start or place
            num_characters += len(line)
            if num_characters - 1 > max_characters:  # the end of its last line may be no part of it
                bad = bad or BadRow(start, f"longer than max_characters ({max_characters:,})", "left out")
                gathered.clear()
            else:
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
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of names of columns
        raise InputError(f"{file.name}: not a readable Parquet file ({error})") from None
    wanted = list(columns) if set(columns) <= set(parquet.schema_arrow.names) else None
    num_rows, row_number = max(parquet.metadata.num_rows, 1), 0
    start_bytes = progress.bytes_read
    for batch in _readable_batches(parquet, wanted, file.name):
        for row in _python_rows(batch):
            row_number += 1
            place = f"{file.name}: row {row_number}"
            yield place, BadRow(place, *row) if isinstance(row, tuple) else row
        progress.bytes_read = start_bytes + file.size_bytes * row_number // num_rows


def _python_rows(batch: pyarrow.RecordBatch) -> Iterable[dict[str, object] | tuple[str, str]]:
    """Return the columns of each row, or the reason and detail of why Python cannot hold it."""
    try:
        return batch.to_pylist()
    except Exception:  # which of many it is depends on the type of the column, and is told row by row
        return [_python_row(batch.slice(number, 1)) for number in range(batch.num_rows)]


def _python_row(batch: pyarrow.RecordBatch) -> dict[str, object] | tuple[str, str]:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return "invalid UTF-8", f"byte 0x{error.object[error.start]:02x} at position {error.start} of a text"
    except Exception as error:
        return "a value that cannot be read", f"{type(error).__name__}: {error}"[:100]


def _readable_batches(
    parquet: pyarrow.parquet.ParquetFile, columns: list[str] | None, name: str
) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    try:
        yield from parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=columns)
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
    found = look_for_files(source.path)
    if found.left_out:
        logger.warning("%s: %s", printable(source.path), found.describe_left_out())
    return [
        _File(printable(file), kind, file.stat().st_size, lambda file=file: file.open("rb"))
        for file in found.files
        if (kind := kind_of(file.name))
    ]


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
        _File(printable(path), kind, facts["size"], lambda path=path: hub.open(path, "rb"))
        for path, facts in sorted(found.items())  # ty: ignore[missing-attribute]  # a dictionary, with detail
        if (kind := kind_of(path.rsplit("/", 1)[-1]))
    ]
    if not files:
        raise InputError(f"{source.path}: no file of the repository matches; readable are {READABLE}")
    return files


def _unreachable(source: SourceConfig, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0]
    return InputError(f"{source.path}: the Hub dataset cannot be read: {first_line}")


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
