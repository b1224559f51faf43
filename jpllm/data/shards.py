"""Token shards: the documents of one source as token ids on disk, memory-mapped.

A folder holds files `tokens-00000.bin` of little-endian uint16 (uint32 from 65,537 ids up), whole documents each
followed by one EOS; beside each a `documents-00000.npy` of shape (documents, 3) with the tokens (EOS included), UTF-8
bytes and characters of each document's original text; `held_out.jsonl` with the texts kept out of training; and
`meta.json`, written last. Nothing depends on a block length: blocks are cut when they are read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jpllm.runtime import InputError

FORMAT = "jpllm-token-shards"
FORMAT_VERSION = 1
META_NAME = "meta.json"
HELD_OUT_TEXT_NAME = "held_out.jsonl"


@dataclass
class ShardsSize:
    """What the shards of a source hold. Bytes and characters are those of the texts as given, before any tokenizer."""

    num_files: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    num_bytes: int = 0
    num_characters: int = 0


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned little-endian type that holds ids below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class ShardWriter:
    """Append documents; a new file starts once one has reached `max_file_tokens`."""

    def __init__(self, directory: Path, dtype: np.dtype, max_file_tokens: int = 1 << 27) -> None:
        self.size = ShardsSize()
        self._directory, self._dtype, self._max_file_tokens = directory, dtype, max_file_tokens
        self._file = None
        self._documents: list[tuple[int, int, int]] = []
        self._file_tokens = 0

    def append(self, token_ids: np.ndarray, text: str) -> None:
        """Add one document: its ids, EOS included, and the text that they came from."""
        if self._file is None:
            self._file = (self._directory / _tokens_name(self.size.num_files)).open("wb")
        self._file.write(token_ids.astype(self._dtype).tobytes())
        self._documents.append((len(token_ids), len(text.encode("utf-8")), len(text)))
        self._file_tokens += len(token_ids)
        if self._file_tokens >= self._max_file_tokens:
            self.close_file()

    def close_file(self) -> None:
        """Finish the current file; the next document starts another."""
        if self._file is None:
            return
        self._file.close()
        documents = np.array(self._documents, dtype=np.int64)
        np.save(self._directory / _documents_name(self.size.num_files), documents)
        num_tokens, num_bytes, num_characters = documents.sum(axis=0).tolist()
        self.size.num_files += 1
        self.size.num_documents += len(documents)
        self.size.num_tokens += num_tokens
        self.size.num_bytes += num_bytes
        self.size.num_characters += num_characters
        self._file, self._documents, self._file_tokens = None, [], 0


def _tokens_name(number: int) -> str:
    return f"tokens-{number:05d}.bin"


def _documents_name(number: int) -> str:
    return f"documents-{number:05d}.npy"


def write_meta(directory: Path, size: ShardsSize, **facts: object) -> None:
    """Write `meta.json`, which marks the folder as complete."""
    meta = {"format": FORMAT, "version": FORMAT_VERSION, "size": asdict(size), **facts}
    (directory / META_NAME).write_text(json.dumps(meta, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def read_meta(directory: Path) -> dict:
    """The facts of a finished shard folder. Raises InputError where there is none."""
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
    """A packed source as one long array of token ids, read from memory-mapped files.

    Attributes:
        size: counts of documents, tokens, bytes and characters.
        documents: int64 array (documents, 3): tokens with EOS, bytes, characters of each.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        meta = read_meta(self.directory)
        self.size = ShardsSize(**meta["size"])
        dtype = np.dtype(meta["dtype"])
        self._files = [self._map(_tokens_name(number), dtype) for number in range(self.size.num_files)]
        tables = [np.load(self.directory / _documents_name(number)) for number in range(self.size.num_files)]
        self.documents = np.concatenate(tables) if tables else np.zeros((0, 3), dtype=np.int64)
        self._file_starts = np.cumsum([0, *(len(file) for file in self._files)])
        if self._file_starts[-1] != self.size.num_tokens:
            raise InputError(
                f"{self.directory}: the files hold {self._file_starts[-1]} tokens instead of {self.size.num_tokens}; "
                "files were cut or mixed: delete the folder and pack again"
            )

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Ids of positions start to stop − 1 as a new int64 array, also across files."""
        if not 0 <= start <= stop <= self.size.num_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.size.num_tokens}")
        first = int(np.searchsorted(self._file_starts, start, side="right")) - 1
        pieces = []
        for file, file_start in zip(self._files[first:], self._file_starts[first:], strict=False):
            if file_start >= stop:
                break
            pieces.append(file[max(start - file_start, 0) : stop - file_start])
        return np.concatenate(pieces).astype(np.int64) if pieces else np.zeros(0, dtype=np.int64)

    def _map(self, name: str, dtype: np.dtype) -> np.ndarray:
        try:
            return np.memmap(self.directory / name, dtype=dtype, mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.directory / name}: {error}; delete the folder and pack the source again") from None
