"""The `jpllm` command: one verb, one function, its keys in one or two configuration classes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import config, runtime
from jpllm.config import REQUIRED, option
from jpllm.data.dedup import DedupConfig
from jpllm.data.pack import PackConfig
from jpllm.data.preview import PreviewConfig
from jpllm.data.shards import ShardsSize
from jpllm.data.sources import SourceConfig, read_documents, write_jsonl
from jpllm.evaluation.generate import SamplingConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.train import TokenizerConfig


@dataclass
class TokenizerFiles:
    """Files"""

    input: list[SourceConfig] = option(REQUIRED, "Texts to train on: paths, or entries with the keys below.")
    output_dir: Path = option(REQUIRED, "New folder for the tokenizer, which AutoTokenizer.from_pretrained loads.")


@dataclass
class ConvertConfig:
    """Files"""

    input: Path = option(REQUIRED, "SentencePiece .model file.")
    output_dir: Path = option(REQUIRED, "New folder for the tokenizer, which AutoTokenizer.from_pretrained loads.")


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


@dataclass
class GenerateConfig:
    """Generation"""

    model: str = option(REQUIRED, "Model folder, or name on the Hugging Face Hub.")
    prompt: list[str] = option(REQUIRED, "Texts to continue.")
    seed: int = option(0, "The same seed gives the same text.", minimum=0)


def tokenizer_train(argv: Sequence[str]) -> None:
    """Train a SentencePiece tokenizer and export it for Hugging Face, ids proved equal."""
    files, settings = _parse(argv, [TokenizerFiles, TokenizerConfig], tokenizer_train, "tokenizer train")
    from jpllm.tokenizer.export import train_and_export

    texts = (text for source in files.input for text in read_documents(source))
    num_proved = train_and_export(texts, settings, files.output_dir)
    runtime.announce(
        f"tokenizer {files.output_dir}: ids equal SentencePiece's on the beginnings of {num_proved:,} documents"
    )


def tokenizer_convert(argv: Sequence[str]) -> None:
    """Export a SentencePiece .model as a Hugging Face tokenizer folder, ids proved equal."""
    (files,) = _parse(argv, [ConvertConfig], tokenizer_convert, "tokenizer convert")
    from jpllm.tokenizer.convert import convert

    convert(files.input, files.output_dir)
    runtime.announce(f"tokenizer {files.output_dir}")


def data_pack(argv: Sequence[str]) -> None:
    """Build the token shards of sources ahead of time."""
    (settings,) = _parse(argv, [PackConfig], data_pack, "data pack")
    from jpllm.data.pack import pack
    from jpllm.data.shards import TokenShards
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load

    encoder = corpus_encoder(load(settings.tokenizer), settings.tokenizer)
    for source in settings.sources:
        directory = pack(
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


def data_preview(argv: Sequence[str]) -> None:
    """Show what the cleaning rules do to the first rows of sources."""
    (settings,) = _parse(argv, [PreviewConfig], data_preview, "data preview")
    from rich.console import Console

    from jpllm.data.preview import html_page, preview, terminal_tables

    previews = [preview(source, settings.num_rows) for source in settings.sources]
    Console().print(terminal_tables(previews))
    if settings.output:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(html_page(previews), encoding="utf-8")
        runtime.announce(f"page {settings.output}")


def data_dedup(argv: Sequence[str]) -> None:
    """List the documents that repeat earlier ones; packing leaves them out (key exclude)."""
    files, settings = _parse(argv, [DedupFiles, DedupConfig], data_dedup, "data dedup")
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


def data_builtin(argv: Sequence[str]) -> None:
    """Write the built-in corpus: Japanese texts, instruction rows and labelled sentences."""
    (settings,) = _parse(argv, [BuiltinConfig], data_builtin, "data builtin")
    from jpllm.data import builtin

    rows = {
        "documents.jsonl": ({"text": text} for text in builtin.documents(settings.seed, settings.num_bytes)),
        "instructions.jsonl": builtin.instructions(settings.seed, settings.num_rows),
        "labels.jsonl": builtin.labelled_sentences(settings.seed, settings.num_rows),
    }
    for name, content in rows.items():
        write_jsonl(content, settings.output_dir / name)
        runtime.announce(str(settings.output_dir / name))


def generate(argv: Sequence[str]) -> None:
    """Continue prompts with a trained model."""
    settings, sampling = _parse(argv, [GenerateConfig, SamplingConfig], generate, "generate")
    from jpllm.evaluation.generate import generate as continuations
    from jpllm.models.build import load_trained
    from jpllm.tokenizer.load import load

    runtime.use_all_cores()
    model, tokenizer = load_trained(settings.model), load(settings.model)
    for prompt, text in zip(
        settings.prompt, continuations(model, tokenizer, settings.prompt, sampling, settings.seed), strict=True
    ):
        runtime.announce(f"{prompt}▸{text}\n")


VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "tokenizer train": tokenizer_train,
    "tokenizer convert": tokenizer_convert,
    "data preview": data_preview,
    "data dedup": data_dedup,
    "data pack": data_pack,
    "data builtin": data_builtin,
    "generate": generate,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `jpllm` command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return runtime.run_command(lambda: _dispatch(argv))


def _dispatch(argv: list[str]) -> None:
    for num_words in (2, 1):
        verb = VERBS.get(" ".join(argv[:num_words]))
        if verb and len(argv) >= num_words:
            runtime.configure_logging()
            verb(argv[num_words:])
            return
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    words = [word for word in argv[:2] if not word.startswith("-")]
    raise InputError(f"unknown command {' '.join(words)!r}{config.suggest(' '.join(words), VERBS)}\n\n{_overview()}")


def _overview() -> str:
    lines = [f"  jpllm {name:<18} {function.__doc__}" for name, function in VERBS.items()]
    return "\n".join(["jpllm: build a Japanese language model at home", "", *lines, "", "Keys: jpllm VERB --help"])


def _parse(argv: Sequence[str], classes: list[type], verb: Callable, name: str) -> tuple:
    return config.parse(classes, argv, prog=f"jpllm {name}", description=verb.__doc__)


if __name__ == "__main__":
    sys.exit(main())
