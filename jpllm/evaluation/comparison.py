"""The same prompts answered by several models: side by side as a table, or as JSON."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import markdown
from jpllm.evaluation.generate import (
    Answer,
    SamplingConfig,
    Stop,
    answer,
    encode_instruction,
    encode_prompt,
    refuse_long_prompts,
)
from jpllm.models.adapters import LoadingConfig
from jpllm.models.build import load_trained, set_context_length
from jpllm.whole_files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SUFFIXES = (".md", ".json")


@dataclass(frozen=True)
class ModelAnswers:
    """The answers of one model to each of the prompts."""

    model: str
    uses_template: bool
    answers: list[Answer]

    @property
    def title(self) -> str:
        """The model's name, and whether its chat template was used."""
        return f"{self.model} (chat template)" if self.uses_template else self.model


def ask(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    uses_template: bool,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int,
    stop: Stop,
    on_text: Callable[[str], None] | None = None,
    loading: LoadingConfig | None = None,
    context_length: int | None = None,
) -> ModelAnswers:
    """Load a model, let it answer, and free its memory; `on_text` gets the `transcript` of each answer piece by piece.

    With `context_length` it reads as many tokens at once, instead of those that it was trained on.

    Raises:
        InputError: there is no such model, it has another tokenizer or fewer positions than `context_length`, or a
            prompt leaves it no room for an answer.
    """
    encode = encode_instruction if uses_template else encode_prompt
    loading = loading or LoadingConfig()
    model = load_trained(name, tokenizer=tokenizer, dtype=loading.dtype, base_model=loading.base_of(name))
    if context_length:
        set_context_length(model, context_length)
    refuse_long_prompts(model, tokenizer, prompts, encode)
    replies = []
    for prompt in prompts:
        if on_text:
            on_text(transcript(prompt))
        replies.append(answer(model, tokenizer, encode(tokenizer, prompt), sampling, seed, stop, on_text))
        if on_text:
            on_text(f"{cut_mark(replies[-1])}\n\n")
    del model
    gc.collect()  # so that two models are never held: one may be all that fits
    return ModelAnswers(name, uses_template, replies)


def transcript(prompt: str, reply: Answer | None = None) -> str:
    """Return `prompt▸answer`, with a mark where the answer was cut."""
    return f"{prompt}▸{reply.text}{cut_mark(reply)}" if reply else f"{prompt}▸"


def cut_mark(reply: Answer) -> str:
    """Return the mark behind an answer that was cut at `max_new_tokens` or at the end of the context, else ''."""
    return "" if reply.ended else " [cut]"


def markdown_table(prompts: Sequence[str], columns: Sequence[ModelAnswers]) -> str:
    """Return a Markdown table with one row per prompt and one column per model."""
    rows = []
    for index, prompt in enumerate(prompts):
        replies = [column.answers[index] for column in columns]
        rows.append([prompt, *(reply.text.strip() + cut_mark(reply) for reply in replies)])
    return markdown.table(["prompt", *(column.title for column in columns)], rows)


def write(file: Path, prompts: Sequence[str], columns: Sequence[ModelAnswers], settings: Mapping[str, object]) -> None:
    """Write prompts, answers and the settings that led to them as `.json` or `.md`; whole or not at all."""
    if file.suffix == ".json":
        rows = [
            {"prompt": prompt, "model": column.model, "chat_template": column.uses_template, **asdict(reply)}
            for column in columns
            for prompt, reply in zip(prompts, column.answers, strict=True)
        ]
        text = json.dumps({"settings": settings, "answers": rows}, ensure_ascii=False, indent=2) + "\n"
    else:
        described = ", ".join(f"{key} {value}" for key, value in settings.items() if not isinstance(value, dict))
        text = f"{markdown_table(prompts, columns)}\n{markdown.escaped(described)}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)
