"""How probable a model finds the tokens of wanted answers, and whether an answer of its own is right."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.conversations.blocks import padded
from jpllm.data.conversations.rows import Row
from jpllm.evaluation.distributed import sum_over_batches, sum_over_processes
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch

_RESULT = "答えは"


@dataclass(frozen=True)
class TokenScore:
    """Counts of the tokens to predict and of those that the model finds most probable, and the likelihood of all."""

    num_tokens: int
    num_correct: int
    nll_nats: float
    name: str = ""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token in nats.

        Raises:
            InputError: no token was to be predicted.
        """
        if not self.num_tokens:
            raise InputError(f"{self.name or 'held-out rows'}: no token to predict, so no loss; evaluate on more text")
        return self.nll_nats / self.num_tokens

    @property
    def accuracy(self) -> float:
        """Share of the tokens that the model finds the most probable ones."""
        return self.num_correct / max(self.num_tokens, 1)


def token_score(sums: np.ndarray, name: str = "") -> TokenScore:
    """Return the score for the sums of `token_sums`."""
    num_tokens, num_correct, nll_nats = sums
    return TokenScore(int(num_tokens), int(num_correct), float(nll_nats), name)


def token_sums(logits: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return number of labels, number of right ones, and their negative log-likelihood in nats: float64 (3,).

    `logits` (rows, tokens, vocabulary) predict the `labels` (rows, tokens), of which IGNORED_LABEL does not count. The
    softmax is computed in float32, of one row at a time.
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


def score_rows(
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
    """Score the labels of rows with `model`, in evaluation mode, in batches of rows of similar length.

    With several processes each takes every `num_ranks`-th batch, and all of them return the whole score.
    """
    from jpllm.models.evaluating import evaluating

    items = [{"input_ids": row.ids, "labels": row.labels} for row in sorted(rows, key=len, reverse=True)]

    def sums_of(batch: Sequence[dict]) -> np.ndarray:
        return _padded_sums(model, padded(batch, pad_token_id, padding_side))

    with evaluating(model, autocast):
        sums = np.zeros(3) + sum_over_batches(items, sums_of, batch_size, rank, num_ranks)
    return token_score(sum_over_processes(sums, model, num_ranks))


def _padded_sums(model: torch.nn.Module, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the `token_sums` of a padded batch."""
    import torch

    device = next(model.parameters()).device
    batch = {name: torch.from_numpy(values).to(device) for name, values in arrays.items()}
    labels = batch.pop("labels")[:, 1:]
    return token_sums(model(**batch).logits[:, :-1], labels)


def is_right(answer: str, wanted: str) -> bool:
    """Return whether two answers differ at most in the width of characters and in white space.

    Where the wanted answer gives reasons before the words 答えは, only what follows these words is compared.
    """
    wanted = _comparable(wanted)
    if _RESULT in wanted:
        return _RESULT in answer and _after(_comparable(answer)) == _after(wanted)
    return _comparable(answer) == wanted


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _after(text: str) -> str:
    return text.rpartition(_RESULT)[2]
