"""Set chat templates, and encode conversations into the same ids in training and in use.

A conversation is encoded in segments, each on its own: what is given (system and user messages, and the words of the
template around them), and each answer with its EOS. So the ids of a prompt do not depend on the answer behind it, and
a model that is asked later, with nothing behind the prompt, sees what it saw in training.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jpllm.limits import bounded
from jpllm.runtime import InputError, UnusableRow
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.special_tokens import special_ids
from jpllm.tokenizer.templates import TEMPLATES, TemplateName, refuse_lacking_tokens, set_eos

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = dict[str, str]
Learn = Literal["all_answers", "last_answer"]

TEMPLATE_DATE = datetime.datetime(2024, 7, 26)  # what Llama 3.1's template takes where nothing tells it the date
CANNOT_WRITE = "the template cannot write it"
CHANGES_TURNS = "the template changes earlier turns when one is added; learn: last_answer takes such rows"
ASKS_OTHERWISE = "the template asks for an answer otherwise than it writes one"
NO_EOS = "its answer does not end with the EOS"

_TEMPLATE = "template: the chat template"
_MAX_SECONDS, _MAX_BYTES = 10, 2**31  # of one conversation
_CLOCK = re.compile(r"""strftime_now\(\s*["']([^"']*)["']""")
_EXAMPLE: tuple[Message, Message] = (
    {"role": "user", "content": "1+2は?"},
    {"role": "assistant", "content": "3です。"},
)


@dataclass(frozen=True)
class Segment:
    """Part of a rendered conversation: an answer, which ends with the EOS, or what is given."""

    text: str
    is_answer: bool


def set_template(tokenizer: PreTrainedTokenizerFast, name: TemplateName, eos_token: str | None = None) -> None:
    """Give the tokenizer a chat template and the EOS that ends its answers, which are saved with it.

    "own" keeps the template that it has. A template that ends answers with a token of its own makes that the EOS.

    Raises:
        InputError: the tokenizer has no template of its own or lacks a token of the one that is named, `eos_token` is
            not a token of it, or the answers do not end with the EOS.
    """
    if name == "own":
        if not tokenizer.chat_template:
            raise InputError(f"template: the tokenizer has none of its own; choose {' or '.join(TEMPLATES)}")
        if eos_token:
            set_eos(tokenizer, eos_token, _ends(tokenizer))
        try:
            segments(tokenizer, _EXAMPLE)
        except UnusableRow as error:
            if error.reason == NO_EOS:
                raise
        return
    refuse_lacking_tokens(tokenizer, name)
    end = TEMPLATES[name].end
    if end and eos_token not in (None, end):
        raise InputError(f"eos_token: template: {name} ends answers with {end}; remove {eos_token!r}")
    if end or eos_token:
        set_eos(tokenizer, end or str(eos_token), [])
    begins_with_bos = document_tokens(tokenizer).before == (tokenizer.bos_token_id,)
    tokenizer.chat_template = ("{{- bos_token -}}" if begins_with_bos else "") + TEMPLATES[name].text


def segments(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[Segment]:
    """Return the rendered conversation up to its last answer, cut where given text and answers meet.

    What the template writes by itself in front of an answer, such as an empty <think></think>, is given.

    Raises:
        UnusableRow: the template refuses the messages, does not end its answers with the EOS, or changes earlier turns
            when a turn is added.
        InputError: it is not done in some seconds and gigabytes.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        return _segments(tokenizer, messages)


def _segments(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[Segment]:
    found: list[Segment] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, answer = _prompt_and_answer(tokenizer, messages[: index + 1])
        if not prompt.startswith(done):
            raise UnusableRow(CHANGES_TURNS, _message_of_changes(tokenizer, found[-1].text))
        found += [Segment(prompt[len(done) :], False), Segment(answer, True)]
        done = prompt + answer
    return found


def _prompt_and_answer(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> tuple[str, str]:
    """Return a conversation up to the words of its last answer, and that answer up to its EOS."""
    prompt = _rendered(tokenizer, messages[:-1], add_generation_prompt=True)
    whole = _rendered(tokenizer, messages)
    if not whole.startswith(prompt):
        raise UnusableRow(
            ASKS_OTHERWISE,
            "template: what it writes to ask for an answer is not what stands in front of the answers that it writes; "
            "choose another one",
        )
    answer = whole[len(prompt) :]
    added = _thoughts_left_empty(tokenizer)
    if added and answer.startswith(added):
        prompt, answer = prompt + added, answer.removeprefix(added)
    words, eos = messages[-1]["content"].strip(), tokenizer.eos_token
    if answer.lstrip().startswith(words):
        words_end = len(answer) - len(answer.lstrip()) + len(words)
        end = answer.find(eos, words_end)
    else:
        words_end, end = 0, answer.rfind(eos)
    if end < 0:
        raise UnusableRow(NO_EOS, _message_without_eos(tokenizer, _special_tokens_in(tokenizer, answer[words_end:])))
    return prompt, answer[: end + len(eos)]


def _message_of_changes(tokenizer: PreTrainedTokenizerFast, answer: str) -> str:
    ends = [token for token in _special_tokens_in(tokenizer, answer) if token != tokenizer.eos_token]
    sooner = f" or eos_token: {ends[0]}, which its answers end with before the EOS," if ends else ""
    return (
        "template: it does not leave the beginning of a conversation as it was when more follows, so no part of it can "
        f"be learned alone; write learn: last_answer,{sooner} or choose another one"
    )


def _message_without_eos(tokenizer: PreTrainedTokenizerFast, others: Sequence[str]) -> str:
    if others:
        return (
            f"template: its answers end with {others[0]}, and the EOS token is {tokenizer.eos_token}, so the model "
            f"would not learn to stop; write eos_token: {others[0]}"
        )
    return (
        f"template: its answers do not end with the EOS token {tokenizer.eos_token}, so the model would not learn to "
        "stop; choose another one"
    )


def _special_tokens_in(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """Return the special tokens that a text spells, in their order."""
    spelled = {str(tokenizer.added_tokens_decoder[index]) for index in special_ids(tokenizer)}
    return sorted((token for token in spelled if token in text), key=text.index)


def _ends(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the special tokens that the tokenizer's template writes behind an answer."""
    try:
        text = render(tokenizer, _EXAMPLE)
    except UnusableRow:
        return []
    return _special_tokens_in(tokenizer, text.rpartition(_EXAMPLE[1]["content"])[2])


def encode_segment(tokenizer: PreTrainedTokenizerFast, segment: Segment) -> list[int]:
    """Return the ids of one segment; an answer gets the ids of its words and one id for the EOS."""
    if not segment.is_answer:
        return tokenizer(segment.text, add_special_tokens=False, verbose=False)["input_ids"]
    words = segment.text.removesuffix(tokenizer.eos_token)
    return [*tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]


def encode_conversation(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], learn: Learn = "all_answers"
) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation up to the EOS of its last answer, and for each id whether it is learned.

    Where all answers are learned, each stands behind what a model is asked with at that turn. With "last_answer" a
    template may write earlier turns otherwise when another follows, as those do that leave out earlier thoughts.

    Raises:
        UnusableRow: see `segments`; with "last_answer" for the last turn alone.
    """
    if learn == "all_answers":
        found = segments(tokenizer, messages)
    else:
        with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
            prompt, answer = _prompt_and_answer(tokenizer, messages)
            found = [*_cut_prompt(tokenizer, messages[:-1], prompt), Segment(answer, True)]
    ids: list[int] = []
    learned: list[bool] = []
    for number, segment in enumerate(found, start=1):
        ids_of_segment = encode_segment(tokenizer, segment)
        ids += ids_of_segment
        is_learned = segment.is_answer and (learn == "all_answers" or number == len(found))
        learned += [is_learned] * len(ids_of_segment)
    return ids, learned


def encode_chat_prompt(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a conversation that the model is to answer, as in training; the last message is the user's.

    Raises:
        UnusableRow: the template refuses the messages.
        InputError: it is not done in some seconds and gigabytes.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        prompt = _rendered(tokenizer, messages, add_generation_prompt=True)
        found = _cut_prompt(tokenizer, messages, prompt)
    return [index for segment in found for index in encode_segment(tokenizer, segment)]


def _cut_prompt(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], prompt: str) -> list[Segment]:
    """Return a rendered prompt cut at the answers in it; whole where the template writes them otherwise by now."""
    try:
        before = _segments(tokenizer, messages)
    except UnusableRow:
        before = []
    done = "".join(segment.text for segment in before)
    if not prompt.startswith(done):
        before, done = [], ""
    return [*before, Segment(prompt[len(done) :], False)]


def ask_without_thoughts(tokenizer: PreTrainedTokenizerFast) -> str:
    """Make the template ask with what it writes by itself in front of an answer, as Qwen3's empty <think></think>.

    A model that learned answers behind it has to be asked with it, by whatever program: it is saved with the tokenizer.
    Returns what was added to the prompt, empty where the template writes nothing of its own there.
    """
    added = thoughts_left_empty(tokenizer)
    if not added:
        return ""
    wanted = render(tokenizer, _EXAMPLE[:1], True) + added, render(tokenizer, _EXAMPLE)
    old = tokenizer.chat_template
    template = tokenizer.get_chat_template()
    switched_off = "{%- set enable_thinking = false -%}" + template  # where the template has this switch
    appended = template + "{% if add_generation_prompt %}{{ " + json.dumps(added, ensure_ascii=False) + " }}{% endif %}"
    for changed in (switched_off, appended):
        tokenizer.chat_template = old | {"default": changed} if isinstance(old, dict) else changed
        if (render(tokenizer, _EXAMPLE[:1], True), render(tokenizer, _EXAMPLE)) == wanted:
            return added
    tokenizer.chat_template = old
    raise InputError(
        f"template: it writes {added!r} in front of an answer, and cannot be made to ask with it; choose another one"
    )


def thoughts_left_empty(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return what the template writes by itself between its request for an answer and the answer's words, or nothing.

    White space alone is nothing: it may be part of the first token of the words.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        return _thoughts_left_empty(tokenizer)


def _thoughts_left_empty(tokenizer: PreTrainedTokenizerFast) -> str:
    return _written_in_front(tokenizer, str(tokenizer.chat_template), tokenizer.eos_token)


@functools.lru_cache(maxsize=4)  # one of a tokenizer for all its conversations
def _written_in_front(tokenizer: PreTrainedTokenizerFast, template: str, eos_token: str) -> str:
    try:
        asked = _rendered(tokenizer, _EXAMPLE[:1], add_generation_prompt=True)
        whole = _rendered(tokenizer, _EXAMPLE)
    except UnusableRow:
        return ""
    added, words, _ = whole.removeprefix(asked).partition(_EXAMPLE[1]["content"])
    return added if whole.startswith(asked) and words and added.strip() else ""


def holds_thoughts(answer: str, left_empty: str) -> bool:
    """Return whether an answer begins as what the template writes in front of those without thoughts."""
    opening = re.match(r"\s*(<[^>]*>|\S+)", left_empty)
    return bool(opening) and answer.lstrip().startswith(opening[1])


def special_token_in(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], special: Set[int] | None = None
) -> str | None:
    """Return a special token that a part of a message would be encoded as, or None.

    A user who types </s> in a message would otherwise end the conversation, or teach the model to end it. What the
    template writes in front of answers by itself, such as <think>, may stand in an answer. `special` are the ids that
    `special_ids` returns, for callers with many rows: some tokenizers have thousands of added tokens.
    """
    if special is None:
        special = special_ids(tokenizer)
    for message in messages:
        ids = tokenizer(message["content"], add_special_tokens=False, verbose=False)["input_ids"]
        hits = special & set(ids) - {tokenizer.unk_token_id}
        if hits and message["role"] == "assistant":
            own = tokenizer(thoughts_left_empty(tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
            hits -= set(own)
        if hits:
            return str(tokenizer.convert_ids_to_tokens(min(hits)))
    return None


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """Return the conversation as one text, written by the chat template.

    A template that writes today's date is given `TEMPLATE_DATE`, so that a run, and a conversation with a seed, is the
    same on every day.

    Raises:
        UnusableRow: the template refuses the messages.
        InputError: it is not done in some seconds and gigabytes.
    """
    with bounded(_TEMPLATE, _MAX_SECONDS, _MAX_BYTES):
        return _rendered(tokenizer, messages, add_generation_prompt)


def _rendered(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], add_generation_prompt: bool = False
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages),
                chat_template=_with_fixed_date(tokenizer.get_chat_template()),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except MemoryError:
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        roles = [message["role"] for message in messages]
        raise UnusableRow(CANNOT_WRITE, f"template: it cannot write the roles {roles}: {error}") from error


def _with_fixed_date(template: str) -> str:
    """Return the template with a clock of its own; transformers passes no function on to a template."""
    if "strftime_now" not in template:
        return template
    dates = json.dumps({given: TEMPLATE_DATE.strftime(given) for given in _CLOCK.findall(template)})
    other = TEMPLATE_DATE.strftime("%Y-%m-%d")
    return f"{{% macro strftime_now(format) %}}{{{{ {dates}.get(format, '{other}') }}}}{{% endmacro %}}\n{template}"
