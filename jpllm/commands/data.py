"""`jpllm data …`: look at sources, find duplicates, build token shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import config, runtime
from jpllm.config import REQUIRED, option
from jpllm.data.dedup import DedupConfig
from jpllm.data.pack import PackConfig
from jpllm.data.preview import PreviewConfig
from jpllm.data.shards import ShardsSize
from jpllm.data.sources import SourceConfig, write_jsonl


@dataclass
class DedupFiles:
    """Files"""

    sources: list[SourceConfig] = option(REQUIRED, "Texts to compare; of several copies the first one stays.")
    output_dir: Path = option(REQUIRED, "Folder for one drop list per source; give it to the source as exclude.")
    eval_sources: list[SourceConfig] = option(
        default_factory=list, help="Evaluation texts: documents that repeat one of them are listed too."
    )


@dataclass
class BuiltinConfig:
    """Built-in corpus"""

    output_dir: Path = option(REQUIRED, "Folder for documents.jsonl, instructions.jsonl and labels.jsonl.")
    num_bytes: int = option(3_000_000, "UTF-8 bytes of the documents together.", minimum=1000)
    num_rows: int = option(2000, "Rows of instructions.jsonl and of labels.jsonl.", minimum=1)
    seed: int = option(0, "Another seed gives other texts.", minimum=0)


def pack(argv: Sequence[str]) -> None:
    """Build the token shards of sources ahead of time."""
    (settings,) = config.parse([PackConfig], argv, prog="jpllm data pack", description=pack.__doc__)
    from jpllm.data import pack as packing
    from jpllm.data.shards import TokenShards
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load

    encoder = corpus_encoder(load(settings.tokenizer), settings.tokenizer)
    for source in settings.sources:
        directory = packing.pack(
            source,
            encoder,
            settings.output_dir,
            settings.held_out_fraction,
            settings.processes,
            settings.chosen_part,
        )
        if settings.part is not None:
            runtime.announce(f"{directory}: part {settings.part}; run again without part when all are there")
            continue
        size = TokenShards(directory).size
        runtime.announce(
            f"{directory}: {size.num_documents:,} documents, {size.num_tokens:,} tokens, "
            f"{size.num_characters / max(size.num_tokens, 1):.2f} characters per token"
            f"{_left_out(size)}"
        )


def _left_out(size: ShardsSize) -> str:
    """The documents that are not in the shards, by reason."""
    counts = {
        "held out": size.num_held_out_documents,
        "blank": size.num_blank_documents,
        "duplicate": size.num_duplicate_documents,
        **{f"dropped by {rule}": count for rule, count in size.dropped.items()},
        "unreadable": size.num_bad_rows,
    }
    parts = [f"{count:,} {reason}" for reason, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""


def preview(argv: Sequence[str]) -> None:
    """Show what the cleaning rules do to the first rows of sources."""
    (settings,) = config.parse([PreviewConfig], argv, prog="jpllm data preview", description=preview.__doc__)
    from rich.console import Console

    from jpllm.data import preview as previewing

    previews = [previewing.preview(source, settings.num_rows) for source in settings.sources]
    Console().print(previewing.terminal_tables(previews))
    if settings.output:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(previewing.html_page(previews), encoding="utf-8")
        runtime.announce(f"page {settings.output}")


def dedup(argv: Sequence[str]) -> None:
    """List the documents that repeat earlier ones; packing leaves them out (key exclude)."""
    files, settings = config.parse([DedupFiles, DedupConfig], argv, prog="jpllm data dedup", description=dedup.__doc__)
    from jpllm.data.dedup import find_duplicates
    from jpllm.data.drop_list import write_drop_list
    from jpllm.data.sources import document_identity, documents_in_place

    named = [[(s.label, documents_in_place(s)) for s in group] for group in (files.sources, files.eval_sources)]
    for source, found in zip(files.sources, find_duplicates(named[0], settings, named[1]), strict=True):
        file = files.output_dir / f"{source.label}.duplicates.jsonl"
        write_drop_list(file, found, document_identity(source), settings.settings())
        kinds = [duplicate.kind for duplicate in found.duplicates]
        runtime.announce(
            f"{file}: {kinds.count('exact'):,} exact and {kinds.count('near'):,} near duplicates among "
            f"{found.num_documents:,} documents"
        )


def builtin(argv: Sequence[str]) -> None:
    """Write the built-in corpus: Japanese texts, instruction rows and labelled sentences."""
    (settings,) = config.parse([BuiltinConfig], argv, prog="jpllm data builtin", description=builtin.__doc__)
    from jpllm.data import builtin as corpus

    rows = {
        "documents.jsonl": ({"text": text} for text in corpus.documents(settings.seed, settings.num_bytes)),
        "instructions.jsonl": corpus.instructions(settings.seed, settings.num_rows),
        "labels.jsonl": corpus.labelled_sentences(settings.seed, settings.num_rows),
    }
    for name, content in rows.items():
        write_jsonl(content, settings.output_dir / name)
        runtime.announce(str(settings.output_dir / name))
