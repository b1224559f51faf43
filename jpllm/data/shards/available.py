"""Find out how many tokens the sources of an experiment hold, from shards that are there, else by the size of files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jpllm.data.corpus import DataConfig
from jpllm.data.read.files import find_files
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.fingerprints import bos_facts, shards_facts
from jpllm.data.shards.token_shards import META_NAME, TokenShards, read_meta
from jpllm.runtime import InputError

# Estimates for Japanese text: 1.85 characters a token (Aozora Bunko, 16,000 pieces), and what compression leaves of it.
BYTES_PER_TOKEN = 5.5
_TEXT_BYTES_PER_FILE_BYTE = {".gz": 2.9, ".zst": 3.0, ".bz2": 3.0, ".parquet": 1.8}


@dataclass(frozen=True)
class SourceTokens:
    """Training tokens of a source.

    Attributes:
        num_tokens: None where it cannot be known.
        is_exact: counted in token shards, not estimated.
        origin: where the number comes from.
    """

    label: str
    num_tokens: int | None
    is_exact: bool
    origin: str


def available_tokens(
    config: DataConfig, tokenizer_fingerprint: str | None, bos_token_id: int | None = None
) -> list[SourceTokens]:
    """Return the training tokens of each source, in order. Without a tokenizer no shards are found.

    `bos_token_id` is what documents begin with, None where that is nothing.
    """
    return [_tokens_of(source, config, tokenizer_fingerprint, bos_token_id) for source in config.sources]


def shards_of(
    source: SourceConfig, config: DataConfig, tokenizer_fingerprint: str, bos_token_id: int | None = None
) -> TokenShards | None:
    """Return the newest finished shards of a source with the settings of reading, cleaning and encoding of today.

    The files of the source are not read, so shards of an earlier content are found as well.
    """
    facts = shards_facts(source, tokenizer_fingerprint, config.effective_held_out_fraction)
    wanted = json.loads(json.dumps(facts | bos_facts(bos_token_id)))
    found = [
        file
        for file in config.shards_dir.glob(f"{source.label}-*/{META_NAME}")
        if wanted.items() <= _facts_of(file.parent).items()
    ]
    return TokenShards(max(found, key=lambda file: file.stat().st_mtime).parent) if found else None


def _facts_of(directory: Path) -> dict:
    """Return what determined the bytes of finished shards, and nothing where they cannot be used."""
    try:
        return read_meta(directory)["identity"]
    except InputError:
        return {}


def _tokens_of(
    source: SourceConfig, config: DataConfig, tokenizer_fingerprint: str | None, bos_token_id: int | None
) -> SourceTokens:
    shards = shards_of(source, config, tokenizer_fingerprint, bos_token_id) if tokenizer_fingerprint else None
    if shards:
        return SourceTokens(source.label, shards.size.num_tokens, True, str(shards.directory))
    try:
        num_bytes = source.max_bytes if source.is_hub else _num_text_bytes(source)
    except InputError:
        return SourceTokens(source.label, None, False, "not there yet")
    if num_bytes is None:
        return SourceTokens(source.label, None, False, "not known before it is packed")
    num_tokens = int(num_bytes * (1 - config.effective_held_out_fraction) / BYTES_PER_TOKEN)
    return SourceTokens(source.label, num_tokens, False, f"estimate: {BYTES_PER_TOKEN} bytes of text a token")


def _num_text_bytes(source: SourceConfig) -> float:
    """Return about how many bytes of text the files of a source hold."""
    files = find_files(source.path)
    num_bytes = sum(file.stat().st_size * _TEXT_BYTES_PER_FILE_BYTE.get(file.suffix, 1.0) for file in files)
    return min(num_bytes, source.max_bytes or num_bytes)
