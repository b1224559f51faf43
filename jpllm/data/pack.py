"""Turn a source into token shards, once: found again by fingerprint, finished atomically, one builder at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jpllm import runtime
from jpllm.config import REQUIRED, option
from jpllm.data import shards
from jpllm.data.sources import ReadProgress, SourceConfig, content_hash, find_files, read_documents
from jpllm.runtime import InputError

BATCH_CHARACTERS = 1 << 20
DEFAULT_HELD_OUT_FRACTION = 0.01
logger = logging.getLogger(__name__)


@dataclass
class PackConfig:
    """Packing"""

    source: list[SourceConfig] = option(REQUIRED, "Texts to encode: paths, or entries with the keys below.")
    tokenizer: str = option(REQUIRED, "Tokenizer folder, or name on the Hugging Face Hub.")
    output_dir: Path = option(Path("runs/shards"), "Folder of the token shards; give it to a recipe as shards_dir.")
    held_out_fraction: float = option(
        DEFAULT_HELD_OUT_FRACTION,
        "Share of the documents kept out of training; the same as in the recipe.",
        minimum=0,
        maximum=0.5,
    )


class Encoder(Protocol):
    """What packing needs of a tokenizer (`jpllm.tokenizer.encoder.CorpusEncoder`).

    Attributes:
        eos_token_id: written once after each document.
        vocab_size: ids are below it.
        fingerprint: changes whenever an id would.
    """

    eos_token_id: int
    vocab_size: int
    fingerprint: str

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """One id array per text, no special tokens added."""


def pack(
    source: SourceConfig, encoder: Encoder, shards_dir: str | Path, held_out_fraction: float = DEFAULT_HELD_OUT_FRACTION
) -> Path:
    """The finished shard folder of `source` below `shards_dir`; built first if it is not there yet.

    Which documents are held out depends on their text alone, so copies of one document land on the same side, and
    the choice does not change when the corpus grows. Several processes may call this at the same time: one builds,
    the others wait for it. A build that dies leaves no folder that could be taken for a finished one.

    Raises:
        InputError: unreadable or empty source.
    """
    import filelock

    shards_dir = Path(shards_dir)
    shards_dir.mkdir(parents=True, exist_ok=True)
    # The lock is the operating system's: it goes with the process that held it, however that ended.
    with filelock.FileLock(shards_dir / f".{source.label}.lock"):
        facts = _identity(source, encoder, held_out_fraction, shards_dir)
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        directory = shards_dir / f"{source.label}-{digest[:12]}"
        if (directory / shards.META_NAME).exists():
            logger.info("token shards of %s found in %s", source.label, directory)
            return directory
        partial = directory.with_name(directory.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _build(source, encoder, held_out_fraction, partial, facts)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(directory)
    return directory


def text_rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=6).digest(), "little") / 2.0**48


def is_held_out(text: str, fraction: float) -> bool:
    """True for a `fraction` of all texts, decided by `text_rank`."""
    return text_rank(text) < fraction


def _identity(source: SourceConfig, encoder: Encoder, held_out_fraction: float, shards_dir: Path) -> dict:
    """All that determines the bytes of the shards."""
    return {
        "version": shards.FORMAT_VERSION,
        "content": _remembered_hash(source, shards_dir),
        "text_column": source.text_column,
        "document": source.document,
        "tokenizer": encoder.fingerprint,
        "eos_token_id": encoder.eos_token_id,
        "held_out_fraction": held_out_fraction,
    }


def _build(source: SourceConfig, encoder: Encoder, held_out_fraction: float, directory: Path, facts: dict) -> None:
    dtype = shards.token_dtype(encoder.vocab_size)
    writer = shards.ShardWriter(directory, dtype)
    progress = ReadProgress()
    counts = {"num_held_out_documents": 0, "num_blank_documents": 0}
    with (
        (directory / shards.HELD_OUT_TEXT_NAME).open("w", encoding="utf-8") as held_out_file,
        runtime.progress_bar(f"pack {source.label}", "documents", "tokens") as update,
    ):
        for texts in _batches(read_documents(source, progress)):
            kept = [text for text in texts if text and not text.isspace()]
            counts["num_blank_documents"] += len(texts) - len(kept)
            held_out: list[str] = []
            training: list[str] = []
            for text in kept:
                (held_out if is_held_out(text, held_out_fraction) else training).append(text)
            counts["num_held_out_documents"] += len(held_out)
            held_out_file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in held_out)
            for text, token_ids in zip(training, encoder.encode(training), strict=True):
                writer.append(np.append(token_ids, encoder.eos_token_id), text)
                update(progress.bytes_read, progress.total_bytes, documents=1, tokens=len(token_ids) + 1)
    writer.close_file()
    if writer.size.num_documents + counts["num_held_out_documents"] == 0:
        raise InputError(f"{source.path}: the source holds no text ({counts['num_blank_documents']} blank documents)")
    shards.write_meta(
        directory,
        writer.size,
        **counts,
        dtype=dtype.str,
        vocab_size=encoder.vocab_size,
        source={"path": source.path, "label": source.label},
        identity=facts,
    )


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Lists of documents of about BATCH_CHARACTERS together: enough for a batch encoder, bounded in memory."""
    batch: list[str] = []
    num_characters = 0
    for text in documents:
        batch.append(text)
        num_characters += len(text)
        if num_characters >= BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _remembered_hash(source: SourceConfig, shards_dir: Path) -> str:
    """`content_hash`, kept beside the shards so that a large file is read once and not at every launch."""
    if source.is_hub:
        return content_hash(source)
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in find_files(source)]
    key = hashlib.sha256(repr(states).encode()).hexdigest()
    memory = shards_dir / f".{source.label}.content-hash.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}
    if known.get("key") != key:
        known = {"key": key, "content": content_hash(source)}
        memory.write_text(json.dumps(known), encoding="utf-8")
    return known["content"]
