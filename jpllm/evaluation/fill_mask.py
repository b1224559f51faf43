"""What a masked language model would write in the gaps of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jpllm.models.build import context_length
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

GAP = "[MASK]"  # in a prompt, whatever the tokenizer calls its mask token
_NUM_ANSWERS = 5


def fill_mask(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """The most probable tokens of each gap of each prompt, with their probabilities; gaps are divided by `|`.

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
        if len(ids) > context_length(model):
            raise InputError(
                f"the prompt {prompt[:20]!r}… has {len(ids):,} tokens; the model reads at most "
                f"{context_length(model):,}"
            )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Ids of a prompt, with the mask token in its gaps."""
    return list(tokenizer(prompt.replace(GAP, tokenizer.mask_token))["input_ids"])


def _readable(tokenizer: PreTrainedTokenizerBase, probabilities: Sequence, ids: Sequence) -> str:
    pairs = zip(probabilities.tolist(), ids.tolist(), strict=True)
    return ", ".join(f"{tokenizer.decode([index])} {probability:.1%}" for probability, index in pairs)
