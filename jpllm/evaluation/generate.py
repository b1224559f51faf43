"""Answers of a causal language model to prompts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from jpllm.config.settings import option
from jpllm.models.build import context_length, input_embedding
from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import encode_chat_prompt
from jpllm.tokenizer.special_tokens import end_ids

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

Stop = Literal["eos", "sentence"]
SENTENCE_END = "。"
_UNFINISHED = "\ufffd"  # what a decoder shows while bytes of a character are still to come


@dataclass
class SamplingConfig:
    """Sampling"""

    max_new_tokens: int = option(100, "Longest continuation in tokens.", minimum=1)
    temperature: float = option(0.8, "Sampling temperature; 0 takes the most probable token each time.", minimum=0)
    top_p: float = option(0.95, "Sample from the smallest set of tokens with this probability.", above=0, maximum=1)
    repetition_penalty: float = option(1.1, "Divides the scores of tokens that occurred before; 1 is off.", above=0)
    no_repeat_ngram_size: int = option(0, "No run of this many tokens occurs twice; 0 is off.", minimum=0)


@dataclass(frozen=True)
class Answer:
    """A text that a model wrote, without the prompt and without special tokens.

    `ended` is false where it was cut at `max_new_tokens` or at the end of the context. `num_tokens` counts all tokens
    generated, an EOS among them.
    """

    text: str
    ended: bool
    num_tokens: int


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids of a prompt, without an EOS that the tokenizer appends: after it the model would begin a new text.

    An empty prompt is one EOS (or BOS), which precedes the documents in training.
    """
    ids = list(tokenizer(prompt, add_special_tokens=True)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids or [tokenizer.eos_token_id]


def encode_instruction(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Return the ids of a prompt as the only message of a conversation, by the tokenizer's chat template."""
    return encode_chat_prompt(cast("PreTrainedTokenizerFast", tokenizer), [{"role": "user", "content": prompt}])


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int = 0,
) -> list[str]:
    """Return one continuation per prompt, as text only; for the other parameters see `answers`."""
    return [found.text for found in answers(model, tokenizer, prompts, sampling, seed)]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int = 0,
    stop: Stop = "eos",
) -> list[Answer]:
    """Return one continuation per prompt; prompts are read one by one, so that no padding can change the result.

    Raises:
        InputError: a prompt leaves no room for an answer. Nothing has been generated then.
    """
    refuse_long_prompts(model, tokenizer, prompts)
    return [answer(model, tokenizer, encode_prompt(tokenizer, prompt), sampling, seed, stop) for prompt in prompts]


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    sampling: SamplingConfig,
    seed: int = 0,
    stop: Stop = "eos",
    on_text: Callable[[str], None] | None = None,
) -> Answer:
    """Return the answer to a prompt, whose ids must leave room in the model's context.

    It ends with an EOS, or another id that the model's generation settings name; with `stop="sentence"` also behind the
    first 。, whatever token holds it. `on_text` is called with each new piece of the text as soon as its characters are
    whole. The same seed gives the same answer; the caller's random state, the model's mode and its own generation
    settings are left as they were.
    """
    import torch
    from transformers import StoppingCriteriaList

    _refuse_ids_without_row(model, tokenizer, prompt_ids)
    device = next(model.parameters()).device
    num_given = len(prompt_ids)
    stream = _Stream(on_text)

    def text_of(ids: torch.Tensor) -> str:
        # Cut by count: decoding may not give the prompt back as it was typed.
        text = cast("str", tokenizer.decode(ids[0, num_given:], skip_special_tokens=True))
        before, end, _ = text.partition(SENTENCE_END)
        return before + end if stop == "sentence" else text

    def watch(ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        text = text_of(ids)
        stream.show(text.rstrip(_UNFINISHED))
        return torch.tensor([stop == "sentence" and SENTENCE_END in text], device=ids.device)

    max_new_tokens = min(context_length(model) - num_given, sampling.max_new_tokens)
    settings = _generation_config(model, tokenizer, sampling, max_new_tokens)
    with _prepared(model, seed):
        ids = model.generate(  # ty: ignore[not-callable]  # of GenerationMixin, beside PreTrainedModel
            torch.tensor([list(prompt_ids)], device=device),
            attention_mask=torch.ones(1, num_given, dtype=torch.int64, device=device),
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([watch] if on_text or stop == "sentence" else []),
        )
    text = text_of(ids)
    stream.show(text)
    ended = ids[0, -1].item() in settings.eos_token_id or (stop == "sentence" and text.endswith(SENTENCE_END))
    return Answer(text, ended, ids.shape[1] - num_given)


def refuse_long_prompts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    encode: Callable[[PreTrainedTokenizerBase, str], list[int]] = encode_prompt,
) -> None:
    """Raise InputError for a prompt whose ids, by `encode`, leave no room for an answer or have no embedding."""
    for prompt in prompts:
        ids = encode(tokenizer, prompt)
        _refuse_ids_without_row(model, tokenizer, ids)
        num_tokens = len(ids)
        if num_tokens >= context_length(model):
            raise InputError(
                f"the prompt {prompt[:20]!r}… has {num_tokens:,} tokens; the model reads at most "
                f"{context_length(model):,} together with the answer"
            )


def _refuse_ids_without_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
    """Raise InputError for ids that the model has no embedding for: a prompt can spell such a special token."""
    num_rows = input_embedding(model).weight.shape[0]
    for index in ids:
        if index >= num_rows:
            raise InputError(
                f"a prompt has the special token {tokenizer.convert_ids_to_tokens(index)!r}, which the model has no "
                "embedding for; write it differently"
            )


def _generation_config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: SamplingConfig, max_new_tokens: int
) -> GenerationConfig:
    from transformers import GenerationConfig

    values = {
        "max_new_tokens": max_new_tokens,
        "repetition_penalty": sampling.repetition_penalty,
        "no_repeat_ngram_size": sampling.no_repeat_ngram_size,
        "use_cache": True,
        "eos_token_id": end_ids(tokenizer, model),
        "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
    }
    if sampling.temperature > 0:
        values |= {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(**values)


@contextmanager
def _prepared(model: PreTrainedModel, seed: int) -> Generator[None]:
    """Set evaluation mode and a seed, and hide the model's own settings, which transformers would add to ours."""
    import torch
    from transformers import GenerationConfig

    from jpllm.models.evaluating import evaluating

    device = next(model.parameters()).device
    own_settings = model.generation_config
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), evaluating(model):
        torch.manual_seed(seed)
        model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            model.generation_config = own_settings


class _Stream:
    """Passes each addition to a growing text on to `on_text`."""

    def __init__(self, on_text: Callable[[str], None] | None) -> None:
        self.on_text = on_text
        self.shown = ""

    def show(self, text: str) -> None:
        if self.on_text and len(text) > len(self.shown) and text.startswith(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text
