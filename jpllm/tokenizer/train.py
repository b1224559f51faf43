"""Train a SentencePiece model from a stream of documents, and export it as a Hugging Face tokenizer.

Only `max_sentences` lines are ever in memory, drawn evenly from the whole stream. They are drawn here, because
SentencePiece draws others in each process. The same documents with the same settings give the same bytes; a
different `num_threads` adds numbers in a different order and gives other scores.
"""

from __future__ import annotations

import io
import logging
import random
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpllm import runtime, terminal, whole_files
from jpllm.config.settings import option
from jpllm.runtime import InputError
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.model_file import with_exact_scores
from jpllm.tokenizer.pieces import without_surrogates

# SentencePiece skips a line of more than 4192 bytes without a word; a character takes 4 bytes at most.
MAX_LINE_CHARACTERS = 4192 // 4
MIN_VOCAB_SIZE = 300
MIN_CHARACTER_COVERAGE = 0.98
_SPACE = "▁"  # how pieces spell it; without that piece a space becomes bytes, which decode to "▁"
# Each character of these literals needs a piece of its own, whatever the corpus: only then can a converted
# tokenizer spell out a `</s>` or `<0x0A>` that somebody typed, as SentencePiece does (see `convert`).
RESERVED_LITERALS = "<unk> <pad> <s> </s> <0x0123456789ABCDEF>"
# SentencePiece marks unknown characters with U+2585 while it trains and skips each line that has one.
_UNKNOWN_MARK = "\u2585"
_PROGRESS_INTERVAL_DOCUMENTS = 100
MAX_PROOF_DOCUMENTS = 2000
MAX_PROOF_CHARACTERS = 1000

_PUBLISHED_SETTINGS = {
    "remove_extra_whitespaces": True,
    "add_dummy_prefix": True,
    "byte_fallback": True,
    "split_by_whitespace": False,
    "split_by_number": False,
    "split_by_unicode_script": False,
    "unk_id": 0,
    "pad_id": 1,
    "bos_id": 2,
    "eos_id": 3,
}
_PRESETS: dict[str, dict[str, Any]] = {
    "published": _PUBLISHED_SETTINGS,
    "default": _PUBLISHED_SETTINGS
    | {
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": ["\n", "\t"],
        # Pieces end at punctuation and where the script changes (kana and kanji count as one), so no piece is `」と、`;
        # training is also several times faster, because the lines come apart into short runs.
        "split_by_unicode_script": True,
        "split_by_number": True,
        "split_digits": True,  # each digit is a piece: no `0×5=`, and numbers can be calculated with
    },
}

logger = logging.getLogger(__name__)


def train_and_export(texts: Iterable[str], config: TokenizerConfig, output_dir: Path) -> int:
    """Train on a stream of documents and write a folder that AutoTokenizer loads.

    Before the folder appears, its ids are compared with SentencePiece's, on strings that are likely to differ and on
    the beginnings of the first documents.

    Returns:
        The number of these documents.

    Raises:
        InputError: the texts cannot be read, are empty or do not fit `vocab_size`, or `output_dir` is in use.
    """
    whole_files.refuse_used(output_dir)
    proof_texts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model_file = Path(folder) / "tokenizer.model"
        train(_keeping_beginnings(texts, proof_texts), config, model_file)
        convert(model_file, output_dir, proof_texts)
    return len(proof_texts)


def train(texts: Iterable[str], config: TokenizerConfig, model_file: Path) -> None:
    """Train on a stream of documents and write the model to `model_file`, in one piece or not at all.

    Control ids: unk 0, pad 1, bos 2, eos 3.
    Source: Kudo 2018, https://arxiv.org/abs/1804.10959 (unigram); Kudo and Richardson 2018,
    https://arxiv.org/abs/1808.06226 (SentencePiece).

    Raises:
        InputError: the texts are empty or do not fit `vocab_size`.
    """
    import sentencepiece

    lines: list[str] = []
    generator = random.Random(config.seed)
    for index, line in enumerate(training_lines(_with_progress(texts))):
        _draw(line, index, lines, config.max_sentences, generator)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=config.model_type,
            normalization_rule_name=config.normalization,
            vocab_size=config.vocab_size,
            character_coverage=config.character_coverage,
            max_sentence_length=MAX_LINE_CHARACTERS * 4,
            num_threads=config.num_threads or runtime.num_cores(),
            required_chars="".join(sorted(set(RESERVED_LITERALS) - {" "} | {_SPACE})),
            minloglevel=2,  # errors only; they come as exceptions, too
            **_PRESETS[config.preset],
        )
    except RuntimeError as error:
        raise _as_input_error(error, config) from error
    model_file.parent.mkdir(parents=True, exist_ok=True)
    content = model.getvalue()
    with whole_files.whole_file(model_file) as unfinished:
        unfinished.write_bytes(with_exact_scores(content) if config.model_type == "unigram" else content)


def training_lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of the documents, without empty ones, in pieces of at most `MAX_LINE_CHARACTERS` characters.

    A long line is cut after the last 。 that fits, or else at the limit. Characters that SentencePiece cannot
    train on are deleted: NUL, U+2585 (▅) and lone surrogates.
    """
    for text in texts:
        for line in without_surrogates(text).replace("\0", "").replace(_UNKNOWN_MARK, "").split("\n"):
            begin = 0
            while len(line) - begin > MAX_LINE_CHARACTERS:
                end = line.rfind("。", begin, begin + MAX_LINE_CHARACTERS) + 1 or begin + MAX_LINE_CHARACTERS
                yield line[begin:end]
                begin = end
            if line[begin:].strip():
                yield line[begin:]


def _keeping_beginnings(texts: Iterable[str], kept: list[str]) -> Iterator[str]:
    """Yield the texts, and add the beginnings of the first ones to `kept`."""
    for text in texts:
        if len(kept) < MAX_PROOF_DOCUMENTS:
            kept.append(text[:MAX_PROOF_CHARACTERS])
        yield text


def _draw(item: str, index: int, drawn: list[str], max_items: int, generator: random.Random) -> None:
    """Keep the item number `index` in `drawn`, or not, so that each item so far is there with equal probability.

    Source: Vitter 1985, https://doi.org/10.1145/3147.3165, algorithm R.
    """
    if index < max_items:
        drawn.append(item)
    elif (place := int(generator.random() * (index + 1))) < max_items:
        drawn[place] = item


def _with_progress(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts and count documents and characters on a terminal, until the last text is read.

    SentencePiece never lets Python run while it trains, so nothing can move on the screen after that.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    num_documents = num_characters = 0
    console = terminal.console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("reading: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("0 documents")
        for text in texts:
            yield text
            num_documents += 1
            num_characters += len(text)
            if num_documents % _PROGRESS_INTERVAL_DOCUMENTS == 0:
                count = f"{num_documents:,} documents, {num_characters:,} characters"
                progress.update(task, description=count)
    logger.info(
        "read %s documents, %s characters; SentencePiece trains now, for minutes on a large sample",
        f"{num_documents:,}",
        f"{num_characters:,}",
    )


def _as_input_error(error: RuntimeError, config: TokenizerConfig) -> Exception:
    """Return an InputError that says what to change, or the error itself if it is not about the user's input."""
    message = str(error)
    if match := re.search(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)", message):
        found = f"; write {match[1]} or less, or"
        if int(match[1]) < MIN_VOCAB_SIZE:
            found = f", which has {match[1]} pieces at most, below the least ({MIN_VOCAB_SIZE});"
        return InputError(f"vocab_size: {config.vocab_size} is too large for this text{found} train on more text")
    lower = f", or lower character_coverage ({config.character_coverage})"
    lower = lower if config.character_coverage > MIN_CHARACTER_COVERAGE else ""
    if match := re.search(r"Vocabulary size is smaller than required_chars\. \d+ vs (\d+)", message):
        return InputError(
            f"vocab_size: {config.vocab_size} is too small: the characters of this text alone need {match[1]} "
            f"pieces; write {match[1]} or more{lower}"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return InputError("the training text is empty: no line has a character that can be trained on")
    return error


@dataclass
class TokenizerConfig:
    """Settings of SentencePiece's training."""

    vocab_size: int = option(
        32_000, "Number of pieces, with 4 control and 256 byte pieces among them.", minimum=MIN_VOCAB_SIZE
    )
    preset: Literal["default", "published"] = option(
        "default",
        "default keeps newlines, tabs and indentation, and no piece crosses punctuation; published removes extra "
        "spaces, prefixes one and lets pieces cross, as in the published experiments.",
    )
    model_type: Literal["unigram", "bpe"] = option(
        "unigram",
        "How SentencePiece chooses pieces: by likelihood (unigram) or by merging (bpe); with normalization identity "
        "and the default preset, llama.cpp reads bpe whole (jpllm export --gguf).",
    )
    normalization: Literal["nfkc", "identity"] = option(
        "nfkc",
        "nfkc rewrites every text before it is cut (Ａ to A, ｶﾞ to ガ, U+3000 to a space); identity keeps it as it is, "
        "so that Ａ and A are two pieces.",
    )
    character_coverage: float = option(
        0.9995,
        "Share of the text's characters that get a piece of their own; the rest is spelled in bytes.",
        minimum=MIN_CHARACTER_COVERAGE,
        maximum=1.0,
    )
    max_sentences: int = option(
        100_000,
        "Number of lines to train on, drawn evenly from the whole text; time grows faster than their number, and a "
        "character of them takes about 65 bytes of memory with unigram, 100 with bpe.",
        minimum=1,
    )
    seed: int = option(0, "Another seed draws other lines, where there are more than max_sentences.", minimum=0)
    num_threads: int = option(
        0, "Number of threads, 0 for one per core; set it to get the same model on another machine.", minimum=0
    )
