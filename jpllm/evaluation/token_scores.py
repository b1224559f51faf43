"""What a model makes of tokens that it is to predict, in batches that processes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jpllm.data.blocks import IGNORED_LABEL

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")


@dataclass(frozen=True)
class TokenScore:
    """How many tokens were to be predicted, how many the model thinks the most probable ones, and how probable all."""

    num_tokens: int
    num_correct: int
    nll_nats: float
    name: str = ""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token in nats."""
        return self.nll_nats / max(self.num_tokens, 1)

    @property
    def accuracy(self) -> float:
        """Share of the tokens that the model thinks the most probable ones."""
        return self.num_correct / max(self.num_tokens, 1)


def token_score(sums: np.ndarray, name: str = "") -> TokenScore:
    """The score of what `token_sums` counts."""
    num_tokens, num_correct, nll_nats = sums
    return TokenScore(int(num_tokens), int(num_correct), float(nll_nats), name)


def token_sums(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Labels that count, right ones and their negative log-likelihood, float64 (3,), from float32 logits.

    `logits` (rows, tokens, vocabulary) are those at the `labels` (rows, tokens), softmax of one row at a time.
    """
    import torch

    sums = np.zeros(3)
    for row_logits, row_labels in zip(logits, labels, strict=True):
        chosen = row_labels != IGNORED_LABEL
        wanted_logits, wanted = row_logits[chosen].float(), row_labels[chosen]
        losses = torch.nn.functional.cross_entropy(wanted_logits, wanted, reduction="none")
        num_correct = (wanted_logits.argmax(-1) == wanted).sum()
        sums += [len(wanted), num_correct.item(), losses.cpu().double().sum().item()]
    return sums


def sum_over_batches(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], np.ndarray | float],
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
) -> np.ndarray | float:
    """The sum of what `compute` makes of this process's batches, every `num_ranks`-th; 0 where it has none.

    All processes call it equally often, with nothing to count if need be: a model that shares its weights needs that.
    """
    total: np.ndarray | float = 0.0
    for start in range(0, len(items), num_ranks * batch_size):
        own = items[start + rank * batch_size :][:batch_size]
        found = compute(own or items[:1])
        total = total + (found if own else 0.0)
    return total


def sum_over_processes(sums: np.ndarray, model: torch.nn.Module, num_ranks: int) -> np.ndarray:
    """The sum of an array over the default process group, where there are several processes."""
    import torch

    if num_ranks == 1:
        return sums
    device = next(model.parameters()).device
    total = torch.from_numpy(sums).to("cpu" if device.type == "xla" else device)
    torch.distributed.all_reduce(total)
    return total.cpu().numpy()
