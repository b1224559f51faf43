"""What more pieces do to a model before any training: bits per byte with the old tokenizer and with the new one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from jpllm.data.corpus import encode_text
from jpllm.data.pack import Encoder
from jpllm.evaluation import perplexity
from jpllm.models.build import context_length
from jpllm.models.resize import grow_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_SIZE = 8


def grown(
    model: PreTrainedModel,
    old_ids_of_new_rows: Sequence[Sequence[int]],
    first_new_id: int,
    method: Literal["mean", "random"],
) -> PreTrainedModel:
    """A copy of `model` with rows for the new ids."""
    larger = copy.deepcopy(model)
    grow_embeddings(larger, old_ids_of_new_rows, first_new_id=first_new_id, method=method)
    return larger


def bits_per_byte(model: PreTrainedModel, encoder: Encoder, documents: list[str]) -> float:
    """Bits per UTF-8 byte that `model` needs for the documents as `encoder` cuts them."""
    scores = perplexity.score(
        model,
        [encode_text("text", documents, encoder)],
        eos_token_id=encoder.eos_token_id,
        context_length=context_length(model),
        batch_size=BATCH_SIZE,
    )
    return scores[0].bits_per_byte
