"""Scores of texts as rows of results: bits per byte, the text that was read, and the windows it was read in."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.config.settings import option
from jpllm.data.corpus import choose_documents, encode_text
from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.evaluation import perplexity, score_tables
from jpllm.evaluation.results import measured_with
from jpllm.models import build
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jpllm.data.shards.pack import Encoder

MAX_DEFAULT_CONTEXT = 2048
COLUMNS = {
    "text": "text",
    "num_tokens": "tokens",
    "num_bytes": "bytes",
    "loss": "loss",
    "perplexity": "perplexity",
    "bits_per_character": "bits/character",
    "bits_per_byte": "bits/byte",
    "unigram_bits_per_byte": "unigram fitted on the text, bits/byte",
    "xz_bits_per_byte": "xz -9 bits/byte",
    "context_length": "context",
    "stride": "stride",
}
# Rows that agree in these are the same.
SETTINGS = ("text", "sha256", "max_bytes", "context_length", "stride", "bos_token_id")
_BOS_SAMPLE_BYTES = 200_000
_RATES = (
    "loss",
    "perplexity",
    "bits_per_character",
    "bits_per_byte",
    "unigram_bits_per_byte",
    "xz_bits_per_byte",
)
logger = logging.getLogger(__name__)


@dataclass
class ReadingConfig:
    """Texts to score, and how a model reads"""

    texts: list[SourceConfig] = option(
        default_factory=list, help="Texts to score: paths, or entries with the keys below."
    )
    max_bytes: int = option(10_000_000, "Most bytes of each text, whole documents chosen by their hash.", minimum=1)
    context_length: int | None = option(
        None, "Tokens that the model sees at once; by default the length it was trained on, at most 2,048.", minimum=2
    )
    stride: int | None = option(None, "Tokens scored per window; by default context_length − 1.", minimum=1)
    batch_size: int = option(8, "Windows or prompts per forward pass.", minimum=1)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for texts that are named twice."""
        names = [source.label for source in self.texts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield "texts", f"{', '.join(twice)}: named twice; results are told apart by these names"


def add_missing(
    rows: list[dict], model: PreTrainedModel, encoder: Encoder, reading: ReadingConfig, save: Callable = lambda: None
) -> list[dict]:
    """Return a row for each text of `reading`, in their order; score the texts without a row, and add these to `rows`.

    `save()` is called after each text. With several processes all of them must call this function, and each gets all
    rows.

    Raises:
        InputError: a text cannot be read, or the windows do not fit the model.
    """
    windows = _windows(model, reading)
    found = []
    for source in reading.texts:
        documents = choose_documents(read_documents(source), reading.max_bytes)
        sha256 = hashlib.sha256("\0".join(documents).encode()).hexdigest()
        settings = {"text": source.label, "sha256": sha256, "max_bytes": reading.max_bytes, **windows}
        settings |= {} if encoder.bos_token_id is None else {"bos_token_id": encoder.bos_token_id}
        row = next((row for row in rows if all(row.get(key) == settings.get(key) for key in SETTINGS)), None)
        if row is None:
            row = {**settings, **_scored(model, encoder, settings, documents, reading.batch_size), **measured_with()}
            rows.append(row)
        else:
            logger.info("%s: scored before", source.label)
        row["group"] = source.group or source.label
        found.append(row)
        save()
    return found


def context_length(model: PreTrainedModel, wanted: int | None) -> int:
    """Return the number of tokens that the model sees at once.

    It is `wanted`, by default the length that the model was trained on, but at most 2,048.

    Raises:
        InputError: `wanted` is more than the model has positions.
    """
    positions = build.num_positions(model)
    length = wanted or min(build.context_length(model), MAX_DEFAULT_CONTEXT)
    if positions and length > positions:
        raise InputError(f"context_length: {length:,} is more than the model's {positions:,} positions")
    return length


def table(rows: Sequence[dict]) -> score_tables.TableTexts:
    """Return the rows as a table, and below them the averages, arithmetic ones and the geometric one of perplexity."""
    return score_tables.table([*rows, *averages(rows)], COLUMNS)


def bos_remarks(rows: Sequence[dict]) -> Iterator[str]:
    """Yield a sentence for each text that a model reads differently without its BOS."""
    for row in rows:
        if "bos_effect" in row:
            effect = perplexity.BosEffect(**row["bos_effect"])
            yield f"{row['text']} ({effect.num_bytes:,} bytes): {effect}."


def averages(rows: Sequence[dict]) -> Iterator[dict]:
    """Yield the means of rows with the same windows, where there are several; each text counts the same.

    The arithmetic mean of perplexities is what is published; the worst text decides it. The geometric one is that of
    the mean loss.
    """
    keys = ("max_bytes", "context_length", "stride")
    for settings in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        members = [row for row in rows if tuple(row[key] for key in keys) == settings]
        if len(members) > 1:
            means = {rate: sum(row[rate] for row in members) / len(members) for rate in _RATES}
            windows = dict(zip(keys, settings, strict=True))
            yield {"text": "average", **means, **windows}
            yield {"text": "geometric mean", "perplexity": math.exp(means["loss"]), **windows}


def _windows(model: PreTrainedModel, reading: ReadingConfig) -> dict[str, int]:
    length = context_length(model, reading.context_length)
    if reading.stride and reading.stride >= length:
        raise InputError(f"stride: {reading.stride:,} must be below the context length ({length:,})")
    return {"context_length": length, "stride": reading.stride or length - 1}


def _scored(model: PreTrainedModel, encoder: Encoder, settings: dict, documents: list[str], batch_size: int) -> dict:
    text = encode_text(settings["text"], documents, encoder)
    score_texts = partial(
        perplexity.score,
        model,
        eos_token_id=encoder.eos_token_id,
        context_length=settings["context_length"],
        stride=settings["stride"],
        batch_size=batch_size,
        rank=runtime.process_rank(),
        num_ranks=runtime.num_processes(),
    )
    (score,) = score_texts([text])
    row = {
        **{key: getattr(score, key) for key in COLUMNS if hasattr(score, key)},
        "unigram_bits_per_byte": perplexity.unigram_bits_per_byte(text),
        "xz_bits_per_byte": perplexity.xz_bits_per_byte(documents),
    }
    if encoder.bos_token_id is not None:
        chosen = choose_documents(documents, _BOS_SAMPLE_BYTES)
        is_all = chosen == documents
        sample, scores = (text, [score]) if is_all else (encode_text(text.name, chosen, encoder), [])
        effect = perplexity.bos_effect(score_texts, [sample], encoder.bos_token_id, scores)
        if effect.is_worth_telling:
            logger.warning("%s, %s bytes of it: %s", text.name, f"{effect.num_bytes:,}", effect)
            row["bos_effect"] = asdict(effect)
    return row
