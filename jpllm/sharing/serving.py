"""Say how llama.cpp, Ollama and vLLM run an exported model: commands, prompts and where answers end.

llama.cpp and vLLM carry the chat template out as it is. Ollama has templates of its own, in the language of Go, so what
the chat template writes between messages is read off its results, and proved on conversations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import Message, render
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.special_tokens import listed

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

MODELFILE_NAME = "Modelfile"
_SYSTEM = {"role": "system", "content": "丁寧な日本語で、短く答えてください。"}
_TURNS = [
    {"role": "user", "content": "日本で一番高い山は？"},
    {"role": "assistant", "content": "富士山です。高さは 3,776 m あります。"},
    {"role": "user", "content": "では、\n  次に高い山は？ (name only)"},
    {"role": "assistant", "content": "北岳です。"},
    {"role": "user", "content": "ありがとう。"},
]
_MARKS = [{**message, "content": f"MESSAGE-{index}-TEXT"} for index, message in enumerate([_SYSTEM, *_TURNS[:3]])]


@dataclass(frozen=True)
class Conversation:
    """Messages, and the ids of the prompt that the chat template makes of them."""

    messages: list[Message]
    text: str
    ids: list[int]


@dataclass(frozen=True)
class Turns:
    """What a chat template writes around messages.

    Attributes:
        first: before a first message of the user, `system` before one of the system, and `after_system` between the
            two; both None where the template has no place for it.
        answer, following: before an answer, and between it and the next message of the user.
        last: behind the message that is to be answered.
    """

    first: str
    answer: str
    following: str
    last: str
    system: str | None
    after_system: str | None

    def written(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a conversation that ends with a message of the user."""
        text, before = "", self.first
        for index, message in enumerate(messages):
            if message["role"] == "system":
                text += f"{self.system}{message['content']}"
                before = str(self.after_system)
            elif message["role"] == "user":
                text += before + message["content"] + (self.answer if index < len(messages) - 1 else self.last)
            else:
                text += message["content"]
                before = self.following
        return text


def sample_conversations(tokenizer: PreTrainedTokenizerFast) -> list[Conversation]:
    """Return conversations of one to three turns, without and with a system message, that the chat template takes."""
    found = []
    if not tokenizer.chat_template:
        return []
    for messages in (begin + _TURNS[:length] for begin in ([], [_SYSTEM]) for length in (1, 3, 5)):
        try:
            text = render(tokenizer, messages, add_generation_prompt=True)
        except InputError:  # many templates refuse a system message
            continue
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"]
        found.append(Conversation(messages, text, ids))
    return found


def turns(tokenizer: PreTrainedTokenizerFast) -> Turns | None:
    """Return what the chat template writes around messages; None where it is not the same in each conversation."""
    found = _turns(tokenizer)
    conversations = sample_conversations(tokenizer)
    if found is None or not conversations:
        return None
    if found.system is None:
        conversations = [one for one in conversations if one.messages[0]["role"] != "system"]
    return found if all(found.written(one.messages) == one.text for one in conversations) else None


def _turns(tokenizer: PreTrainedTokenizerFast) -> Turns | None:
    """Return what stands between marked messages."""
    between = _between(tokenizer, _MARKS[1:])
    if between is None:
        return None
    first, answer, following, last = between
    system = _between(tokenizer, _MARKS[:2])
    if system is None or system[2] != last:
        system = (None, None)
    return Turns(first, answer, following, last, system[0], system[1])


def _between(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> list[str] | None:
    """Return the words before, between and behind the messages in their prompt; None where one is not there once."""
    try:
        rest = render(tokenizer, messages, add_generation_prompt=True)
    except InputError:
        return None
    found = []
    for message in messages:
        before, mark, rest = rest.partition(message["content"])
        if not mark or message["content"] in rest:
            return None
        found.append(before)
    return [*found, rest]


def stop_strings(tokenizer: PreTrainedTokenizerFast, defaults: GenerationConfig | None) -> list[str]:
    """Return the tokens at which an answer ends: those of the defaults of `generate`, and the one of the template."""
    ids = listed(defaults.eos_token_id if defaults is not None else None)
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    found = [str(tokenizer.convert_ids_to_tokens(index)) for index in ids]
    if tokenizer.chat_template and (known := _turns(tokenizer)) is not None:
        behind = known.following.lstrip()
        tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        found += [token for token in tokens if behind.startswith(token) and token not in found]
    return found


def modelfile(gguf_name: str, tokenizer: PreTrainedTokenizerFast, stops: Sequence[str], context_length: int) -> str:
    """Return what `ollama create` reads: the file, the prompt of a conversation, and where an answer ends."""
    lines = [f"FROM ./{gguf_name}", f"PARAMETER num_ctx {context_length}"]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    if not tokenizer.chat_template:
        return "\n".join([*lines, 'TEMPLATE """{{ .Prompt }}"""', ""])
    if (found := turns(tokenizer)) is None:
        note = (
            "# The chat template cannot be written in Ollama's language; /api/chat of Ollama would get other prompts."
        )
        return "\n".join([note, *lines, ""])
    begins = document_tokens(tokenizer).before == (tokenizer.bos_token_id,)
    return "\n".join([*lines, f'TEMPLATE """{_in_go(found, str(tokenizer.bos_token) if begins else "")}"""', ""])


def _in_go(found: Turns, added: str) -> str:
    """Return the template for Ollama; what its tokenizer adds itself, `added`, is not written a second time."""

    def literal(text: str | None) -> str:
        return json.dumps(text, ensure_ascii=False)  # the escapes of JSON are escapes of Go too

    system = ""
    if found.system is not None:
        before = literal(found.system.removeprefix(added))
        system = (
            f'{{{{- if eq .Role "system" }}}}{{{{ {before} }}}}{{{{ .Content }}}}'
            f"{{{{ $before = {literal(found.after_system)} }}}}\n"
        )
    return (
        f"{{{{- $before := {literal(found.first.removeprefix(added))} }}}}\n"
        "{{- range $i, $message := .Messages }}\n"
        f'{system}{{{{- {"else " if system else ""}if eq .Role "user" }}}}{{{{ $before }}}}{{{{ .Content }}}}'
        f"{{{{ if eq (len (slice $.Messages $i)) 1 }}}}{{{{ {literal(found.last)} }}}}"
        f"{{{{ else }}}}{{{{ {literal(found.answer)} }}}}{{{{ end }}}}\n"
        f'{{{{- else if eq .Role "assistant" }}}}{{{{ .Content }}}}{{{{ $before = {literal(found.following)} }}}}\n'
        "{{- end }}\n{{- end }}"
    )


def write(
    folder: Path,
    name: str,
    gguf_name: str | None,
    defaults: GenerationConfig | None,
    tokenizer: PreTrainedTokenizerFast,
    length: int,
) -> str:
    """Write the file for Ollama where there is a GGUF file, and return the section of the card of a folder `name`.

    `length` is how many tokens the model reads at once, and `defaults` are those of its `generate`.
    """
    stops = stop_strings(tokenizer, defaults)
    if gguf_name is not None:
        text = modelfile(gguf_name, tokenizer, stops, length)
        (folder / MODELFILE_NAME).write_text(text, encoding="utf-8")
    return section(name, gguf_name, bool(tokenizer.chat_template), stops, length)


def section(name: str, gguf_name: str | None, is_chat: bool, stops: Sequence[str], context_length: int) -> str:
    """Return commands that run the model of an exported folder `name`, in English and in Japanese, for its card."""
    question = '{"messages": [{"role": "user", "content": "日本の首都は？"}]}'
    path = "v1/chat/completions"
    if not is_chat:
        question, path = '{"prompt": "吾輩は猫である。", "max_tokens": 100}', "v1/completions"
    ask = f"curl http://127.0.0.1:8000/{path} -H 'Content-Type: application/json' -d '{question}'"
    vllm = f"vllm serve . --served-model-name {name} --max-model-len {context_length} --port 8000\n{ask}"
    llama_cpp = f"llama-server -m {gguf_name} -c {context_length}{' --jinja' * is_chat} --port 8000\n{ask}"
    ollama = f"ollama create {name} -f {MODELFILE_NAME}\nollama run {name}"
    shown = " ".join(f"`{stop}`" for stop in stops)
    if gguf_name is None:
        commands = {"vLLM": vllm}
        english = f"In this folder. An answer ends at {shown}. llama.cpp and Ollama need a GGUF file, from `--gguf`."
        japanese = (
            f"このフォルダーで実行します。回答は {shown} で終わります。llama.cpp と Ollama で使うには、"
            "`--gguf` を付けて GGUF を作ってください。"
        )
    else:
        commands = {"llama.cpp": llama_cpp, "Ollama": ollama, "vLLM": vllm}
        english = f"In this folder. An answer ends at {shown}, which all three read from the files."
        japanese = f"このフォルダーで実行します。回答の終わりは {shown} で、どのソフトもファイルから読み取ります。"
    blocks = [f"{program}:\n\n```bash\n{lines}\n```" for program, lines in commands.items()]
    return "\n\n".join(["## Run it elsewhere · ほかのソフトで動かす", english, japanese, *blocks]) + "\n"
