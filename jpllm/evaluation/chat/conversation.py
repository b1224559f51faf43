"""A conversation with a language model, written by the chat template that is saved with its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.config.settings import option
from jpllm.data.read.jsonl import write_jsonl
from jpllm.evaluation.generate import Answer, SamplingConfig, answer
from jpllm.models.build import context_length
from jpllm.runtime import InputError, UnusableRow
from jpllm.tokenizer.chat_template import encode_chat_prompt, render, special_token_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

FORGOTTEN = "(The oldest questions no longer fit into the model's context; it answers from the newer ones.)"


@dataclass
class ChatSamplingConfig(SamplingConfig):
    """Sampling"""

    max_new_tokens: int = option(
        512, "Longest answer in tokens; as many, at most half of the context, are kept free of history.", minimum=1
    )


class Conversation:
    """Questions and answers, of which the model sees the newest that fit into its context.

    `num_forgotten` is the number of exchanges, from the oldest on, that were too much for the latest answer.

    Raises:
        InputError: the tokenizer has no chat template, or the template has no place for `system`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        sampling: SamplingConfig,
        seed: int = 0,
        system: str | None = None,
    ) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template, so the model was not trained on "
                "conversations; train it with recipes/sft.py, or continue texts with jpllm generate"
            )
        self.model, self.tokenizer, self.sampling, self.seed = model, tokenizer, sampling, seed
        self.system = [{"role": "system", "content": system}] if system else []
        if system and not self._has_place_for(system):
            raise InputError("system: the chat template of this model has no place for it; remove it")
        self.num_answers = 0
        self.reset()

    def reset(self) -> None:
        """Forget all exchanges."""
        self.exchanges: list[tuple[str, str]] = []
        self.num_forgotten = 0

    def messages(self, first: int = 0) -> list[dict[str, str]]:
        """Return the system message and the exchanges from number `first` on, as dicts with `role` and `content`."""
        roles = ("user", "assistant")
        with_roles = [zip(roles, exchange, strict=True) for exchange in self.exchanges[first:]]
        return [*self.system, *({"role": role, "content": text} for one in with_roles for role, text in one)]

    def ask(self, question: str, on_text: Callable[[str], None] | None = None) -> Answer:
        """Return the model's answer; `on_text` gets its text piece by piece. Only a complete answer becomes history.

        Each answer is drawn with a different seed, so that a question asked again can be answered differently.

        Raises:
            InputError: the question alone fills the context, or holds a special token, which would be read as one.
        """
        if token := special_token_in(self.tokenizer, [{"role": "user", "content": question}]):
            raise InputError(f"the question holds {token}, which means something to the model; write it otherwise")
        prompt_ids, first = self._prompt(question)
        reply = answer(
            self.model, self.tokenizer, prompt_ids, self.sampling, self.seed + self.num_answers, on_text=on_text
        )
        self.num_forgotten = first
        self.num_answers += 1
        self.exchanges.append((question, reply.text))
        return reply

    def save(self, file: Path) -> None:
        """Write the conversation as one row `{"messages": […]}`, which `recipes/sft.py` reads; whole or not at all."""
        write_jsonl([{"messages": self.messages()}], file)

    def _has_place_for(self, system: str) -> bool:
        try:
            return system.strip() in render(self.tokenizer, [*self.system, {"role": "user", "content": "?"}], True)
        except UnusableRow:
            return False

    def _prompt(self, question: str) -> tuple[list[int], int]:
        """Return the ids of the part of the conversation that fits, and the number of its first exchange."""
        context = context_length(self.model)
        room = min(self.sampling.max_new_tokens, context // 2)
        asked = {"role": "user", "content": question}
        for first in range(self.num_forgotten, len(self.exchanges) + 1):
            ids = encode_chat_prompt(self.tokenizer, [*self.messages(first), asked])
            if len(ids) + room <= context:
                break
        if len(ids) >= context:
            raise InputError(
                f"the question has {len(ids):,} tokens; the model reads at most {context:,} together with the answer"
            )
        return ids, first
