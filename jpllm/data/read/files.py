"""Find the files of a source, tell what kind each is by its own name, and open compressed ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from jpllm.runtime import InputError

HUB_PREFIX = "hf://"
READABLE = (
    ".jsonl, .json (one object a line), .txt, .csv, .tsv, .xml (of a MediaWiki dump), each also as .gz, .bz2, .xz or "
    ".zst, and .parquet"
)
DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError)
_BUFFER_BYTES = 1 << 20
_MAX_LABEL_BYTES = 200  # file systems allow 255 a name
_NAME = re.compile(r"\.(jsonl|ndjson|json|txt|csv|tsv|xml|parquet)(-p\d+p\d+)?(\.(?:gz|bz2|xz|zst))?", re.IGNORECASE)
_SMALLEST_STREAM_BYTES = {".gz": 18, ".bz2": 14, ".xz": 32, ".zst": 9}  # header and end of one that holds nothing
_NOT_TEXTS = re.compile(r"(?:licen[cs]e|copying|copyright|notice|readme)(?:[-_][a-z]{2})?\.txt", re.IGNORECASE)
_DUMP_INDEX = re.compile(r"-multistream-index\d*\.txt", re.IGNORECASE)
_WAYS_OUT = {
    "unpack": (".zip", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".lzma", ".gz", ".bz2", ".xz", ".zst"),
    "export as .csv": (".xls", ".xlsx", ".ods", ".db", ".sqlite"),
    "write as .parquet": (".arrow", ".feather", ".orc", ".pkl", ".npy"),
}
# Controls, halves of characters (bytes of a name that are no UTF-8), and separators of lines.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class FileKind:
    """What is in a file, as its name says.

    Attributes:
        format: jsonl, json, txt, csv, tsv, xml or parquet.
        compression: suffix of what it is compressed with, such as ".gz", or "".
    """

    format: str
    compression: str


@dataclass
class Found:
    """The readable files of a folder in reading order, and what else is there, counted by what it is."""

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def describe_left_out(self) -> str:
        """Return a line that says what was left out and what could be done, and "" where there is nothing."""
        if not self.left_out:
            return ""
        parts = [f"{count:,} {what}" for what, count in sorted(self.left_out.items())]
        return f"left out {', '.join(parts)}; readable are {READABLE}"


def kind_of(name: str) -> FileKind | None:
    """Return what kind a file is by its name (without folders), in upper or lower case; None for what is not read."""
    for found in _NAME.finditer(name):
        file_format, part, compression = found[1].lower(), found[2], (found[3] or "").lower()
        has_part = not part or file_format in ("xml", "txt")  # the dumps of Wikimedia come in ranges of pages
        if found.end() == len(name) and has_part and not (file_format == "parquet" and compression):
            return FileKind("jsonl" if file_format == "ndjson" else file_format, compression)
    return None


def without_suffix(name: str) -> str:
    """Return the name of a file without the suffixes that say what kind it is; the range of a part of a dump stays."""
    found = [match for match in _NAME.finditer(name) if match.end() == len(name)]
    return name[: found[0].start()] + (found[0][2] or "") if found and kind_of(name) else name


def label_of(name: str) -> str:
    """Return a name that other files can be called by: in printable characters, with room for their suffixes.

    What is no character becomes `_`; a name of more than 200 bytes is cut, and ends with a hash of the whole.
    """
    label = _UNPRINTABLE.sub("_", name) or "_"
    whole = label.encode("utf-8")
    if len(whole) <= _MAX_LABEL_BYTES:
        return label
    return f"{whole[:180].decode('utf-8', errors='ignore')}-{hashlib.sha256(whole).hexdigest()[:12]}"


def printable(name: object) -> str:
    """Return a name or path in one line that can be written anywhere: what is no character is spelled out."""
    text = str(name)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def find_files(path: str | Path) -> list[Path]:
    """Return the readable files of a local path, sorted. Raises InputError if there are none."""
    return look_for_files(path).files


def look_for_files(path: str | Path) -> Found:
    """Return the readable files of a file or folder, and what else a folder holds.

    Hidden files and folders are left out, links are followed, and no file is read twice. So are licences, readme files
    and the index of a dump; and a .json file unless at least two lines of it are objects.

    Raises:
        InputError: there is no such file or folder, or nothing readable in it.
    """
    path = Path(path)
    if path.is_file():
        if not kind_of(path.name):
            raise InputError(f"{printable(path)}: unknown file type; {_way_out(path.name)}readable are {READABLE}")
        return Found([path])
    if not path.exists():
        raise InputError(
            f"{printable(path)}: no such file or folder (a dataset of the Hugging Face Hub is written "
            f"{HUB_PREFIX}owner/name)"
        )
    if not path.is_dir():
        raise InputError(f"{printable(path)}: neither a file nor a folder; write what it gives into a file")
    found = _walk(path)
    if not found.files:
        told = found.describe_left_out() or f"readable are {READABLE}"
        raise InputError(f"{printable(path)}: the folder holds no readable file; {told}")
    return found


def _walk(folder: Path) -> Found:
    found, waiting = Found(), [(str(folder), os.path.realpath(folder))]
    seen = {waiting[0][1]}
    while waiting:
        directory, real_directory = waiting.pop()
        with os.scandir(directory) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            is_link = entry.is_symlink()
            real = os.path.realpath(entry.path) if is_link else os.path.join(real_directory, entry.name)  # noqa: PTH118
            if entry.name.startswith("."):
                found.left_out["hidden"] += 1
            elif real in seen:
                found.left_out["linked to twice"] += 1
            elif entry.is_dir():
                seen.add(real)
                waiting.append((entry.path, real))
            elif not entry.is_file():
                found.left_out["broken links or no files"] += 1
            elif reason := _reason_to_leave_out(Path(entry.path)):
                found.left_out[reason] += 1
            else:
                seen.add(real)
                found.files.append(Path(entry.path))
    found.files.sort()
    return found


def _reason_to_leave_out(file: Path) -> str:
    """Return why a file of a folder is not read, in words that fit behind a number, and "" for one that is."""
    kind = kind_of(file.name)
    if kind is None:
        suffix = printable(file.suffix.lower())
        return f"{suffix or 'without suffix'}{_way_out(file.name, ' ({})')}"
    name = file.name.lower().removesuffix(kind.compression)
    if _NOT_TEXTS.fullmatch(name):
        return "licence or readme"
    if kind.format == "txt" and _DUMP_INDEX.search(name):
        return "index of a dump"
    if file.stat().st_size < _SMALLEST_STREAM_BYTES.get(kind.compression, 0):
        return f"{kind.compression} cut off at its beginning"
    if kind.format == "json" and not _holds_json_lines(file, kind):
        return ".json that is not one object a line"
    return ""


def _way_out(name: str, form: str = "{}; ") -> str:
    suffix = Path(name).suffix.lower()
    return next((form.format(way) for way, suffixes in _WAYS_OUT.items() if suffix in suffixes), "")


def _holds_json_lines(file: Path, kind: FileKind) -> bool:
    """Return whether two lines at the beginning are objects; True for a damaged file, so that reading it says so."""
    with file.open("rb", buffering=0) as raw:
        stream = decompressed(raw, kind.compression)
        try:
            lines = [line for _ in range(8) if (line := stream.readline(_BUFFER_BYTES).strip(b" \t\r\n\xef\xbb\xbf"))]
        except DECOMPRESSION_ERRORS:
            return True
    if not lines or not lines[0].startswith(b"{"):
        return False
    if len(lines[0]) > _BUFFER_BYTES // 2:  # an object over several lines begins with short ones
        return True
    return lines[0].endswith(b"}") and len(lines) > 1 and lines[1].startswith(b"{")


def decompressed(stream: io.RawIOBase, compression: str) -> io.BufferedReader:
    """Return the bytes that are compressed in a stream; reading raises DECOMPRESSION_ERRORS where it is damaged."""
    if compression == ".gz":
        return io.BufferedReader(gzip.open(stream), _BUFFER_BYTES)  # whose lines come without a call in Python each
    if compression == ".bz2":
        return io.BufferedReader(bz2.open(stream), _BUFFER_BYTES)
    if compression == ".xz":
        return io.BufferedReader(lzma.open(io.BufferedReader(stream)), _BUFFER_BYTES)
    if compression == ".zst":
        import pyarrow

        # Unlike the zstandard package it notices a stream that was cut off.
        source = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
        return io.BufferedReader(source, _BUFFER_BYTES)
    return io.BufferedReader(stream, _BUFFER_BYTES)
