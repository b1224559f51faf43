"""Tell sources and their shards apart by fingerprints of what decides the documents and the tokens."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from jpllm.data.clean.aozora import VERSION as AOZORA_VERSION
from jpllm.data.clean.wikitext.plain_text import VERSION as WIKITEXT_VERSION
from jpllm.data.read.files import find_files, printable
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.token_shards import FORMAT_VERSION
from jpllm.runtime import InputError
from jpllm.whole_files import write_whole

_HASH_CHUNK_BYTES = 1 << 20
_NUM_SAMPLES, _SAMPLE_BYTES = 16, 4096


def document_fingerprint(source: SourceConfig) -> str:
    """Return the sha256 (hex) of what decides the documents of a source: content, reading and cleaning."""
    facts = content_hash(source), _reading_facts(source), _cleaning_facts(source)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def shards_facts(source: SourceConfig, tokenizer_fingerprint: str | None, held_out_fraction: float) -> dict:
    """Return what decides the tokens in the shards of a source, beside the content of its files and the EOS token."""
    return {
        "version": FORMAT_VERSION,
        **_reading_facts(source),
        "clean": _cleaning_facts(source),
        "exclude": source.exclude and hashlib.sha256(Path(source.exclude).read_bytes()).hexdigest(),
        "tokenizer": tokenizer_fingerprint,
        "held_out_fraction": held_out_fraction,
    }


def bos_facts(bos_token_id: int | None) -> dict[str, int]:
    """Return the fact that documents begin with a BOS; none without one, as in shards of version 0.1.0."""
    return {} if bos_token_id is None else {"bos_token_id": bos_token_id}


def content_hash(source: SourceConfig) -> str:
    """Return the sha256 (hex) of the bytes of a source's files in reading order, or of the address of a Hub dataset.

    A copy under another name has the same hash; any edit changes it.
    """
    digest = hashlib.sha256()
    if source.is_hub:
        digest.update(repr((source.path, source.subset, source.split, source.revision)).encode())
        return digest.hexdigest()
    for file in find_files(source.path):
        digest.update(os.fsencode(f"{''.join(file.suffixes)} {file.stat().st_size}\n"))
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def file_states(source: SourceConfig) -> str:
    """Return a hash that changes whenever one of a source's files is written to or replaced; "" for a Hub dataset.

    It covers names, sizes and times, that of the last change of the file's facts among them, which no program can set
    back, and samples of the content, for file systems without such times.
    """
    if source.is_hub:
        return ""
    digest = hashlib.sha256()
    for file in find_files(source.path):
        facts = file.stat()
        times = facts.st_mtime_ns, facts.st_ctime_ns
        digest.update(repr((str(file.resolve()), facts.st_ino, facts.st_size, *times)).encode())
        with file.open("rb", buffering=0) as stream:
            for number in range(_NUM_SAMPLES):
                stream.seek(max(0, facts.st_size - _SAMPLE_BYTES) * number // (_NUM_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
                if facts.st_size <= _SAMPLE_BYTES:
                    break
    return digest.hexdigest()


def refuse_changed(source: SourceConfig, states: str) -> None:
    """Raise InputError if files of a source are not what they were when `file_states` gave `states`."""
    if file_states(source) != states:
        raise InputError(
            f"{printable(source.path)}: the source changed while it was read, so what was made of it belongs to no "
            "content; run the same command again when nothing writes to it"
        )


def remembered_hash(source: SourceConfig, shards_dir: Path, states: str) -> str:
    """Return `content_hash`, which is kept beside the shards, so that a large file is not read at every launch.

    `states` are those of `file_states` before: a hash is remembered for as long as they stay the same.

    Raises:
        InputError: the source changes while it is read.
    """
    if source.is_hub:
        return content_hash(source)
    memory = shards_dir / f".{source.label}.content-hash.json"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known["key"] == states and re.fullmatch("[0-9a-f]{64}", known["content"]):
            return known["content"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass  # nothing remembered, or nothing that can be read
    content = content_hash(source)
    refuse_changed(source, states)
    write_whole(memory, json.dumps({"key": states, "content": content}))
    return content


def _reading_facts(source: SourceConfig) -> dict[str, object]:
    """Return the settings that decide which texts `read_texts` yields, beside the content of the files."""
    names = ("text_column", "template", "where", "document", "encoding", "max_rows", "max_bytes", "max_characters")
    return {name: getattr(source, name) for name in names}


def _cleaning_facts(source: SourceConfig) -> list:
    """Return the rules of a source with the thresholds that are set, and the versions of formats that they read."""
    rules = [[rule.rule, {key: float(value) for key, value in rule.given.items()}] for rule in source.clean]
    formats = [["wikitext", {"version": WIKITEXT_VERSION}]] if source.has_wikitext else []
    if any(rule.rule == "aozora" for rule in source.clean):
        formats.append(["aozora", {"version": AOZORA_VERSION}])
    return [*rules, *formats]
