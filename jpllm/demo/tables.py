"""Read the words and templates of `texts/`.

Notation of the templates:

- `{slot}` is replaced by a word of the document, or by a random entry of `words.txt`;
- `<a|b|>` is replaced by one of its alternatives, which may be empty;
- `[word/form]` is replaced by `inflect(word, form, polite)`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

_FOLDER = Path(__file__).with_name("texts")


class Story(NamedTuple):
    """Who the hero is, what is bound (as in `Scene.bind`), and the alternatives of each step, `-` for none."""

    kind: str
    bindings: list[str]
    steps: list[list[str]]


class Topic(NamedTuple):
    """Names of the fields, their values for each subject, the steps of a description with their alternatives,
    remarks that may follow, and [question, answer]."""

    fields: list[str]
    records: list[list[str]]
    steps: list[list[str]]
    remarks: list[str]
    pairs: list[list[str]]


@lru_cache(maxsize=1)
def word_table() -> dict[str, list[str]]:
    """Return the entries of every slot: `slot = entry entry`, going on in indented lines.

    `key:value,value` entries belong together and are bound together; a season stands after the name of a slot that
    depends on it.
    """
    rows = {}
    name = ""
    for line in _lines("words"):
        if not line.startswith(" "):
            name, line = line.split(" =", 1)
            rows[name] = []
        rows[name] += line.split()
    return rows


@lru_cache(maxsize=1)
def synonyms() -> tuple[re.Pattern, dict[str, list[str]]]:
    """Return what finds a word that has synonyms, and the words that may stand for each, itself included.

    A line is `word=synonym|synonym`; look-around in the word keeps longer words apart.
    """
    rows = [line.rsplit("=", 1) for line in _lines("synonyms")]
    pattern = re.compile("|".join(word for word, _ in rows))
    return pattern, {re.sub(r"\(.*?\)", "", word): others.split("|") for word, others in rows}


@lru_cache(maxsize=1)
def story_table() -> list[Story]:
    """Return every story: a block that starts with `@kind slot=table;slot,slot=table`.

    Its steps stand between empty lines, the alternatives of a step one a line.
    """
    stories = []
    for block in _text("stories").removeprefix("@").split("\n@"):
        header, text = block.split("\n", 1)
        kind, bindings = header.split(" ", 1)
        stories.append(Story(kind, bindings.split(";"), _steps(text)))
    return stories


@lru_cache(maxsize=1)
def topic_table() -> list[Topic]:
    """Return every topic: a block that starts with `#name fields`, its parts separated by `---`."""
    topics = []
    for block in _text("topics").removeprefix("#").split("\n#"):
        header, text = block.split("\n", 1)
        records, steps, remarks, pairs = (part.strip() for part in text.split("---"))
        topics.append(
            Topic(
                fields=header.split()[1:],
                records=[line.split(";") for line in records.split("\n")],
                steps=_steps(steps),
                remarks=remarks.split("\n"),
                pairs=[line.split("=") for line in pairs.split("\n")],
            )
        )
    return topics


@lru_cache(maxsize=1)
def fact_table() -> list[list[str]]:
    """Return [question, answer, statement] of every general fact."""
    return [line.split("=") for line in _lines("facts")]


@lru_cache(maxsize=1)
def problem_table() -> list[tuple[str, str, str]]:
    """Return (operation, question, unit of the answer) of every arithmetic problem."""
    rows = []
    for line in _lines("problems"):
        operation, text = line.split(" ", 1)
        question, unit = text.split("=")
        rows.append((operation, question, unit))
    return rows


@lru_cache(maxsize=1)
def review_table() -> list[tuple[str, list[list[list[str]]]]]:
    """Return (subject, aspects) of every kind of review; an aspect is its noun, good and bad predicates."""
    subjects = []
    for line in _lines("reviews"):
        subject, aspects = line.split(":")
        subjects.append((subject, [[part.split(",") for part in item.split("/")] for item in aspects.split(";")]))
    return subjects


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def _lines(name: str) -> list[str]:
    return _text(name).splitlines()


def _steps(text: str) -> list[list[str]]:
    """Return the alternatives of each step."""
    return [step.split("\n") for step in text.strip().split("\n\n")]
