"""Signs of noise in instruction data: counted for a person to judge, nothing is left out for them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from jpllm.data.conversations.layouts import Conversation

_JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_ENDS = tuple("。．.！!？?」』）)…:：;；～~0123456789")
_PAIRS = ("「」", "『』", "（）", "【】")


def lines(conversations: Iterable[Conversation]) -> list[str]:
    """One line for each sign that is there, with its count and an example."""
    found: dict[str, list[str]] = {}
    wanted: dict[str, set[str]] = {}
    num_rows = 0
    for conversation in conversations:
        num_rows += 1
        question, answer = (message["content"] for message in conversation.messages[-2:])
        wanted.setdefault(question, set()).add(answer)
        for sign in signs(question, answer):
            found.setdefault(sign, []).append(conversation.place)
    num_contradicted = sum(len(answers) > 1 for answers in wanted.values())
    result = [
        f"  {len(places):,} ({len(places) / num_rows:.1%}) {sign}, as {places[0]}" for sign, places in found.items()
    ]
    result.sort(key=lambda line: -int(line.split()[0].replace(",", "")))
    if num_contradicted:
        result.append(f"  {num_contradicted:,} questions with more than one answer")
    return ["signs of noise (kept):", *result] if result else []


def signs(question: str, answer: str) -> list[str]:
    """What looks wrong with an answer."""
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
