"""Set chat templates, and encode conversations into the same ids in training and in use.

A conversation is encoded in segments, each on its own: what is given (system and user messages, and the words of the
template around them), and each answer with its EOS. So the ids of a prompt do not depend on the answer behind it, and
a model that is asked later, with nothing behind the prompt, sees what it saw in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jpllm.limits import bounded
from jpllm.runtime import InputError
from jpllm.tokenizer.document_tokens import document_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TemplateName = Literal["alpaca-ja", "chat", "own"]
Message = dict[str, str]

_TEMPLATE = "template: the chat template"
_MAX_SECONDS, _MAX_BYTES = 10, 2**31  # of one conversation

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
TEMPLATES = {"alpaca-ja": _ALPACA, "chat": _CHAT}


@dataclass(frozen=True)
class Segment:
    """Part of a rendered conversation: an answer, which ends with the EOS and `is_learned`, or what is given."""

    text: str
    is_learned: bool


def set_template(tokenizer: PreTrainedTokenizerFast, name: TemplateName) -> None:
    """Give the tokenizer a chat template, which is saved with it; "own" keeps the template that it has.

    Raises:
        InputError: the name is "own", and the tokenizer has no template.
    """
    if name == "own":
        if not tokenizer.chat_template:
            raise InputError(f"template: the tokenizer has none of its own; choose {' or '.join(TEMPLATES)}")
        return
    begins_with_bos = document_tokens(tokenizer).before == (tokenizer.bos_token_id,)
    tokenizer.chat_template = ("{{- bos_token -}}" if begins_with_bos else "") + TEMPLATES[name]


def segments(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[Segment]:
    """Return the rendered conversation up to its last answer, cut where given text and answers meet.

    Raises:
        InputError: the template does not end its answers with the EOS, or changes earlier turns when a turn is added.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        return _segments(tokenizer, messages)


def _segments(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[Segment]:
    found: list[Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _rendered(tokenizer, messages[:index], add_generation_prompt=True)
        whole = _rendered(tokenizer, messages[: index + 1])
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            raise InputError(
                "template: it does not leave the beginning of a conversation as it was when more follows, so no part "
                "of it can be learned alone; choose another one"
            )
        end = whole.rfind(tokenizer.eos_token)
        if end < len(prompt):
            raise InputError(
                f"template: its answers do not end with the EOS token {tokenizer.eos_token}, so the model would not "
                "learn to stop; choose another one"
            )
        done = whole[: end + len(tokenizer.eos_token)]
        found += [Segment(prompt[len("".join(s.text for s in found)) :], False), Segment(done[len(prompt) :], True)]
    return found


def encode_segment(tokenizer: PreTrainedTokenizerFast, segment: Segment) -> list[int]:
    """Return the ids of one segment; an answer gets the ids of its words and one id for the EOS."""
    if not segment.is_learned:
        return tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"]
    words = segment.text.removesuffix(tokenizer.eos_token)
    return [*tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]
) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation up to the EOS of its last answer, and for each id whether it is learned."""
    ids: list[int] = []
    learned: list[bool] = []
    for segment in segments(tokenizer, messages):
        found = encode_segment(tokenizer, segment)
        ids += found
        learned += [segment.is_learned] * len(found)
    return ids, learned


def special_token_in(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str | None:
    """Return a special token that a part of a message would be encoded as, or None.

    A user who types </s> in a message would otherwise end the conversation, or teach the model to end it.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for message in messages:
        ids = tokenizer(message["content"], add_special_tokens=False, verbose=False)["input_ids"]
        if hits := special.intersection(ids):
            return str(tokenizer.convert_ids_to_tokens(min(hits)))
    return None


def encode_chat_prompt(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation that the model is to answer, as in training; the last message is the user's."""
    before = segments(tokenizer, messages)
    rest = render(tokenizer, messages, add_generation_prompt=True)[len("".join(segment.text for segment in before)) :]
    return [i for segment in [*before, Segment(rest, False)] for i in encode_segment(tokenizer, segment)]


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """Return the conversation as one text, written by the chat template.

    Raises:
        InputError: the template refuses the messages, or is not done in some seconds and gigabytes.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        return _rendered(tokenizer, messages, add_generation_prompt)


def _rendered(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], add_generation_prompt: bool = False
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_generation_prompt)
        )
    except MemoryError:
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        raise InputError(f"template: it cannot write the roles {[m['role'] for m in messages]}: {error}") from error
