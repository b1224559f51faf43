"""`jpllm tokenizer …`: train, convert, compare and extend tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime, whole_files
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.extend.merges import ExtendConfig
from jpllm.tokenizer.train import TokenizerConfig, train_and_export

_MAX_SCORED_LENGTH, _SCORED_BATCH_SIZE = 2048, 8  # logits of a batch take a few hundred MB


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

    tokenizer: list[str] = option(REQUIRED, "Tokenizer folders, or names on the Hugging Face Hub, to compare.")
    input: list[SourceConfig] = option(REQUIRED, "Texts to encode: paths, or entries with the keys below.")
    max_characters: int = option(1_000_000, "Most characters of all texts together, the same share of each.", minimum=1)
    output: Path | None = option(None, "File for the table: .json for the numbers, or else Markdown.")


@dataclass
class ExtendFiles:
    """Files"""

    tokenizer: str = option(REQUIRED, "Tokenizer to extend: a folder, or a name on the Hugging Face Hub.")
    input: list[SourceConfig] = option(REQUIRED, "Japanese texts to learn from: paths, or entries with the keys below.")
    output_dir: Path = option(REQUIRED, "New folder for the tokenizer, and for the model if there is one.")
    model: str | None = option(
        None, "Model of the tokenizer, a folder or a name on the Hub: saved with rows for the new pieces, and scored."
    )
    held_out_fraction: float = option(
        0.01, "Share of the documents kept from learning and scored, where there is a model.", above=0, maximum=0.5
    )
    held_out_bytes: int = option(200_000, "Most bytes of the held-out documents to score.", minimum=1)


def train(argv: Sequence[str]) -> None:
    """Train a SentencePiece tokenizer and export it for Hugging Face, ids proved equal."""
    files, settings = parse(
        [TokenizerFiles, TokenizerConfig], argv, prog="jpllm tokenizer train", description=train.__doc__
    )
    num_proved = train_and_export(_texts(files.input), settings, files.output_dir)
    runtime.announce(
        f"tokenizer {files.output_dir}: ids equal SentencePiece's on the beginnings of {num_proved:,} documents"
    )


def convert(argv: Sequence[str]) -> None:
    """Export a SentencePiece .model as a Hugging Face tokenizer folder, ids proved equal."""
    (files,) = parse([ConvertConfig], argv, prog="jpllm tokenizer convert", description=convert.__doc__)
    from jpllm.tokenizer import convert as conversion

    conversion.convert(files.input, files.output_dir)
    runtime.announce(f"tokenizer {files.output_dir}")


def report(argv: Sequence[str]) -> None:
    """Compare tokenizers on the same texts: length, bytes, kanji, digits, white space."""
    (settings,) = parse([ReportConfig], argv, prog="jpllm tokenizer report", description=report.__doc__)
    from jpllm.tokenizer import report as reporting
    from jpllm.tokenizer.load import load

    share = max(1, settings.max_characters // max(1, len(settings.input)))
    texts = [text for source in settings.input for text in reporting.sample(read_documents(source), share)]
    table = reporting.rows({path: reporting.describe(load(path), path, texts) for path in settings.tokenizer})
    reporting.show(table)
    if settings.output:
        is_json = settings.output.suffix == ".json"
        content = json.dumps(table, ensure_ascii=False, indent=2) + "\n" if is_json else reporting.markdown_table(table)
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        whole_files.write_whole(settings.output, content)


def extend(argv: Sequence[str]) -> None:
    """Add Japanese pieces to a tokenizer, all old ids kept, and rows for them to its model."""
    files, settings = parse(
        [ExtendFiles, ExtendConfig], argv, prog="jpllm tokenizer extend", description=extend.__doc__
    )
    from jpllm.data.corpus import choose_documents
    from jpllm.data.shards.pack import is_held_out
    from jpllm.tokenizer.extend.extend import extend as extend_tokenizer

    def documents(held_out: bool) -> Iterator[str]:
        fraction = files.held_out_fraction if files.model else 0.0
        return (text for text in _texts(files.input) if is_held_out(text, fraction) == held_out)

    with whole_files.new_folder(files.output_dir) as folder:  # the tokenizer and the model appear together
        extend_tokenizer(files.tokenizer, documents(held_out=False), settings, folder)
        if files.model:
            chosen = choose_documents(documents(held_out=True), files.held_out_bytes)
            _grow_model(files.model, files.tokenizer, folder, chosen)
    runtime.announce(f"{files.output_dir}: {settings.num_pieces:,} new pieces, every old id kept")


def _grow_model(name: str, tokenizer: str, folder: Path, documents: list[str]) -> None:
    """Save the model with rows for the new pieces into `folder`; announce bits per byte before and after."""
    from jpllm.data.corpus import encode_text
    from jpllm.evaluation import perplexity
    from jpllm.models.build import context_length, load_trained
    from jpllm.models.resize import grow_embeddings
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load
    from jpllm.tokenizer.pieces import first_new_id, old_ids_of_new_pieces

    if not documents:
        raise InputError("held_out_fraction: no document is left to score the model on; raise it or give more texts")
    runtime.use_all_cores()
    old, new = load(tokenizer), load(folder)
    for label, path, method in (
        ("old tokenizer", tokenizer, None),
        ("new tokenizer, new rows random", folder, "random"),
        ("new tokenizer, new rows the mean of their old pieces", folder, "mean"),
    ):
        model = load_trained(name, dtype="saved")
        if method:
            grow_embeddings(model, old_ids_of_new_pieces(old, new), first_new_id=first_new_id(old), method=method)
        encoder = corpus_encoder(new if method else old, path)
        (score,) = perplexity.score(
            model,
            [encode_text(label, documents, encoder)],
            eos_token_id=encoder.eos_token_id,
            context_length=min(context_length(model), _MAX_SCORED_LENGTH),
            batch_size=_SCORED_BATCH_SIZE,
        )
        runtime.announce(f"{label}: {score.bits_per_byte:.4f} bits per byte, {score.num_tokens:,} tokens")
    model.save_pretrained(folder)


def _texts(sources: Sequence[SourceConfig]) -> Iterator[str]:
    return (text for source in sources for text in read_documents(source))
