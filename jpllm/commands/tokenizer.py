"""`jpllm tokenizer …`: train, convert, compare and extend tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import config, runtime
from jpllm.config import REQUIRED, option
from jpllm.data.sources import SourceConfig, read_documents
from jpllm.runtime import InputError
from jpllm.tokenizer.extend import ExtendConfig
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
class ReportConfig:
    """Report"""

    tokenizer: list[str] = option(REQUIRED, "Tokenizer folders, or names on the Hugging Face Hub; one column each.")
    input: list[SourceConfig] = option(REQUIRED, "Texts to cut: paths, or entries with the keys below.")
    max_characters: int = option(1_000_000, "Characters of the texts to read.", minimum=1)
    output: Path | None = option(None, "Markdown file for the table.")


@dataclass
class ExtendFiles:
    """Files"""

    tokenizer: str = option(REQUIRED, "Tokenizer folder, or name on the Hugging Face Hub.")
    input: list[SourceConfig] = option(REQUIRED, "Japanese texts to learn pieces from.")
    output_dir: Path = option(REQUIRED, "New folder for the tokenizer, and for the model if one is named.")
    model: str | None = option(None, "Model of that tokenizer, to be given rows for the new pieces.")
    eval_sources: list[SourceConfig] = option(
        default_factory=list, help="Texts for bits per byte before and after; by default some of input."
    )
    eval_bytes: int = option(100_000, "Most bytes of these texts.", minimum=1)


def train(argv: Sequence[str]) -> None:
    """Train a SentencePiece tokenizer and export it for Hugging Face, ids proved equal."""
    files, settings = config.parse(
        [TokenizerFiles, TokenizerConfig], argv, prog="jpllm tokenizer train", description=train.__doc__
    )
    from jpllm.tokenizer.export import train_and_export

    num_proved = train_and_export(_texts(files.input), settings, files.output_dir)
    runtime.announce(
        f"tokenizer {files.output_dir}: ids equal SentencePiece's on the beginnings of {num_proved:,} documents"
    )


def convert(argv: Sequence[str]) -> None:
    """Export a SentencePiece .model as a Hugging Face tokenizer folder, ids proved equal."""
    (files,) = config.parse([ConvertConfig], argv, prog="jpllm tokenizer convert", description=convert.__doc__)
    from jpllm.tokenizer import convert as conversion

    conversion.convert(files.input, files.output_dir)
    runtime.announce(f"tokenizer {files.output_dir}")


def report(argv: Sequence[str]) -> None:
    """Compare tokenizers on texts: length, byte pieces, kanji, digits, longest pieces."""
    (settings,) = config.parse([ReportConfig], argv, prog="jpllm tokenizer report", description=report.__doc__)
    from jpllm.tokenizer.load import load
    from jpllm.tokenizer.report import describe, markdown_table, rows, sample, show

    texts = sample(_texts(settings.input), settings.max_characters)
    if not texts:
        raise InputError("input: the texts are empty")
    table = rows({path: describe(load(path), path, texts) for path in settings.tokenizer})
    show(table)
    if settings.output:
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(markdown_table(table) + "\n", encoding="utf-8")


def extend(argv: Sequence[str]) -> None:
    """Add Japanese pieces to a tokenizer and, if a model is named, rows to the model."""
    files, settings = config.parse(
        [ExtendFiles, ExtendConfig], argv, prog="jpllm tokenizer extend", description=extend.__doc__
    )
    from jpllm.tokenizer import extend as extension

    extension.extend(files.tokenizer, _texts(files.input), settings, files.output_dir)
    runtime.announce(f"tokenizer {files.output_dir}: {settings.num_pieces:,} more pieces, every old id as it was")
    if files.model:
        _extend_model(files)


def _extend_model(files: ExtendFiles) -> None:
    """Save the grown model beside the new tokenizer, and show bits per byte before and after."""
    from jpllm.data.corpus import choose_documents
    from jpllm.evaluation.extension import bits_per_byte, grown
    from jpllm.models.build import load_trained
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.extend import first_new_id, old_pieces
    from jpllm.tokenizer.load import load

    runtime.use_all_cores()
    old, new, model = load(files.tokenizer), load(files.output_dir), load_trained(files.model)
    pieces, first_id = old_pieces(old, new), first_new_id(old)
    documents = choose_documents(_texts(files.eval_sources or files.input), files.eval_bytes)
    scores = {"old tokenizer": bits_per_byte(model, corpus_encoder(old, files.tokenizer), documents)}
    for method in ("random", "mean"):
        larger = grown(model, pieces, first_id, method)
        scores[f"new rows {method}"] = bits_per_byte(larger, corpus_encoder(new, files.output_dir), documents)
    larger.save_pretrained(files.output_dir)
    runtime.announce("bits per byte before any training: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))


def _texts(sources: Sequence[SourceConfig]) -> Iterator[str]:
    return (text for source in sources for text in read_documents(source))
