"""How probable a model finds the wanted answers, and what it answers by itself."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.instruct_blocks import padded
from jpllm.data.instruct_rows import Row
from jpllm.evaluation.token_scores import TokenScore, sum_over_batches, sum_over_processes, token_score, token_sums

if TYPE_CHECKING:
    import torch

_RESULT = "答えは"


def score(
    model: torch.nn.Module,
    rows: Sequence[Row],
    *,
    pad_token_id: int,
    padding_side: str = "right",
    batch_size: int = 8,
    autocast: AbstractContextManager | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> TokenScore:
    """Score the rows with `model` (evaluation mode for the duration), each alone, those of similar length in a batch.

    With several processes see `sum_over_batches` and `sum_over_processes`.
    """
    from jpllm.models.evaluating import evaluating

    items = [{"input_ids": row.ids, "labels": row.labels} for row in sorted(rows, key=len, reverse=True)]

    def sums_of(batch: Sequence[dict]) -> np.ndarray:
        return _sums(model, padded(batch, pad_token_id, padding_side))

    with evaluating(model, autocast):
        sums = np.zeros(3) + sum_over_batches(items, sums_of, batch_size, rank, num_ranks)
    return token_score(sum_over_processes(sums, model, num_ranks))


def _sums(model: torch.nn.Module, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """See `token_sums`, of a padded batch."""
    import torch

    device = next(model.parameters()).device
    batch = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
    labels = batch.pop("labels")[:, 1:]
    return token_sums(model(**batch).logits[:, :-1], labels)


def is_right(answer: str, wanted: str) -> bool:
    """Whether two answers are the same but for the width of characters and white space.

    Of a wanted answer that gives its reasons before the words 答えは only what follows them counts.
    """
    wanted = _comparable(wanted)
    if _RESULT in wanted:
        return _RESULT in answer and _after(_comparable(answer)) == _after(wanted)
    return _comparable(answer) == wanted


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _after(text: str) -> str:
    return text.rpartition(_RESULT)[2]
