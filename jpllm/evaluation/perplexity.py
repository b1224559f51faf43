"""Perplexity and bits per byte of a causal language model on a text.

Bits per byte divide the information that the model needs for all tokens of a text by the UTF-8 bytes of that text as
given, before any normalisation, so models with different tokenizers compare with each other and with a compressor.

A model is read as it was trained. Where its tokenizer writes a BOS in front of a text, each window begins with the BOS,
also one that begins inside a document, and so the first scored token has it and the ids between in front of it; the BOS
of a document is given and neither scored nor counted. Elsewhere one EOS stands in front of the first window, and the
last id of the window before in front of all others.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.corpus import EncodedText
from jpllm.evaluation.distributed import sum_over_batches, sum_over_processes

if TYPE_CHECKING:
    import torch

_TOLD_DIFFERENCE = 0.01


@dataclass(frozen=True)
class TextScore:
    """The size of a text, and `nll_nats`, the negative log-likelihood of all its tokens."""

    name: str
    num_tokens: int
    num_bytes: int
    num_characters: int
    nll_nats: float

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token in nats."""
        return self.nll_nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss), per token: comparable only between models with the same tokenizer."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the original text, EOS tokens included in the bits."""
        return self.nll_nats / math.log(2) / self.num_bytes

    @property
    def bits_per_character(self) -> float:
        """Bits per Unicode character of the original text."""
        return self.nll_nats / math.log(2) / self.num_characters


@dataclass(frozen=True)
class Window:
    """Ids `start` to `stop` − 1, which the model reads at once; those from `scored_from` on are scored."""

    start: int
    stop: int
    scored_from: int


def windows(num_ids: int, context_length: int, stride: int | None = None) -> Iterator[Window]:
    """Yield windows of up to `context_length` ids that score each of the ids 1 … num_ids − 1 exactly once.

    `stride` is the number of ids scored per window, at most context_length − 1 (the default: no id is read twice but
    the one before each window). A smaller stride gives each scored id at least context_length − stride ids before it.
    """
    stride = stride or context_length - 1
    if not 0 < stride < context_length:
        raise ValueError(f"stride {stride} is not between 1 and {context_length - 1}")
    for scored_from in range(1, num_ids, stride):
        stop = min(scored_from + stride, num_ids)
        yield Window(max(0, stop - context_length), stop, scored_from)


@dataclass(frozen=True)
class BosEffect:
    """Bits per byte of the same texts, of `num_bytes` bytes, read with and without the BOS."""

    num_bytes: int
    with_bos: float
    without_bos: float

    @property
    def is_worth_telling(self) -> bool:
        """Whether the two differ by more than `_TOLD_DIFFERENCE` of the lower one."""
        return abs(self.with_bos - self.without_bos) > _TOLD_DIFFERENCE * min(self.with_bos, self.without_bos)

    def __str__(self) -> str:
        verdict = (
            "the model depends on its BOS, and programs that leave it out will find it worse"
            if self.without_bos > self.with_bos
            else "the model is better without the BOS that its tokenizer writes: it may have been trained without it"
        )
        return f"bits per byte {self.with_bos:.4f} with BOS, {self.without_bos:.4f} without: {verdict}"


def bos_effect(
    score_texts: Callable[[Sequence[EncodedText]], list[TextScore]],
    texts: Sequence[EncodedText],
    bos_token_id: int,
    scores: Sequence[TextScore] = (),
) -> BosEffect:
    """Score texts with each document and each window behind the BOS, and without any; `score_texts` is of one model.

    `scores` are those with the BOS, where they are known.
    """
    with_bos = total(scores or score_texts([text.with_bos(bos_token_id) for text in texts]))
    without = total(score_texts([text.with_bos(None) for text in texts]))
    return BosEffect(with_bos.num_bytes, with_bos.bits_per_byte, without.bits_per_byte)


def score(
    model: torch.nn.Module,
    texts: Sequence[EncodedText],
    *,
    eos_token_id: int,
    context_length: int,
    batch_size: int,
    stride: int | None = None,
    autocast: AbstractContextManager | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> list[TextScore]:
    """Score each text with `model`, in evaluation mode: all its ids but the BOS of a document, each exactly once.

    Each window begins with the text's BOS, which takes the place of its first id, one that is not scored there. A text
    without BOS is read behind one EOS.

    With several processes each takes every `num_ranks`-th batch, and all of them return the whole scores. Negative
    log-likelihoods are computed from float32 logits and summed in float64.
    """
    from jpllm.models.evaluating import evaluating

    sums = np.zeros(len(texts))
    with evaluating(model, autocast):
        for index, text in enumerate(texts):
            ids, targets = _read(text, eos_token_id)
            todo = list(windows(len(ids), context_length, stride))
            shape = batch_size, context_length
            compute = partial(_nll_nats, model, ids, targets, text.bos_token_id, full_shape=shape)
            sums[index] = sum_over_batches(todo, compute, batch_size, rank, num_ranks)
    sums = sum_over_processes(sums, model, num_ranks)
    return [
        TextScore(text.name, int((~text.is_given).sum()), text.num_bytes, text.num_characters, float(nll_nats))
        for text, nll_nats in zip(texts, sums, strict=True)
    ]


def total(scores: Sequence[TextScore], name: str = "total") -> TextScore:
    """Return the score of all texts as if they were one."""
    counts = (sum(getattr(score, key) for score in scores) for key in ("num_tokens", "num_bytes", "num_characters"))
    return TextScore(name, *counts, sum(score.nll_nats for score in scores))


def xz_bits_per_byte(texts: Sequence[str]) -> float:
    """Return the bits per byte of `xz -9`, a general compressor, on the documents joined by newlines."""
    data = "\n".join(texts).encode("utf-8")
    return 8 * len(lzma.compress(data, preset=9)) / len(data)


def unigram_bits_per_byte(text: EncodedText) -> float:
    """Return the bits per byte of a text whose tokens are coded by their frequencies in it, without context.

    This is the entropy of the text's tokens, with EOS and without a given BOS. It is a lower bound of what any unigram
    model with this tokenizer needs, since one fitted on other texts has other frequencies.
    """
    _, counts = np.unique(text.token_ids[~text.is_given], return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / text.num_bytes)


def _read(text: EncodedText, eos_token_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids that are read, and the targets: the same, but IGNORED_LABEL where an id is not scored.

    The first id is not scored. It is the BOS of the first document, or else is put in front: a BOS that is the EOS,
    which no document begins with, or the EOS itself.
    """
    ids, targets = text.token_ids, np.where(text.is_given, IGNORED_LABEL, text.token_ids)
    if len(ids) and text.is_given[0]:
        return ids, targets
    return np.append(eos_token_id, ids), np.append(IGNORED_LABEL, targets)


def _nll_nats(
    model: torch.nn.Module,
    ids: np.ndarray,
    targets: np.ndarray,
    bos_token_id: int | None,
    batch: Sequence[Window],
    full_shape: tuple[int, int],
) -> float:
    """Return the negative log-likelihood in nats of the scored ids of a batch of windows, each behind the BOS if any.

    On an XLA device, where each shape is compiled, all batches have the shape of a full one.
    """
    import torch

    device = next(model.parameters()).device
    shape = full_shape if device.type == "xla" else (len(batch), max(window.stop - window.start for window in batch))
    input_ids = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED_LABEL)
    for row, window in enumerate(batch):
        piece = torch.from_numpy(ids[window.start : window.stop])
        input_ids[row, : len(piece)] = piece  # padding comes after the text, where a causal model cannot see it
        if bos_token_id is not None:
            input_ids[row, 0] = bos_token_id
        first = window.scored_from - window.start
        labels[row, first : len(piece)] = torch.from_numpy(targets[window.scored_from : window.stop])
    logits = model(input_ids=input_ids.to(device), use_cache=False).logits
    wanted = labels[:, 1:].to(device)
    losses = [
        torch.nn.functional.cross_entropy(row_logits.float(), row_targets, ignore_index=IGNORED_LABEL, reduction="none")
        for row_logits, row_targets in zip(logits[:, :-1], wanted, strict=True)  # softmax of one row at a time
    ]
    return sum(row.sum().item() for row in torch.stack(losses).cpu().double())
