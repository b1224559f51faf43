"""Forgetting: bits per byte of several checkpoints on several kinds of text, and the change from the first one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from jpllm.evaluation import texts
from jpllm.evaluation.results import SUMS, identity, measured_with
from jpllm.evaluation.score_tables import TableTexts
from jpllm.evaluation.texts import ReadingConfig
from jpllm.models.adapters import tokenizer_source
from jpllm.models.build import load_trained
from jpllm.models.dtypes import Dtype
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jpllm.data.shards.pack import Encoder

_OF_TEXTS = ("text", "group", "sha256", "max_bytes", "bos_token_id")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Matrix:
    """Bits per byte of each model on each group of texts.

    Attributes:
        bits_per_byte: group → one number per model, in the order of `models`; the first model is the reference.
    """

    models: list[str]
    bits_per_byte: dict[str, list[float]]

    @property
    def change(self) -> dict[str, list[float]]:
        """Difference to the first model; above 0 means that something was forgotten."""
        return {group: [bits - row[0] for bits in row] for group, row in self.bits_per_byte.items()}


def add_missing(
    results: dict,
    model: PreTrainedModel,
    encoder: Encoder,
    earlier_models: Sequence[str],
    reading: ReadingConfig,
    save: Callable = lambda: None,
    dtype: Dtype = "float32",
) -> None:
    """Compare the model of `results` with earlier models, unless `results` already has this comparison.

    All models read the texts with the same context, by default the shortest of their own contexts. A comparison with
    other weights, texts or windows is replaced. The rows of this model are also added to `results["perplexity"]`, those
    of the earlier ones to `results["earlier_texts"]` by their checksums; `save()` is called after each text.

    Raises:
        InputError: a model or a text cannot be read, or the windows do not fit a model.
    """
    earlier, lengths = zip(*(_described(name, reading.context_length, dtype) for name in earlier_models), strict=True)
    length = min(texts.context_length(model, reading.context_length), *lengths)
    reading = replace(reading, context_length=length, stride=reading.stride or length - 1)
    own = texts.add_missing(results.setdefault("perplexity", []), model, encoder, reading, save)
    settings = {
        "earlier_models": list(earlier),
        "texts": [{key: row[key] for key in _OF_TEXTS if key in row} for row in own],
        "context_length": length,
        "stride": reading.stride,
    }
    kept = results.get("forgetting", {})
    if all(kept.get(key) == value for key, value in settings.items()):
        logger.info("forgetting: measured before")
        return
    scores = {}
    for name, described in zip(earlier_models, earlier, strict=True):
        rows = results.setdefault("earlier_texts", {}).setdefault("-".join(described[key] for key in SUMS), [])
        scores[name] = texts.add_missing(rows, *_loaded(name, dtype), reading, save)
    results["forgetting"] = asdict(matrix(scores | {results["model"]: own})) | settings | measured_with()
    save()


def matrix(scores: Mapping[str, Sequence[dict]]) -> Matrix:
    """Return the matrix for the rows of scored texts of each model, with `group`, `bits_per_byte` and `num_bytes`.

    The texts of a group count as one text: all bits divided by all bytes. Rows without `num_bytes` are averages, which
    are left out.
    """
    texts = {model: [row for row in rows if "num_bytes" in row] for model, rows in scores.items()}
    found: dict[str, list[float]] = {}
    for group in dict.fromkeys(row["group"] for rows in texts.values() for row in rows):
        found[group] = []
        for rows in texts.values():
            members = [row for row in rows if row["group"] == group]
            num_bits = sum(row["bits_per_byte"] * row["num_bytes"] for row in members)
            found[group].append(num_bits / sum(row["num_bytes"] for row in members))
    return Matrix(list(scores), found)


def table(found: Matrix) -> TableTexts:
    """Return a table with a row for each group, and the change in brackets for every model but the first."""
    rows = []
    for group, row in found.bits_per_byte.items():
        changes = found.change[group]
        cells = [f"{row[0]:.4f}", *(f"{bits:.4f} ({by:+.4f})" for bits, by in zip(row[1:], changes[1:], strict=True))]
        rows.append([group, *cells])
    return ["bits per byte", *found.models], rows


def _loaded(name: str, dtype: Dtype) -> tuple[PreTrainedModel, Encoder]:
    source = tokenizer_source(name)
    return load_trained(name, dtype=dtype), corpus_encoder(load(source), source)


def _described(name: str, context_length: int | None, dtype: Dtype) -> tuple[dict, int]:
    """Return the identity of a model and the number of tokens that it sees at once; free its memory."""
    tokenizer = load(tokenizer_source(name))
    model = load_trained(name, tokenizer=tokenizer, dtype=dtype)
    return identity(name, model, tokenizer), texts.context_length(model, context_length)
