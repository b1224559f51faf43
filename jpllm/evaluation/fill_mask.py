"""Filling in hidden words with a masked language model: its score on held-out texts, and its answers to prompts.

The masks of a text depend on the text alone, so every evaluation, of every model with this tokenizer, hides the same
words. The loss is per hidden token, with the rest of the block in sight: neither a probability of the text nor bits per
byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.blocks.masking import Masking
from jpllm.data.corpus import EncodedText
from jpllm.evaluation.distributed import sum_over_batches, sum_over_processes
from jpllm.evaluation.token_scores import TokenScore, token_score, token_sums
from jpllm.models.build import context_length as context_length_of
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GAP = "[MASK]"  # in a prompt, whatever the tokenizer calls its mask token
_NUM_ANSWERS = 5


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
    """Score each text with `model`, in evaluation mode, in blocks of `context_length` tokens.

    With several processes each takes every `num_ranks`-th batch, and all of them return the whole scores.
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
    """Return the score of all texts as if they were one."""
    sums = (sum(getattr(score, key) for score in scores) for key in ("num_tokens", "num_correct", "nll_nats"))
    return TokenScore(*sums, name)


def hidden_blocks(token_ids: np.ndarray, masking: Masking, context_length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ids with words hidden, and labels, of each run of `context_length` tokens; the last may be shorter."""
    starts = range(0, len(token_ids), context_length)
    return [masking.hide(token_ids[start : start + context_length], f"evaluation/{start}") for start in starts]


def _sums(model: torch.nn.Module, batch: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the `token_sums` of a batch of ids and labels."""
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


def fill_mask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Return the most probable tokens of each gap of each prompt, with their probabilities; `|` separates gaps.

    Each gap is one token, and gaps are filled independently of each other. Prompts are read one by one, so that no
    padding can change the result.
    """
    import torch

    from jpllm.models.evaluating import evaluating

    refuse_unfillable_prompts(model, tokenizer, prompts)
    device = next(model.parameters()).device
    answers = []
    with evaluating(model):
        for prompt in prompts:
            ids = torch.tensor([encode_prompt(tokenizer, prompt)], device=device)
            logits = model(input_ids=ids).logits[0, ids[0] == tokenizer.mask_token_id].float()
            best = logits.softmax(-1).topk(min(_NUM_ANSWERS, logits.shape[-1]))
            answers.append(" | ".join(_readable(tokenizer, *gap) for gap in zip(*best, strict=True)))
    return answers


def refuse_unfillable_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> None:
    """Raise InputError for a prompt that has no gap, or more tokens than the model reads."""
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt)
        if tokenizer.mask_token_id not in ids:
            raise InputError(f"the prompt {prompt[:20]!r} has no gap to fill in; write {GAP} where one is to be")
        if len(ids) > context_length_of(model):
            raise InputError(
                f"the prompt {prompt[:20]!r}… has {len(ids):,} tokens; the model reads at most "
                f"{context_length_of(model):,}"
            )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids of a prompt, with the mask token in its gaps."""
    return list(tokenizer(prompt.replace(GAP, tokenizer.mask_token))["input_ids"])


def _readable(tokenizer: PreTrainedTokenizerBase, probabilities: torch.Tensor, ids: torch.Tensor) -> str:
    pairs = zip(probabilities.tolist(), ids.tolist(), strict=True)
    return ", ".join(f"{tokenizer.decode([index])} {probability:.1%}" for probability, index in pairs)
