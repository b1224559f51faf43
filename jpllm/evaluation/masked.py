"""How well a masked language model fills in words of a text that it never saw.

The masks depend on the text alone, so every evaluation, of every model with this tokenizer, hides the same words. The
loss is per hidden token, with the rest of the block in sight: neither a probability of the text nor bits per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.blocks import IGNORED_LABEL
from jpllm.data.corpus import EncodedText
from jpllm.data.masking import Masking
from jpllm.evaluation.token_scores import TokenScore, sum_over_batches, sum_over_processes, token_score, token_sums

if TYPE_CHECKING:
    import torch


def score(
    model: torch.nn.Module,
    texts: Sequence[EncodedText],
    *,
    masking: Masking,
    context_length: int,
    batch_size: int,
    autocast: AbstractContextManager | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> list[TokenScore]:
    """Score each text with `model` (evaluation mode for the duration), in blocks of `context_length` tokens.

    With several processes see `sum_over_batches` and `sum_over_processes`.
    """
    from jpllm.models.evaluating import evaluating

    sums = np.zeros((len(texts), 3))
    with evaluating(model, autocast):
        for index, text in enumerate(texts):
            blocks = hidden_blocks(text.token_ids, masking, context_length)
            sums[index] = sum_over_batches(blocks, partial(_sums, model), batch_size, rank, num_ranks)
    sums = sum_over_processes(sums, model, num_ranks)
    return [token_score(row, text.name) for text, row in zip(texts, sums, strict=True)]


def total(scores: Sequence[TokenScore], name: str = "total") -> TokenScore:
    """All texts as if they were one."""
    sums = (sum(getattr(score, key) for score in scores) for key in ("num_tokens", "num_correct", "nll_nats"))
    return TokenScore(*sums, name)


def hidden_blocks(token_ids: np.ndarray, masking: Masking, context_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids with words hidden, and labels, of each run of `context_length` tokens; the last one may be shorter."""
    starts = range(0, len(token_ids), context_length)
    return [masking.hide(token_ids[start : start + context_length], f"evaluation/{start}") for start in starts]


def _sums(model: torch.nn.Module, batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """See `token_sums`, of a batch of ids and labels."""
    import torch

    length = max(len(ids) for ids, _ in batch)
    input_ids = torch.zeros(len(batch), length, dtype=torch.int64)
    labels = torch.full((len(batch), length), IGNORED_LABEL)
    attention_mask = torch.zeros(len(batch), length, dtype=torch.int64)
    for row, (ids, targets) in enumerate(batch):
        input_ids[row, : len(ids)] = torch.from_numpy(ids)
        labels[row, : len(ids)] = torch.from_numpy(targets)
        attention_mask[row, : len(ids)] = 1
    device = next(model.parameters()).device
    logits = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device)).logits
    return token_sums(logits, labels.to(device))
