"""Read conversations from rows of several layouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpllm.config.settings import REQUIRED, option
from jpllm.data.read.formats import ReadProgress, read_rows
from jpllm.data.read.quarantine import BadRow, Quarantine
from jpllm.data.read.sources import SourceConfig
from jpllm.data.read.texts import has_values, refuse_empty_choice, text_problem
from jpllm.runtime import InputError

Message = dict[str, str]
LAYOUTS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction/input/output": ("instruction", "output"),
    "prompt/target": ("prompt", "target"),
    "question/answer": ("question", "answer"),
}
INPUT_HEADING = "\n\n### 入力:\n"  # between instruction and input, as in Alpaca's prompt
_ROLES = {
    **{role: role for role in ("system", "user", "assistant")},
    **{
        "human": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "model": "assistant",
    },  # as ShareGPT's files have them
}
_MESSAGE_KEYS = (("role", "content"), ("from", "value"))
_ALL_COLUMNS = ("*",)  # no such column: all are read


@dataclass
class InstructDataConfig:
    """Data"""

    sources: list[SourceConfig] = option(
        REQUIRED, f"Rows to learn from, in columns {', '.join(LAYOUTS)}: paths, or entries with the keys below."
    )
    eval_sources: list[SourceConfig] = option(
        default_factory=list, help="Rows to evaluate on, instead of rows held out of the sources."
    )
    held_out_rows: int = option(
        200,
        "Most rows kept out of training for evaluation, a tenth of all at most; rows that begin with the same "
        "question stay together.",
        minimum=1,
    )
    sequence_length: int = option(1024, "Tokens per block or row at most; at most the model's positions.", minimum=8)
    too_long: Literal["drop", "cut", "refuse"] = option(
        "drop", "Rows longer than sequence_length: leave them out, cut the end of the answer, or end with an error."
    )
    batching: Literal["packed", "by_length"] = option(
        "packed", "Pack several rows into a block, none seeing another, or pad batches of rows of about equal length."
    )
    replay: float = option(
        0.0, "Share of the training blocks that are plain text of replay_sources (packed).", minimum=0, maximum=0.95
    )
    replay_sources: list[SourceConfig] = option(
        default_factory=list, help="Plain texts like those of the pre-training; of the group old."
    )
    old_texts: list[SourceConfig] = option(
        default_factory=list, help="Plain texts whose bits per byte show what is forgotten; of the group old."
    )
    held_out_bytes: int = option(200_000, "Most bytes of each plain text in an evaluation.", minimum=1)
    processes: int = option(0, "Processes that clean plain texts; 0 is one per core.", minimum=0)
    shards_dir: Path = option(Path("runs/shards"), "Folder of the token shards of plain texts, shared by all runs.")
    verify_shards: bool = option(True, "Compare these token shards with their checksums before they are read.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield the problems of sources that are missing, and of a replay that cannot act."""
        if not self.sources:
            yield "sources", "name at least one source"
        if bool(self.replay) != bool(self.replay_sources):
            yield "replay", "give both the share and replay_sources, or neither"
        if self.replay and self.batching != "packed":
            yield "replay", "acts with batching: packed only, where all blocks have one length"


@dataclass(frozen=True)
class Conversation:
    """Messages in order; the last one is the assistant's, and is the one that is wanted.

    Attributes:
        place: file and line.
    """

    place: str
    messages: list[Message]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.messages[-1]["content"]


def layout_of(place: str, row: dict[str, object]) -> str:
    """Return the name of the layout that a row is in. Raises InputError when it has the columns of none."""
    for name, columns in LAYOUTS.items():
        if set(columns) <= row.keys():
            return name
    wanted = "; or ".join(" and ".join(columns) for columns in LAYOUTS.values())
    raise InputError(f"{place}: the row has the columns {', '.join(row) or 'none'}, and needs {wanted}")


def read_conversations(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[Conversation | BadRow]:
    """Yield the conversation of each row of a source, or what is wrong with the row. The first row decides the layout.

    Raises:
        InputError: a file is missing or damaged, the first row has the columns of no layout, or (after the last row)
            more rows than `max_bad_fraction` cannot be read at all.
    """
    layout = None
    num_rows = num_others = 0
    other: dict[str, object] = {}
    quarantine = Quarantine(source.label, source.max_bad_fraction)
    for place, row in read_rows(source, _ALL_COLUMNS, progress or ReadProgress()):
        quarantine.add(row)
        if isinstance(row, BadRow):
            yield row
            continue
        layout = layout or layout_of(place, row)
        if not has_values(row, source.where):
            num_others, other = num_others + 1, other or row
            continue
        messages = _messages(place, row, layout)
        yield messages if isinstance(messages, BadRow) else Conversation(place, messages)
        num_rows += 1
        if num_rows == source.max_rows:
            break
    if num_others and not num_rows:
        refuse_empty_choice(source, num_others, other)
    quarantine.conclude()


def _messages(place: str, row: dict[str, object], layout: str) -> list[Message] | BadRow:
    columns = LAYOUTS[layout]
    if layout == "messages":
        return _checked(place, row.get(layout))
    if layout == "conversations":
        return _checked(place, _with_system(row, row.get(layout)), layout)
    texts = [row.get(column) for column in columns]
    for column, text in zip(columns, texts, strict=True):
        if not isinstance(text, str) or not text.strip():
            return BadRow(place, f"column {column!r} holds no text")
    question, answer = texts
    context = row.get("input")
    if layout.startswith("instruction") and context not in (None, ""):
        if not isinstance(context, str):
            return BadRow(place, "column 'input' holds no text")
        question = f"{question}{INPUT_HEADING}{context}"
    return _checked(place, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])


def _with_system(row: dict[str, object], messages: object) -> object:
    """Return messages behind the text of the column system, which some files keep beside them."""
    system = row.get("system")
    has_own = (
        isinstance(messages, list) and messages and isinstance(messages[0], dict) and "system" in messages[0].values()
    )
    if isinstance(messages, list) and isinstance(system, str) and system.strip() and not has_own:
        return [{"role": "system", "content": system}, *messages]
    return messages


def _checked(place: str, messages: object, column: str = "messages") -> list[Message] | BadRow:
    """Return messages whose roles have an order that can be learned and whose texts can be encoded, or the problem."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return BadRow(place, f"{column} is no list of messages")
    found = []
    for message in messages:
        role_key, text_key = next((keys for keys in _MESSAGE_KEYS if keys[0] in message), _MESSAGE_KEYS[0])
        role = message.get(role_key)
        if not isinstance(role, str) or role not in _ROLES:
            return BadRow(place, "unknown role", repr(role))
        found.append({"role": _ROLES[role], "content": message.get(text_key)})
    for message in found:
        if not isinstance(message["content"], str) or not message["content"].strip():
            return BadRow(place, "a message without text")
        if problem := text_problem(place, message["content"]):
            return problem
    roles = [message["role"] for message in found]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return BadRow(place, "turns are not user, assistant, user, assistant …", ", ".join(roles))
    return found
