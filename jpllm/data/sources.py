"""Read a source of texts as a stream of documents.

A source is a file (`.jsonl`, `.parquet`, `.txt`; jsonl and txt also compressed as `.gz` or `.zst`), a folder of
such files, or a dataset of the Hugging Face Hub (`hf://owner/name`, streamed). Reading takes memory for one row
(one file for `.txt` with `document: file`), whatever the size of the source.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal

from jpllm.config import REQUIRED, option
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import pyarrow

HUB_PREFIX = "hf://"
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt", ".txt.gz", ".txt.zst")
_HASH_CHUNK_BYTES = 1 << 20


@dataclass
class SourceConfig:
    """One source of documents."""

    shorthand: ClassVar[str] = "path"

    path: str = option(
        REQUIRED, f"File ({', '.join(SUFFIXES)}), folder of such files, or Hub dataset as {HUB_PREFIX}owner/name."
    )
    name: str | None = option(None, "Name in shards, tables and plots; by default taken from the path.")
    text_column: str = option("text", "Column that holds the text (.jsonl, .parquet, Hub).")
    document: Literal["file", "paragraph", "line"] = option(
        "file",
        "What one document is in a .txt file: the whole file, each paragraph (split at empty lines), or each line.",
    )
    subset: str | None = option(None, "Configuration of the Hub dataset, such as 20231101.ja.")
    split: str = option("train", "Split of the Hub dataset.")
    revision: str | None = option(None, "Commit or tag of the Hub dataset; name one to make a run reproducible.")

    def check(self) -> Iterator[tuple[str, str]]:
        """A name that is no file name, and Hub settings on a local path, which would be ignored."""
        if "/" in self.label:
            yield "name", f"{self.label!r} is used as a file name and cannot have a /; give the source another name"
        if not self.is_hub:
            for key, value, default in (
                ("subset", self.subset, None),
                ("split", self.split, "train"),
                ("revision", self.revision, None),
            ):
                if value != default:
                    yield key, f"{value!r} has no effect on the local path {self.path}; remove it"

    @property
    def is_hub(self) -> bool:
        """True for a dataset of the Hugging Face Hub."""
        return self.path.startswith(HUB_PREFIX)

    @property
    def label(self) -> str:
        """The name given, or the last part of the path without its suffix."""
        if self.name:
            return self.name
        if self.is_hub:
            return "-".join(filter(None, [self.path.rsplit("/", 1)[-1], self.subset]))
        file_name = Path(self.path).resolve().name
        return next((file_name.removesuffix(s) for s in _longest_first(SUFFIXES) if file_name.endswith(s)), file_name)


@dataclass
class ReadProgress:
    """Bytes read so far of the files on disk, for a progress bar; `total_bytes` is None when unknown."""

    bytes_read: int = 0
    total_bytes: int | None = None


def find_files(source: SourceConfig) -> list[Path]:
    """The readable files of a local source, sorted by path. Raises InputError if there are none."""
    path = Path(source.path)
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise InputError(f"{path}: unknown file type; readable are {', '.join(SUFFIXES)}")
        return [path]
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder (a dataset of the Hugging Face Hub is written {HUB_PREFIX}owner/name)"
        )
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise InputError(f"{path}: the folder holds no readable file; readable are {', '.join(SUFFIXES)}")
    return files


def read_documents(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[str]:
    """Yield the documents of `source` in a fixed order, blank ones included.

    Raises:
        InputError: a file, line or column that cannot be read, with the file and line.
    """
    progress = progress or ReadProgress()
    if source.is_hub:
        yield from _read_hub(source)
        return
    files = find_files(source)
    progress.total_bytes = sum(file.stat().st_size for file in files)
    for file in files:
        start_bytes = progress.bytes_read
        yield from _read_file(file, source, progress)
        progress.bytes_read = start_bytes + file.stat().st_size


def content_hash(source: SourceConfig) -> str:
    """sha256 (hex) of the bytes of a source's files in reading order; of its address for a Hub dataset.

    A copy under another name has the same hash; any edit changes it.
    """
    digest = hashlib.sha256()
    if source.is_hub:
        digest.update(repr((source.path, source.subset, source.split, source.revision)).encode())
        return digest.hexdigest()
    for file in find_files(source):
        digest.update(f"{''.join(file.suffixes)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def write_jsonl(rows: Iterable[dict], file: Path) -> None:
    """Write one JSON object a line, atomically; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    partial.replace(file)


def _read_file(file: Path, source: SourceConfig, progress: ReadProgress) -> Iterator[str]:
    if file.name.endswith(".parquet"):
        yield from _read_parquet(file, source.text_column, progress)
    elif ".jsonl" in file.suffixes:
        yield from _read_jsonl(file, source.text_column, progress)
    else:
        yield from _read_txt(file, source.document, progress)


def _read_jsonl(file: Path, column: str, progress: ReadProgress) -> Iterator[str]:
    for line_number, line in _numbered_lines(file, progress):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{file}:{line_number}: not a JSON object ({error.msg} at column {error.colno})") from None
        if not isinstance(row, dict):
            raise InputError(
                f'{file}:{line_number}: expected a JSON object such as {{"{column}": …}}, not {line[:40]!r}'
            )
        if column not in row:
            raise InputError(
                f"{file}:{line_number}: no column {column!r}; the row has {', '.join(row) or 'none'} (set text_column)"
            )
        text = row[column]
        if not isinstance(text, str):
            raise InputError(f"{file}:{line_number}: column {column!r} holds {json.dumps(text)[:40]}, not a text")
        yield _without_surrogates(text, file, line_number)


def _read_txt(file: Path, document: str, progress: ReadProgress) -> Iterator[str]:
    lines: list[str] = []
    for line_number, line in _numbered_lines(file, progress):
        if line_number == 1:
            line = line.removeprefix("\ufeff")  # the byte order mark of Windows editors is no text
        line = line[:-2] + "\n" if line.endswith("\r\n") else line
        if document == "line":
            yield line.rstrip("\n")
        elif document == "paragraph" and line.isspace():
            yield "".join(lines).rstrip("\n")
            lines = []
        else:
            lines.append(line)
    if lines:
        yield "".join(lines)


def _read_parquet(file: Path, column: str, progress: ReadProgress) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        parquet = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error})") from None
    with parquet:
        if column not in parquet.schema_arrow.names:
            raise InputError(f"{file}: no column {column!r}; it has {', '.join(parquet.schema_arrow.names)}")
        size_bytes, num_rows, row_number = file.stat().st_size, max(parquet.metadata.num_rows, 1), 0
        start_bytes = progress.bytes_read
        for batch in _readable_batches(parquet, column, file):
            for text in batch.column(0).to_pylist():
                row_number += 1
                if not isinstance(text, str):
                    raise InputError(f"{file}: row {row_number}: column {column!r} holds {text!r:.40}, not a text")
                yield text
            progress.bytes_read = start_bytes + size_bytes * row_number // num_rows


def _readable_batches(parquet: pyarrow.parquet.ParquetFile, column: str, file: Path) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow

    try:
        yield from parquet.iter_batches(batch_size=256, columns=[column])
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file}: damaged Parquet file ({error})") from None


def _read_hub(source: SourceConfig) -> Iterator[str]:
    import datasets

    address = source.path.removeprefix(HUB_PREFIX)
    try:
        rows = datasets.load_dataset(
            address, source.subset, split=source.split, revision=source.revision, streaming=True
        )
        for row_number, row in enumerate(rows, start=1):
            if not isinstance(row.get(source.text_column), str):
                raise InputError(
                    f"{source.path}: row {row_number}: no text in column {source.text_column!r}; "
                    f"the columns are {', '.join(row)} (set text_column)"
                )
            yield row[source.text_column]
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and the Hub client raise
        if isinstance(error, InputError):
            raise
        first_line = str(error).strip().split("\n")[0]
        raise InputError(f"{source.path}: the Hub dataset cannot be read: {first_line}") from error


def _numbered_lines(file: Path, progress: ReadProgress) -> Iterator[tuple[int, str]]:
    """Decoded lines with their end of line, counted from 1."""
    line_number = 0
    with file.open("rb") as raw:
        try:
            for line_number, line in enumerate(_decompressed(file, _CountingReader(raw, progress)), start=1):
                yield line_number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file}:{line_number}: invalid UTF-8: byte 0x{error.object[error.start]:02x} at position "
                f"{error.start} of the line; convert the file to UTF-8, for example with `iconv -f CP932 -t UTF-8`"
            ) from None
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{file}:{line_number + 1}: damaged or incomplete compressed file ({error})") from None


def _decompressed(file: Path, stream: BinaryIO) -> BinaryIO:
    if file.suffix == ".gz":
        return gzip.open(stream)
    if file.suffix == ".zst":
        import pyarrow

        # Unlike the zstandard package it notices a stream that was cut off.
        decompressed = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
        return io.BufferedReader(decompressed, _HASH_CHUNK_BYTES)
    return io.BufferedReader(stream, _HASH_CHUNK_BYTES)


class _CountingReader(io.RawIOBase):
    """A binary file that adds what is read from it to a `ReadProgress`."""

    def __init__(self, raw: BinaryIO, progress: ReadProgress) -> None:
        self._raw = raw
        self._progress = progress

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        num_bytes = self._raw.readinto(buffer)
        self._progress.bytes_read += num_bytes
        return num_bytes


def _without_surrogates(text: str, file: Path, line_number: int) -> str:
    """A lone surrogate (an escape such as \\ud800 in JSON) has no UTF-8 form, so no tokenizer can take it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{file}:{line_number}: lone surrogate \\u{ord(text[error.start]):04x} at character {error.start}; "
            "the text was cut in the middle of a character"
        ) from None
    return text


def _longest_first(suffixes: tuple[str, ...]) -> list[str]:
    return sorted(suffixes, key=len, reverse=True)
