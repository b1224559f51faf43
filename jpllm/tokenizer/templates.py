"""Name the chat templates that a model without one can be given, with the tokens they need and the EOS of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jpllm.config.types import suggest
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TemplateName = Literal["alpaca-ja", "chat", "chatml", "gemma", "llama3", "llm-jp", "own"]
_NUM_CANDIDATES = 5


@dataclass(frozen=True)
class Template:
    """A chat template without the BOS, which `set_template` adds where the tokenizer writes one.

    Attributes:
        tokens: what the tokenizer must have as tokens of one id.
        end: the token behind an answer; None where it is the tokenizer's EOS, whatever that is.
    """

    text: str
    tokens: tuple[str, ...] = ()
    end: str | None = None


# The headings and opening sentences of the Japanese Alpaca prompt, as evaluation boards write them (version 0.3 of the
# prompts in Stability-AI/lm-evaluation-harness, branch jp-stable).
_ALPACA = """\
{%- if messages[0].role == 'system' -%}
{{ messages[0].content }}{{ '\\n\\n' }}
{%- elif '### 入力:' in messages[0].content -%}
{{ '以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\\n\\n' }}
{%- else -%}
{{ '以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\\n\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '### 指示:\\n' + message.content + '\\n\\n' }}
{%- elif message.role == 'assistant' -%}
{{ '### 応答:\\n' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### 応答:\\n' }}{%- endif -%}"""
_CHAT = """\
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{ message.content + '\\n' }}
{%- elif message.role == 'user' -%}
{{ 'ユーザー:\\n' + message.content + '\\n' }}
{%- elif message.role == 'assistant' -%}
{{ 'アシスタント:\\n' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'アシスタント:\\n' }}{%- endif -%}"""
# https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md; today each turn ends with a line break, too
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
# https://ai.google.dev/gemma/docs/core/prompt-structure: no role of its own for a system message, which begins the
# first question instead
_GEMMA = """\
{%- set has_system = messages[0].role == 'system' -%}
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ '<start_of_turn>model\\n' + message.content | trim + '<end_of_turn>\\n' }}
{%- elif message.role == 'user' -%}
{{ '<start_of_turn>user\\n' }}
{%- if has_system and loop.index0 == 1 -%}{{ messages[0].content + '\\n\\n' }}{%- endif -%}
{{ message.content | trim + '<end_of_turn>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
# https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
_LLAMA3 = """\
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}"""
# The prompt of https://huggingface.co/llm-jp/llm-jp-3-3.7b-instruct; a system message takes the place of its sentence.
_LLM_JP = """\
{%- if messages[0].role == 'system' -%}{{ messages[0].content }}
{%- else -%}{{ '以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。' }}{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '\\n\\n### 指示:\\n' + message.content }}
{%- elif message.role == 'assistant' -%}
{{ '\\n\\n### 応答:\\n' + message.content + eos_token }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '\\n\\n### 応答:\\n' }}{%- endif -%}"""
TEMPLATES = {
    "alpaca-ja": Template(_ALPACA),
    "chat": Template(_CHAT),
    "chatml": Template(_CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "gemma": Template(_GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "llama3": Template(_LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "llm-jp": Template(_LLM_JP),
}


def refuse_lacking_tokens(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raise InputError where a tokenizer would write a token of the template called `name` as ordinary text."""
    for token in TEMPLATES[name].tokens:
        if not is_one_token(tokenizer, token):
            others = [other for other, template in TEMPLATES.items() if not template.tokens]
            raise InputError(
                f"template: {name} needs the token {token}, which the tokenizer does not have; choose "
                f"{', '.join(others[:-1])} or {others[-1]}, which need none"
            )


def set_eos(tokenizer: PreTrainedTokenizerFast, token: str, ends: Sequence[str]) -> None:
    """Make `token` the EOS of a tokenizer; `ends` are the tokens behind answers of its own template, as an advice.

    Raises:
        InputError: the tokenizer does not have it as a token of one id.
    """
    if is_one_token(tokenizer, token):
        tokenizer.eos_token = token
        return
    added = [str(added) for added in tokenizer.added_tokens_decoder.values()]
    if token in tokenizer.get_vocab():
        problem = "is a piece of ordinary text, not an added token: a text that spells it would end there"
    else:
        problem = f"is not in the tokenizer's vocabulary{suggest(token, added)}"
    candidates = list(dict.fromkeys([*ends, *reversed(added)]))[:_NUM_CANDIDATES]
    raise InputError(f"eos_token: {token!r} {problem}; it has {', '.join(candidates) or 'no added token'}")


def is_one_token(tokenizer: PreTrainedTokenizerFast, token: str) -> bool:
    """Return whether a string is an added token, which is one id wherever it stands in a text."""
    token_id = tokenizer.get_vocab().get(token)
    if token_id is None or token_id not in tokenizer.added_tokens_decoder:
        return False
    return tokenizer(token, add_special_tokens=False, verbose=False)["input_ids"] == [token_id]
