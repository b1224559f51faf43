"""What checkpoints of one model know of several kinds of text: a matrix of bits per byte, and its change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from jpllm.evaluation import texts
from jpllm.evaluation.results import identity, measured_with
from jpllm.evaluation.score_tables import TableTexts
from jpllm.evaluation.texts import ReadingConfig
from jpllm.models.build import load_trained
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jpllm.data.pack import Encoder

_OF_TEXTS = ("text", "group", "sha256", "max_bytes")
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
        """Difference to the first model: above 0 something was forgotten."""
        return {group: [bits - row[0] for bits in row] for group, row in self.bits_per_byte.items()}


def add_missing(
    results: dict, model: PreTrainedModel, encoder: Encoder, earlier_models: Sequence[str], reading: ReadingConfig
) -> None:
    """Compare the model that `results` are of with earlier ones, unless `results` has just this comparison.

    All read the texts with one context, by default the shortest that one of them has by itself. A comparison with
    other weights, texts or windows is replaced. The texts' rows of this model are added to `results["perplexity"]`.

    Raises:
        InputError: a model or a text cannot be read, or the windows do not fit a model.
    """
    earlier, lengths = zip(*(_described(name, reading.context_length) for name in earlier_models), strict=True)
    length = min(texts.context_length(model, reading.context_length), *lengths)
    reading = replace(reading, context_length=length, stride=reading.stride or length - 1)
    own = texts.add_missing(results.setdefault("perplexity", []), model, encoder, reading)
    settings = {
        "earlier_models": list(earlier),
        "texts": [{key: row[key] for key in _OF_TEXTS} for row in own],
        "context_length": length,
        "stride": reading.stride,
    }
    kept = results.get("forgetting", {})
    if all(kept.get(key) == value for key, value in settings.items()):
        logger.info("forgetting: measured before")
        return
    scores = {
        name: texts.add_missing([], load_trained(name), corpus_encoder(load(name), name), reading)
        for name in earlier_models
    }
    results["forgetting"] = asdict(matrix(scores | {results["model"]: own})) | settings | measured_with()


def matrix(scores: Mapping[str, Sequence[dict]]) -> Matrix:
    """From the rows of scored texts of each model, with `group`, `bits_per_byte` and `num_bytes`.

    Texts of a group are added up: the bits of all through the bytes of all. Rows without `num_bytes` are averages.
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
    """A row for each group; behind every model but the first its change."""
    rows = []
    for group, row in found.bits_per_byte.items():
        changes = found.change[group]
        cells = [f"{row[0]:.4f}", *(f"{bits:.4f} ({by:+.4f})" for bits, by in zip(row[1:], changes[1:], strict=True))]
        rows.append([group, *cells])
    return ["bits per byte", *found.models], rows


def _described(name: str, context_length: int | None) -> tuple[dict, int]:
    """What a model is, and the tokens that it sees at once; its memory is given back."""
    model = load_trained(name)
    return identity(name, model, load(name)), texts.context_length(model, context_length)
