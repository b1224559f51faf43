"""Encode conversations: token ids in memory, of which the answers are learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from jpllm import runtime
from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.conversations.layouts import Conversation, InstructDataConfig, Message, read_conversations
from jpllm.data.conversations.report import RowCounts, noise_lines
from jpllm.data.read.formats import ReadProgress
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError, UnusableRow

if TYPE_CHECKING:
    from rich.text import Text

Encode = Callable[[list[Message]], tuple[list[int], list[bool]]]
SpecialTokenIn = Callable[[list[Message]], "str | None"]


@dataclass(frozen=True)
class Row:
    """One conversation, encoded.

    Attributes:
        ids: int32 (tokens,).
        learned: bool (tokens,), true for answers with their EOS.
    """

    conversation: Conversation
    ids: np.ndarray = field(repr=False)
    learned: np.ndarray = field(repr=False)

    @property
    def labels(self) -> np.ndarray:
        """int64 (tokens,): the ids that are learned, `IGNORED_LABEL` elsewhere."""
        return np.where(self.learned, self.ids, IGNORED_LABEL).astype(np.int64)

    def __len__(self) -> int:
        return len(self.ids)


def read_rows(
    sources: Sequence[SourceConfig], config: InstructDataConfig, encode: Encode, special_token_in: SpecialTokenIn
) -> tuple[list[Row], list[str]]:
    """Return the rows of all sources that can be learned from, and lines that say what became of the others.

    Raises:
        InputError: a source has no such row, the template refuses too many of them, and what `read_conversations` and
            `encode_rows` raise.
    """
    rows: list[Row] = []
    lines: list[str] = []
    for source in sources:
        progress = ReadProgress()
        with runtime.progress_bar(f"encode {source.label}", "rows") as update:

            def counted(source=source, progress=progress, update=update) -> Iterator[Conversation | BadRow]:
                for conversation in read_conversations(source, progress):
                    update(progress.bytes_read, progress.total_bytes, rows=1)
                    yield conversation

            found, counts = encode_rows(counted(), encode, special_token_in, config.sequence_length, config.too_long)
        counts.refuse_many(source.label, source.max_bad_fraction)
        if not found:
            shown = "\n".join(f"  {row}" for row in counts.first_bad)
            raise InputError("\n".join([*counts.lines(source.label), "the first of them:", shown]))
        lines += [*counts.lines(source.label), *noise_lines(row.conversation for row in found)]
        rows += found
    return rows, lines


def encode_rows(
    conversations: Iterable[Conversation | BadRow],
    encode: Encode,
    special_token_in: SpecialTokenIn,
    max_tokens: int,
    too_long: str,
) -> tuple[list[Row], RowCounts]:
    """Return the rows that can be learned from, each of at most `max_tokens`, without exact copies, and the counts.

    A row that `encode` refuses (UnusableRow) is left out. One that is too long is dropped, or its last answer is cut
    and ends with the EOS all the same; where the prompt alone fills the length, nothing of it can be learned and it is
    dropped too.

    Raises:
        InputError: `too_long` is "refuse" and a row is.
    """
    counts = RowCounts()
    rows: list[Row] = []
    seen: set[bytes] = set()
    for conversation in conversations:
        counts.num_read += 1
        if isinstance(conversation, BadRow):
            counts.leave_out(conversation)
            continue
        place = conversation.place
        digest = hashlib.sha256(json.dumps(conversation.messages, ensure_ascii=False).encode()).digest()
        if digest in seen:
            counts.leave_out(BadRow(place, "exact copy of another row"))
        elif token := special_token_in(conversation.messages):
            counts.leave_out(BadRow(place, "a message spells a special token", token))
        else:
            try:
                ids, learned = encode(conversation.messages)
            except UnusableRow as error:
                counts.leave_out(BadRow(place, error.reason, str(error)), is_refused=True)
            else:
                row = _fitting(conversation, ids, learned, max_tokens, too_long, counts)
                rows += [row] if row else []
        seen.add(digest)
    counts.num_kept = len(rows)
    return rows, counts


def _fitting(
    conversation: Conversation,
    ids: list[int],
    learned: list[bool],
    max_tokens: int,
    too_long: str,
    counts: RowCounts,
) -> Row | None:
    if len(ids) > max_tokens:
        found = f"{conversation.place}: {len(ids):,} tokens, and sequence_length is {max_tokens:,}"
        if too_long == "refuse":
            raise InputError(f"{found}; raise it, or write too_long: drop or too_long: cut")
        if too_long == "drop":
            counts.leave_out(BadRow(conversation.place, "longer than sequence_length", f"{len(ids):,} tokens"))
            return None
        # An answer is cut where the length ends; at least one of its words and the EOS have to be left.
        if not (learned[max_tokens - 2] and learned[max_tokens - 1]):
            counts.leave_out(BadRow(conversation.place, "the prompt fills the whole length", f"{len(ids):,} tokens"))
            return None
        ids = [*ids[: max_tokens - 1], ids[-1]]
        learned = learned[:max_tokens]
        counts.num_cut += 1
    return Row(conversation, np.array(ids, np.int32), np.array(learned, bool))


def held_out_and_rest(rows: Sequence[Row], max_rows: int) -> tuple[list[Row], list[Row]]:
    """Return at most `max_rows` rows, and no more than a tenth of all, to evaluate on, and the others.

    Rows whose first question is the same come to the same side. Their groups are taken in the order of a hash of that
    question; one that would pass the limit is left in the others.

    Raises:
        InputError: there are fewer than ten rows, or each group is larger than the limit.
    """
    advice = "name eval_sources to evaluate on"
    limit = min(max_rows, len(rows) // 10)
    if limit == 0:
        raise InputError(f"sources: {len(rows):,} rows, too few to hold a tenth out; add rows up to ten, or {advice}")
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(_first_question(row), []).append(index)
    chosen: set[int] = set()
    for question in sorted(groups, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if len(chosen) + len(groups[question]) <= limit:
            chosen.update(groups[question])
    if not chosen:
        smallest = min(map(len, groups.values()))
        raise InputError(
            f"sources: rows with the same first question have to stay together, and of {len(rows):,} rows at least "
            f"{smallest:,} share each of them, where {limit:,} may be held out; {advice}, or add rows with other "
            "questions"
        )
    held_out = [row for index, row in enumerate(rows) if index in chosen]
    return held_out, [row for index, row in enumerate(rows) if index not in chosen]


def _first_question(row: Row) -> str:
    return next(message["content"] for message in row.conversation.messages if message["role"] == "user")


def preview(row: Row, decode: Callable[[Sequence[int]], str]) -> Text:
    """Return a row as the model reads it: given text dim, learned text green, the end of each answer red.

    `decode` makes text of ids, special ones included.
    """
    from rich.text import Text

    text = Text()
    place = 0
    for learned, group in groupby(row.learned.tolist()):
        size = len(list(group))
        ids = row.ids[place : place + size].tolist()
        place += size
        if learned:
            text.append(decode(ids[:-1]), style="bold green")
            text.append(decode(ids[-1:]), style="bold white on red")
        else:
            text.append(decode(ids), style="dim")
    num_learned = int(row.learned.sum())
    text.append(
        f"\n{row.conversation.place}: {len(row):,} tokens, of which {num_learned:,} are learned (green, and the "
        f"end in red) and {len(row) - num_learned:,} given (dim)"
    )
    return text
