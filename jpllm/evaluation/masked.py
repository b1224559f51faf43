"""How well a masked language model fills in words of a text that it never saw.

The masks depend on the text alone, so every evaluation, of every model with this tokenizer, hides the same words. The
loss is per hidden token, with the rest of the block in sight: neither a probability of the text nor bits per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.blocks import IGNORED_LABEL
from jpllm.data.corpus import EncodedText
from jpllm.data.masking import Masking

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MaskedScore:
    """What a model made of the hidden tokens of a text."""

    name: str
    num_tokens: int
    num_correct: int
    nll_nats: float

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per hidden token in nats."""
        return self.nll_nats / max(self.num_tokens, 1)

    @property
    def accuracy(self) -> float:
        """Share of the hidden tokens that the model thinks the most probable ones."""
        return self.num_correct / max(self.num_tokens, 1)


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
) -> list[MaskedScore]:
    """Score each text with `model` (evaluation mode for the duration), in blocks of `context_length` tokens.

    With several processes each takes every `num_ranks`-th batch, and the sums are added over the default process group.
    All of them call the model equally often, with nothing to count if need be: one that shares its weights needs that.
    """
    import torch

    sums = np.zeros((len(texts), 3))
    was_training = model.training
    model.eval()
    with torch.no_grad(), autocast or nullcontext():
        for index, text in enumerate(texts):
            blocks = hidden_blocks(text.token_ids, masking, context_length)
            for start in range(0, len(blocks), num_ranks * batch_size):
                own = blocks[start + rank * batch_size :][:batch_size]
                counts = _counts(model, own or blocks[:1])
                sums[index] += counts if own else 0.0
    model.train(was_training)
    if num_ranks > 1:
        total = torch.from_numpy(sums).to(next(model.parameters()).device)
        torch.distributed.all_reduce(total)
        sums = total.cpu().numpy()
    return [
        MaskedScore(text.name, int(num_tokens), int(num_correct), float(nll_nats))
        for text, (num_tokens, num_correct, nll_nats) in zip(texts, sums, strict=True)
    ]


def total(scores: Sequence[MaskedScore], name: str = "total") -> MaskedScore:
    """All texts as if they were one."""
    sums = (sum(getattr(score, key) for score in scores) for key in ("num_tokens", "num_correct", "nll_nats"))
    return MaskedScore(name, *sums)


def hidden_blocks(token_ids: np.ndarray, masking: Masking, context_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids with words hidden, and labels, of each run of `context_length` tokens; the last one may be shorter."""
    starts = range(0, len(token_ids), context_length)
    return [masking.hide(token_ids[start : start + context_length], f"evaluation/{start}") for start in starts]


def _counts(model: torch.nn.Module, batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Hidden tokens, right answers and negative log-likelihood, float64 (3,), from float32 logits."""
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
    all_logits = model(input_ids=input_ids.to(device), attention_mask=attention_mask.to(device)).logits
    sums = np.zeros(3)
    for row_logits, row_labels in zip(all_logits, labels.to(device), strict=True):
        chosen = row_labels != IGNORED_LABEL
        logits, wanted = row_logits[chosen].float(), row_labels[chosen]
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        num_correct = (logits.argmax(-1) == wanted).sum()
        sums += [len(wanted), num_correct.item(), losses.cpu().double().sum().item()]
    return sums
