"""`jpllm data …`: look at sources, find duplicates, build token shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime, terminal, whole_files
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.data.clean.preview import PreviewConfig
from jpllm.data.dedup.duplicates import DedupConfig
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import PackConfig
from jpllm.data.shards.token_shards import ShardsSize
from jpllm.evaluation.contamination.benchmarks import BenchmarkConfig
from jpllm.evaluation.contamination.search import ContaminationConfig
from jpllm.evaluation.jglue.files import FETCHABLE, HOST, TaskName


@dataclass
class DedupFiles:
    """Files"""

    sources: list[SourceConfig] = option(REQUIRED, "Texts to compare; of several copies the first one stays.")
    output_dir: Path = option(REQUIRED, "Folder for one drop list per source; give it to the source as exclude.")
    eval_sources: list[SourceConfig] = option(
        default_factory=list, help="Evaluation texts: documents that repeat one of them are listed too."
    )


@dataclass
class ContaminationFiles:
    """Files"""

    sources: list[SourceConfig] = option(REQUIRED, "Training texts to look in.")
    benchmarks: list[BenchmarkConfig] = option(
        REQUIRED, "Files of benchmarks to look for: paths, or entries with the keys below."
    )
    output: Path = option(REQUIRED, "JSON file with the items that were found.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield the problems of a list of sources or benchmarks: nothing in it, or two of one name."""
        for key in ("sources", "benchmarks"):
            labels = [entry.label for entry in getattr(self, key)]
            if not labels:
                yield key, "name at least one"
            for label in sorted({label for label in labels if labels.count(label) > 1}):
                yield key, f"two are called {label!r}; give one of them another name"


@dataclass
class BuiltinConfig:
    """Built-in corpus"""

    output_dir: Path = option(REQUIRED, "Folder for documents, arithmetic, instructions and labels, each a .jsonl.")
    num_bytes: int = option(3_000_000, "UTF-8 bytes of documents; arithmetic has half as many.", minimum=1000)
    num_rows: int = option(2000, "Rows of instructions.jsonl and of labels.jsonl.", minimum=1)
    seed: int = option(0, "Another seed gives other texts.", minimum=0)


@dataclass
class JglueConfig:
    """Download"""

    output_dir: Path = option(REQUIRED, "Folder for the files; give it to recipes/evaluate.py as jglue_dir.")
    tasks: list[TaskName] = option(
        default_factory=lambda: list(FETCHABLE), help="Tasks to fetch; by default all that have a public repository."
    )
    mirror: str = option(HOST, "Server with the same paths as the official one, which is the default.")


def pack(argv: Sequence[str]) -> None:
    """Build the token shards of sources ahead of time."""
    (settings,) = parse([PackConfig], argv, prog="jpllm data pack", description=pack.__doc__)
    from jpllm.data.shards import pack as packing
    from jpllm.data.shards.token_shards import TokenShards
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
            settings.verify_shards,
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
    """Return the documents that are not in the shards, by reason, in brackets."""
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
    (settings,) = parse([PreviewConfig], argv, prog="jpllm data preview", description=preview.__doc__)
    from jpllm.data.clean import preview as previewing

    previews = [previewing.preview(source, settings.num_rows) for source in settings.sources]
    terminal.console().print(previewing.terminal_tables(previews))
    if settings.output:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        whole_files.write_whole(settings.output, previewing.html_page(previews))
        runtime.announce(f"page {settings.output}")


def dedup(argv: Sequence[str]) -> None:
    """List the documents that repeat earlier ones; packing leaves them out (key exclude)."""
    files, settings = parse([DedupFiles, DedupConfig], argv, prog="jpllm data dedup", description=dedup.__doc__)
    from jpllm.data.dedup.drop_list import write_drop_list
    from jpllm.data.dedup.duplicates import find_duplicates
    from jpllm.data.documents import documents_in_place
    from jpllm.data.shards.fingerprints import document_fingerprint, file_states, refuse_changed

    states = list(map(file_states, files.sources))
    named = [[(s.label, documents_in_place(s)) for s in group] for group in (files.sources, files.eval_sources)]
    found_in_each = find_duplicates(named[0], settings, named[1])
    for source, before, found in zip(files.sources, states, found_in_each, strict=True):
        file = files.output_dir / f"{source.label}.duplicates.jsonl"
        fingerprint = document_fingerprint(source)
        refuse_changed(source, before)
        write_drop_list(file, found, fingerprint, settings.settings())
        kinds = [duplicate.kind for duplicate in found.duplicates]
        runtime.announce(
            f"{file}: {kinds.count('exact'):,} exact and {kinds.count('near'):,} near duplicates among "
            f"{found.num_documents:,} documents"
        )


def contamination(argv: Sequence[str]) -> None:
    """Look for the items of benchmarks in training texts, and list those that are there."""
    files, settings = parse(
        [ContaminationFiles, ContaminationConfig],
        argv,
        prog="jpllm data contamination",
        description=contamination.__doc__,
    )
    from jpllm.data.documents import numbered_documents
    from jpllm.data.read.formats import ReadProgress
    from jpllm.evaluation.contamination import report
    from jpllm.evaluation.contamination.benchmarks import read_benchmark
    from jpllm.evaluation.contamination.search import ContaminationSearch

    search = ContaminationSearch(list(map(read_benchmark, files.benchmarks)), settings)
    sources = []
    for source in files.sources:
        progress, counts = ReadProgress(), {"documents": 0, "characters": 0}
        with runtime.progress_bar(f"look in {source.label}", *counts) as update:
            for added in search.look_in(source.label, numbered_documents(source, progress)):
                update(progress.bytes_read, progress.total_bytes, **added)
                counts = {unit: count + added[unit] for unit, count in counts.items()}
        sources.append({"name": source.label, "path": source.path, **counts})
    results = {
        "settings": dataclasses.asdict(settings),
        "sources": sources,
        "benchmarks": report.file_content(search.findings),
    }
    write_jsonl([results], files.output)
    terminal.console().print(report.terminal_table(search.findings))
    runtime.announce(f"{files.output}: the items that were found")


def jglue(argv: Sequence[str]) -> None:
    """Fetch the official files of JGLUE and JCoLA, and check that they are as published."""
    (settings,) = parse([JglueConfig], argv, prog="jpllm data jglue", description=jglue.__doc__)
    from jpllm.evaluation.jglue import files

    for remote in files.files_of(settings.tasks):
        is_new = files.fetch(remote, settings.output_dir, settings.mirror)
        file = settings.output_dir / remote.path.parent.name / remote.path.name
        runtime.announce(f"{file}: {'fetched' if is_new else 'was there'}")


def builtin(argv: Sequence[str]) -> None:
    """Write the built-in corpus: Japanese texts, instruction rows and labelled sentences."""
    (settings,) = parse([BuiltinConfig], argv, prog="jpllm data builtin", description=builtin.__doc__)
    from jpllm.demo import builtin as corpus

    rows = {
        "documents.jsonl": ({"text": text} for text in corpus.documents(settings.seed, settings.num_bytes)),
        "arithmetic.jsonl": (
            {"text": text} for text in corpus.arithmetic_documents(settings.seed, settings.num_bytes // 2)
        ),
        "instructions.jsonl": corpus.instructions(settings.seed, settings.num_rows),
        "labels.jsonl": corpus.labelled_sentences(settings.seed, settings.num_rows),
    }
    for name, content in rows.items():
        write_jsonl(content, settings.output_dir / name)
        runtime.announce(str(settings.output_dir / name))
