"""Tell sources and their shards apart by fingerprints of what decides the documents and the tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from jpllm.data.clean.aozora import VERSION as AOZORA_VERSION
from jpllm.data.clean.wikitext.plain_text import VERSION as WIKITEXT_VERSION
from jpllm.data.read.sources import SourceConfig, find_files
from jpllm.data.shards.token_shards import FORMAT_VERSION

_HASH_CHUNK_BYTES = 1 << 20


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


def content_hash(source: SourceConfig) -> str:
    """Return the sha256 (hex) of the bytes of a source's files in reading order, or of the address of a Hub dataset.

    A copy under another name has the same hash; any edit changes it.
    """
    digest = hashlib.sha256()
    if source.is_hub:
        digest.update(repr((source.path, source.subset, source.split, source.revision)).encode())
        return digest.hexdigest()
    for file in find_files(source.path):
        digest.update(f"{''.join(file.suffixes)} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def remembered_hash(source: SourceConfig, shards_dir: Path) -> str:
    """Return `content_hash`, which is kept beside the shards, so that a large file is not read at every launch."""
    if source.is_hub:
        return content_hash(source)
    states = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in find_files(source.path)]
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
