"""Write and read token shards: the documents of one source as token ids on disk, memory-mapped.

A finished folder holds `tokens.bin` (little-endian uint16, uint32 from 65,537 ids up: whole documents, each followed by
one EOS, and after a BOS where the tokenizer writes one), `held_out.jsonl` with the texts kept out of training,
`quarantine.jsonl` with the rows that could not be read, and `meta.json`, written last, with the size and SHA-256 of
each of these files and of itself. Nothing depends on a block length: blocks are cut when they are read.

While it is being built a folder also has `batches.jsonl`: a line for each batch of rows that is safely in the files.
Who comes back after a crash cuts the files to what these lines say and goes on with the next batch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jpllm import TOKEN_SHARDS_FORMAT
from jpllm.data.read.files import printable
from jpllm.data.read.jsonl import json_line
from jpllm.runtime import InputError, num_cores
from jpllm.whole_files import size_and_sha256, write_whole

FORMAT = "jpllm-token-shards"
FORMAT_VERSION = TOKEN_SHARDS_FORMAT
META_NAME = "meta.json"
TOKENS_NAME = "tokens.bin"
HELD_OUT_TEXT_NAME = "held_out.jsonl"
QUARANTINE_NAME = "quarantine.jsonl"
BATCHES_NAME = "batches.jsonl"
_DATA_NAMES = (TOKENS_NAME, HELD_OUT_TEXT_NAME, QUARANTINE_NAME)
_DIGEST_KEY = "sha256"  # in `meta.json`, of all the rest of it
_HASH_CHUNK_BYTES = 1 << 20
_LONG_SECONDS = 5
_DTYPES = ("<u2", "<u4")
_MEND = "`jpllm data pack` with the same sources builds the folder again"
logger = logging.getLogger(__name__)


@dataclass
class ShardsSize:
    """What the shards of a source hold. Bytes and characters are those of the texts as encoded, before any tokenizer.

    Attributes:
        num_documents: documents in `tokens.bin`; those held out, blank, dropped or duplicate are counted apart.
        dropped: documents that each cleaning rule left out.
    """

    num_rows: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    num_characters: int = 0
    num_held_out_documents: int = 0
    num_blank_documents: int = 0
    num_duplicate_documents: int = 0
    num_bad_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def add(self, other: ShardsSize) -> None:
        """Add the counts of `other`."""
        for name, value in vars(other).items():
            if name == "dropped":
                self.dropped = dict(sorted((Counter(self.dropped) + Counter(value)).items()))
            else:
                setattr(self, name, getattr(self, name) + value)


@dataclass
class Batch:
    """A run of rows as it goes to disk: counts, token ids (EOS included), and lines of the two text files."""

    number: int
    size: ShardsSize
    token_ids: list[np.ndarray]
    held_out: list[str]
    bad_rows: list[dict[str, str]]


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest unsigned little-endian type that holds ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Append batches to a folder, each safe on disk when `append` returns; goes on where another writer stopped.

    Attributes:
        size: counts of all batches in the folder.
        num_batches: how many of them there are.
    """

    def __init__(self, directory: Path, dtype: np.dtype) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._dtype = dtype
        self.size, self.num_batches = ShardsSize(), 0
        lengths = dict.fromkeys(_DATA_NAMES, 0)
        records_bytes = 0
        for record in _records(directory):
            ends = {name: lengths[name] + record["bytes"][name] for name in _DATA_NAMES}
            if any(_size_of(directory / name) < end for name, end in ends.items()):
                break  # written down before the power failed, but not there
            lengths = ends
            records_bytes += record["record_bytes"]
            self.size.add(ShardsSize(**record["size"]))
            self.num_batches += 1
        self._files = {name: _open_cut(directory / name, length) for name, length in lengths.items()}
        self._records = _open_cut(directory / BATCHES_NAME, records_bytes)

    def append(self, batch: Batch) -> None:
        """Write a batch and its record; both are on disk afterwards."""
        content = {
            TOKENS_NAME: np.concatenate(batch.token_ids).astype(self._dtype).tobytes() if batch.token_ids else b"",
            HELD_OUT_TEXT_NAME: b"".join(json_line({"text": text}) for text in batch.held_out),
            QUARANTINE_NAME: b"".join(map(json_line, batch.bad_rows)),
        }
        self.append_bytes(batch.number, batch.size, content)

    def append_bytes(self, number: int, size: ShardsSize, content: dict[str, bytes]) -> None:
        """Write a batch whose files are given as bytes, as `batches_of` yields them."""
        for name, data in content.items():
            if data:
                self._write(self._files[name], data)
        record = {"number": number, "bytes": {n: len(data) for n, data in content.items()}, "size": asdict(size)}
        self._write(self._records, json_line(record))
        self.size.add(size)
        self.num_batches += 1

    def _write(self, stream: BinaryIO, data: bytes) -> None:
        try:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as error:
            told = f"{error.strerror}; what is packed so far stays there"
            raise OSError(error.errno, told, stream.name) from error

    def close(self) -> None:
        """Close the files of the folder."""
        for file in (*self._files.values(), self._records):
            with suppress(OSError):  # of a full disk, which `append` has told; what it did not record is cut off later
                file.close()


def batches_of(directory: Path) -> Iterator[tuple[int, ShardsSize, dict[str, bytes]]]:
    """Yield number, counts and bytes of each batch of a folder that is being built, as `append_bytes` takes them."""
    files = {name: (directory / name).open("rb") for name in _DATA_NAMES}
    try:
        for record in _records(directory):
            content = {name: files[name].read(record["bytes"][name]) for name in _DATA_NAMES}
            for name, data in content.items():
                if len(data) < record["bytes"][name]:
                    raise InputError(
                        f"{directory / name}: the file was cut; delete this folder and build its part again"
                    )
            yield record["number"], ShardsSize(**record["size"]), content
    finally:
        for file in files.values():
            file.close()


def write_meta(directory: Path, size: ShardsSize, **facts: object) -> None:
    """Write `meta.json`, which marks the folder as complete, and remove what served the building."""
    meta = {"format": FORMAT, "version": FORMAT_VERSION, "size": asdict(size), **facts}
    _write_meta(directory, meta | {"files": {name: file_facts(directory / name) for name in _DATA_NAMES}})
    (directory / BATCHES_NAME).unlink(missing_ok=True)


def _write_meta(directory: Path, meta: dict) -> None:
    text = json.dumps(meta | {_DIGEST_KEY: _digest(meta)}, ensure_ascii=False, indent=2)
    write_whole(directory / META_NAME, text + "\n")


def _digest(meta: dict) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def file_facts(file: Path) -> dict[str, int | str]:
    """Return the size and the SHA-256 of a file."""
    num_bytes, sha256 = size_and_sha256(file)
    return {"bytes": num_bytes, "sha256": sha256}


def own_bos(bos_token_id: int | None, eos_token_id: int) -> int | None:
    """Return the BOS that stands in front of documents; None where the EOS of the document before is that too."""
    return None if bos_token_id == eos_token_id else bos_token_id


def read_meta(directory: Path) -> dict:
    """Return the facts of a finished shard folder. Raises InputError where there are none that can be believed."""
    file = directory / META_NAME
    try:
        if not file.is_file():
            raise ValueError(f"no {META_NAME}")
        meta = json.loads(file.read_text(encoding="utf-8"))
        if meta.get("format") != FORMAT or meta.get("version") != FORMAT_VERSION:
            raise ValueError(f"{META_NAME} is not of {FORMAT} version {FORMAT_VERSION}")
        digest = meta.pop(_DIGEST_KEY, None)
        if digest != (_digest(meta) if "files" in meta else None):
            raise ValueError(f"{META_NAME} is not as it was written")
        _check_meta(meta)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        problem = f"{META_NAME} is empty, torn or damaged" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(
            f"{printable(directory)}: no finished token shards ({problem}); `jpllm data pack` builds them again"
        ) from None
    return meta


def _check_meta(meta: dict) -> None:
    """Raise ValueError, TypeError or LookupError where the facts cannot be those of shards."""
    counts = dict(meta["size"])
    names = set(asdict(ShardsSize()))
    dropped = counts.pop("dropped")
    if counts.keys() | {"dropped"} != names or not isinstance(meta["source"]["label"], str):
        raise ValueError(f"{META_NAME} lacks facts")
    numbers = [*counts.values(), *dropped.values(), meta.get("vocab_size", 0)]
    numbers += [meta["identity"]["eos_token_id"], meta["identity"].get("bos_token_id", 0)]
    if meta["dtype"] not in _DTYPES or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"{META_NAME} has impossible facts")


class TokenShards:
    """A packed source as one long array of token ids, read from a memory-mapped file.

    Attributes:
        label: name of the source.
        size: counts of documents, tokens, bytes and characters.
        eos_token_id: ends each document.
        bos_token_id: what a text begins with; None where that is no token of its own.
        content_hash: SHA-256 (hex) of the ids; None for shards of version 0.1.0 that were not verified yet.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        meta = read_meta(self.directory)
        self.label: str = meta["source"]["label"]
        self.size = ShardsSize(**meta["size"])
        self.eos_token_id: int = meta["identity"]["eos_token_id"]
        self.bos_token_id: int | None = meta["identity"].get("bos_token_id")
        self.content_hash: str | None = meta["files"][TOKENS_NAME]["sha256"] if "files" in meta else None
        dtype, file = np.dtype(meta["dtype"]), self.directory / TOKENS_NAME
        num_tokens = _size_of(file) // dtype.itemsize
        if num_tokens != self.size.num_tokens:
            raise InputError(
                f"{file}: {num_tokens:,} tokens instead of {self.size.num_tokens:,}; the file was cut or mixed: {_MEND}"
            )
        # A file of no bytes cannot be mapped.
        self._tokens = np.memmap(file, dtype=dtype, mode="r") if num_tokens else np.zeros(0, dtype=dtype)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Return the ids of positions `start` to `stop` − 1 as a new int64 array."""
        if not 0 <= start <= stop <= self.size.num_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.size.num_tokens}")
        return self._tokens[start:stop].astype(np.int64)


def _records(directory: Path) -> Iterator[dict]:
    """Yield the records of a folder that is being built, up to the first that is not whole."""
    if not (directory / BATCHES_NAME).exists():
        return
    with (directory / BATCHES_NAME).open("rb") as stream:
        for line in stream:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                return
            if not line.endswith(b"\n"):
                return
            yield record | {"record_bytes": len(line)}


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _open_cut(file: Path, num_bytes: int):
    """Return the file opened for appending after its first `num_bytes`; the rest is cut off."""
    stream = file.open("r+b" if file.exists() else "w+b")
    stream.truncate(num_bytes)
    stream.seek(num_bytes)
    return stream


def verify(directories: Sequence[Path]) -> None:
    """Compare the files of finished shard folders with what `meta.json` says of them.

    Folders of version 0.1.0 have no checksums: what can be counted in them is, and they get some.

    Raises:
        InputError: a file is not as it was written.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(num_cores()) as pool:
        for problem in pool.map(damage, directories):
            if problem:
                raise InputError(problem)
    seconds = time.monotonic() - started
    if seconds > _LONG_SECONDS:
        logger.info("token shards verified in %.0f s; verify_shards: false leaves it out", seconds)


def damage(directory: Path) -> str:
    """Return what is wrong with the files of a finished shard folder and how to mend it, or "" when nothing is."""
    meta = read_meta(directory)
    known = meta.get("files")
    for name in _DATA_NAMES:
        try:
            now = file_facts(directory / name)
        except OSError as error:
            return f"{printable(directory / name)}: {error.strerror}; {_MEND}"
        if known and now != known.get(name):
            return f"{printable(directory / name)}: not the bytes that were written there; {_MEND}"
    if known:
        return ""
    if problem := _miscounted(directory, meta):
        return f"{printable(directory)}: {problem}; {_MEND}"
    with suppress(OSError):  # of a folder that is only read here
        _write_meta(directory, meta | {"files": {name: file_facts(directory / name) for name in _DATA_NAMES}})
        logger.info("%s: made by version 0.1.0; its files have checksums now", directory)
    return ""


def _miscounted(directory: Path, meta: dict) -> str:
    """Return what cannot be right in the files of a folder without checksums, or ""."""
    size, eos_token_id = meta["size"], meta["identity"]["eos_token_id"]
    num_tokens = num_ends = largest = last = 0
    with (directory / TOKENS_NAME).open("rb") as stream:
        while len(token_ids := np.fromfile(stream, dtype=meta["dtype"], count=_HASH_CHUNK_BYTES)):
            num_tokens, last = num_tokens + len(token_ids), int(token_ids[-1])
            num_ends += int(np.count_nonzero(token_ids == eos_token_id))
            largest = max(largest, int(token_ids.max()))
    if num_tokens != size["num_tokens"] or num_ends < size["num_documents"]:
        return f"{TOKENS_NAME} does not hold {size['num_tokens']:,} tokens of {size['num_documents']:,} documents"
    if num_tokens and (largest >= meta.get("vocab_size", 1 << 32) or last != eos_token_id):
        return f"{TOKENS_NAME} holds ids beyond the vocabulary, or ends within a document"
    for name, count in ((HELD_OUT_TEXT_NAME, "num_held_out_documents"), (QUARANTINE_NAME, "num_bad_rows")):
        if (directory / name).read_bytes().count(b"\n") != size[count]:
            return f"{name} does not hold {size[count]:,} lines"
    return ""
