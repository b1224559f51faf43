"""Sample continuations of prompts from a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jpllm.config import option
from jpllm.models.build import context_length
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class SamplingConfig:
    """Sampling"""

    max_new_tokens: int = option(100, "Longest continuation in tokens.", minimum=1)
    temperature: float = option(0.8, "Sampling temperature; 0 takes the most probable token each time.", minimum=0)
    top_p: float = option(0.95, "Sample from the smallest set of tokens with this probability.", above=0, maximum=1)
    repetition_penalty: float = option(1.1, "Divides the scores of tokens that occurred before; 1 is off.", above=0)
    no_repeat_ngram_size: int = option(0, "No run of this many tokens occurs twice; 0 is off.", minimum=0)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int = 0,
) -> list[str]:
    """One continuation per prompt, without the prompt and without special tokens.

    The same seed gives the same text; the caller's random state is left as it was. Prompts are answered one by one, so
    that no padding can change the result.
    """
    import torch

    refuse_long_prompts(model, tokenizer, prompts)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    answers = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        for prompt in prompts:
            torch.manual_seed(seed)
            prompt_ids = encode_prompt(tokenizer, prompt)
            room = context_length(model) - len(prompt_ids)
            output = model.generate(
                torch.tensor([prompt_ids], device=device),
                attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64, device=device),
                generation_config=_generation_config(tokenizer, sampling, min(room, sampling.max_new_tokens)),
            )
            answer_ids = output[0, len(prompt_ids) :]  # cut by count: decoding may not give the prompt back as typed
            answers.append(tokenizer.decode(answer_ids, skip_special_tokens=True))
    model.train(was_training)
    return answers


def refuse_long_prompts(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> None:
    """Raise InputError for a prompt that leaves no room for an answer."""
    for prompt in prompts:
        num_tokens = len(encode_prompt(tokenizer, prompt))
        if num_tokens >= context_length(model):
            raise InputError(
                f"the prompt {prompt[:20]!r}… has {num_tokens:,} tokens; the model reads at most "
                f"{context_length(model):,} together with the answer"
            )


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Ids of a prompt. An EOS that the tokenizer appends by itself is removed: after it the model would begin anew.

    An empty prompt is one EOS (or BOS), the state in which training documents begin.
    """
    ids = list(tokenizer(prompt, add_special_tokens=True)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids or [tokenizer.eos_token_id]


def _generation_config(tokenizer: PreTrainedTokenizerBase, sampling: SamplingConfig, max_new_tokens: int) -> object:
    from transformers import GenerationConfig

    values = {
        "max_new_tokens": max_new_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
        "use_cache": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    }
    if sampling.temperature > 0:
        values |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(**values)
