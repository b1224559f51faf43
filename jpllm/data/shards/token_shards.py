"""Write and read token shards: the documents of one source as token ids on disk, memory-mapped.

A finished folder holds `tokens.bin` (little-endian uint16, uint32 from 65,537 ids up: whole documents, each followed by
one EOS), `held_out.jsonl` with the texts kept out of training, `quarantine.jsonl` with the rows that could not be read,
and `meta.json`, written last. Nothing depends on a block length: blocks are cut when they are read.

While it is being built a folder also has `batches.jsonl`: a line for each batch of rows that is safely in the files.
Who comes back after a crash cuts the files to what these lines say and goes on with the next batch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from jpllm import TOKEN_SHARDS_FORMAT
from jpllm.runtime import InputError

FORMAT = "jpllm-token-shards"
FORMAT_VERSION = TOKEN_SHARDS_FORMAT
META_NAME = "meta.json"
TOKENS_NAME = "tokens.bin"
HELD_OUT_TEXT_NAME = "held_out.jsonl"
QUARANTINE_NAME = "quarantine.jsonl"
BATCHES_NAME = "batches.jsonl"
_DATA_NAMES = (TOKENS_NAME, HELD_OUT_TEXT_NAME, QUARANTINE_NAME)


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
            HELD_OUT_TEXT_NAME: _lines({"text": text} for text in batch.held_out),
            QUARANTINE_NAME: _lines(batch.bad_rows),
        }
        self.append_bytes(batch.number, batch.size, content)

    def append_bytes(self, number: int, size: ShardsSize, content: dict[str, bytes]) -> None:
        """Write a batch whose files are given as bytes, as `batches_of` yields them."""
        for name, data in content.items():
            if data:
                self._files[name].write(data)
                _sync(self._files[name])
        record = {"number": number, "bytes": {n: len(data) for n, data in content.items()}, "size": asdict(size)}
        self._records.write(_lines([record]))
        _sync(self._records)
        self.size.add(size)
        self.num_batches += 1

    def close(self) -> None:
        """Close the files of the folder."""
        for file in (*self._files.values(), self._records):
            file.close()


def batches_of(directory: Path) -> Iterator[tuple[int, ShardsSize, dict[str, bytes]]]:
    """Yield number, counts and bytes of each batch of a folder that is being built, as `append_bytes` takes them."""
    files = {name: (directory / name).open("rb") for name in _DATA_NAMES}
    try:
        for record in _records(directory):
            content = {name: files[name].read(record["bytes"][name]) for name in _DATA_NAMES}
            yield record["number"], ShardsSize(**record["size"]), content
    finally:
        for file in files.values():
            file.close()


def write_meta(directory: Path, size: ShardsSize, **facts: object) -> None:
    """Write `meta.json`, which marks the folder as complete, and remove what served the building."""
    meta = {"format": FORMAT, "version": FORMAT_VERSION, "size": asdict(size), **facts}
    (directory / META_NAME).write_text(json.dumps(meta, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (directory / BATCHES_NAME).unlink(missing_ok=True)


def read_meta(directory: Path) -> dict:
    """Return the facts of a finished shard folder. Raises InputError where there is none."""
    try:
        meta = json.loads((directory / META_NAME).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{directory}: no finished token shards ({error}); build them with `jpllm data pack`"
        ) from None
    if meta.get("format") != FORMAT or meta.get("version") != FORMAT_VERSION:
        raise InputError(f"{directory}: {META_NAME} is not of {FORMAT} version {FORMAT_VERSION}; pack the source again")
    return meta


class TokenShards:
    """A packed source as one long array of token ids, read from a memory-mapped file.

    Attributes:
        label: name of the source.
        size: counts of documents, tokens, bytes and characters.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        meta = read_meta(self.directory)
        self.label: str = meta["source"]["label"]
        self.size = ShardsSize(**meta["size"])
        self.eos_token_id: int = meta["identity"]["eos_token_id"]
        dtype, file = np.dtype(meta["dtype"]), self.directory / TOKENS_NAME
        num_tokens = _size_of(file) // dtype.itemsize
        if num_tokens != self.size.num_tokens:
            raise InputError(
                f"{file}: {num_tokens:,} tokens instead of {self.size.num_tokens:,}; the file was cut or mixed: "
                "delete the folder and pack again"
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


def _lines(rows: Iterable[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


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


def _sync(stream) -> None:
    stream.flush()
    os.fsync(stream.fileno())
