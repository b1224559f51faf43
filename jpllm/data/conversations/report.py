"""Report on instruction data before it is learned from: rows that are left out, and signs of noise in the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from jpllm.data.conversations.layouts import Conversation
from jpllm.data.read.quarantine import BadRow
from jpllm.runtime import InputError

_JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_ENDS = tuple("。．.！!？?」』）)…:：;；～~0123456789")
_PAIRS = ("「」", "『』", "（）", "【】")
_MAX_REFUSED = 0.1  # of the rows of a source


@dataclass
class RowCounts:
    """What became of the rows of a source.

    Attributes:
        left_out: number of rows by reason.
        num_cut: rows whose last answer was cut to the length.
        first_bad: the first rows that could not be used.
        first_refused: the first row that the chat template could not take, by reason.
    """

    num_read: int = 0
    num_kept: int = 0
    num_cut: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_bad: list[BadRow] = field(default_factory=list)
    first_refused: dict[str, BadRow] = field(default_factory=dict)

    def leave_out(self, row: BadRow, is_refused: bool = False) -> None:
        """Count a row that is not used, by its reason."""
        self.left_out[row.reason] += 1
        if len(self.first_bad) < 5:
            self.first_bad.append(row)
        if is_refused:
            self.first_refused.setdefault(row.reason, row)

    def refuse_many(self, label: str, max_bad_fraction: float) -> None:
        """Raise InputError where the template refuses more than a tenth of the rows, or than `max_bad_fraction`."""
        num_refused = sum(self.left_out[reason] for reason in self.first_refused)
        limit = max(_MAX_REFUSED, max_bad_fraction)
        if num_refused > limit * self.num_read:
            shown = "\n".join(f"  {row}" for row in self.first_refused.values())
            raise InputError(
                f"{label}: {num_refused:,} of {self.num_read:,} rows cannot be learned with this template, more than "
                f"{limit:.0%}. Choose another one, leave these rows out, or raise max_bad_fraction:\n{shown}"
            )

    def lines(self, label: str) -> list[str]:
        """Return what a person should know of the rows of the source called `label`, in lines."""
        lines = [f"{label}: {self.num_kept:,} of {self.num_read:,} rows"]
        for reason, count in self.left_out.most_common():
            refused = self.first_refused.get(reason)
            example = f" ({refused.place}: {refused.detail})" if refused else ""
            lines.append(f"  {count:,} left out: {reason}{example}")
        lines += [f"  {self.num_cut:,} cut at the end of the answer"] if self.num_cut else []
        return lines


def noise_lines(conversations: Iterable[Conversation]) -> list[str]:
    """Return a line for each sign of noise that is there, with its count and an example; nothing is left out for it."""
    found: dict[str, list[str]] = {}
    wanted: dict[str, set[str]] = {}
    num_rows = 0
    for conversation in conversations:
        num_rows += 1
        question, answer = (message["content"] for message in conversation.messages[-2:])
        wanted.setdefault(question, set()).add(answer)
        for sign in signs_of_noise(question, answer):
            found.setdefault(sign, []).append(conversation.place)
    num_contradicted = sum(len(answers) > 1 for answers in wanted.values())
    result = [
        f"  {len(places):,} ({len(places) / num_rows:.1%}) {sign}, as {places[0]}" for sign, places in found.items()
    ]
    result.sort(key=lambda line: -int(line.split()[0].replace(",", "")))
    if num_contradicted:
        result.append(f"  {num_contradicted:,} questions with more than one answer")
    return ["signs of noise (kept):", *result] if result else []


def signs_of_noise(question: str, answer: str) -> list[str]:
    """Return the name of each sign of noise in a question and its answer."""
    found = []
    if answer.strip() == question.strip():
        found.append("answers repeat the question")
    if _JAPANESE.search(question) and not _JAPANESE.search(answer) and re.search("[A-Za-z]{3}", answer):
        found.append("answers have no Japanese character, and letters")
    if any(text.count(pair[0]) != text.count(pair[1]) for text in (question, answer) for pair in _PAIRS):
        found.append("rows have brackets without their pair")
    if len(answer) >= 40 and not answer.rstrip().endswith(_ENDS) and "\n" not in answer.strip():
        found.append("long answers break off without the end of a sentence")
    if re.search(r"(.{4,}?)\1{3}", answer):
        found.append("answers repeat themselves")
    return found
