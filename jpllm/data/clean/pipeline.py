"""Clean documents by named rules, chosen for each source in the configuration.

A rule is a pure function. It takes a text, and at most the thresholds `at_least` and `at_most`, and returns the text,
changed or not, or a `Drop` with the reason why the document should not be used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from jpllm.config.settings import REQUIRED, option
from jpllm.config.types import suggest
from jpllm.data.clean.aozora import aozora
from jpllm.data.clean.characters import control_characters, nfkc, symbols, whitespace
from jpllm.data.clean.quality import Drop, japanese_share, length, repetition
from jpllm.data.clean.webtext import web_lines
from jpllm.data.clean.wikitext.plain_text import wikipedia

# In the order in which they work best: formats before characters, and what counts something last.
RULES: dict[str, Callable[..., str | Drop]] = {
    rule.__name__: rule
    for rule in (
        control_characters,
        aozora,
        wikipedia,
        web_lines,
        nfkc,
        symbols,
        whitespace,
        japanese_share,
        repetition,
        length,
    )
}
BLANK = "blank"  # what `dropped_by` says of a document that was blank from the start


@dataclass
class CleanRule:
    """One cleaning rule of a source, with its thresholds."""

    shorthand: ClassVar[str] = "rule"

    rule: str = option(REQUIRED, f"Its name: {', '.join(RULES)}.")
    at_least: float | None = option(
        None, "Lowest value that is kept, by default the rule's own: a share, or characters for length.", minimum=0
    )
    at_most: float | None = option(
        None, "Highest value that is kept, by default the rule's own: a share, or characters for length.", minimum=0
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield the problems of an unknown rule, and of thresholds that it does not take or no value can meet."""
        if self.rule not in RULES:
            advice = suggest(self.rule, RULES) or f"; the rules are {', '.join(RULES)}"
            yield "rule", f"no cleaning rule is called {self.rule!r}{advice}"
            return
        defaults = thresholds(self.rule)
        for key, value in self.given.items():
            if key not in defaults:
                takes = f"takes only {' and '.join(defaults)}" if defaults else "takes no thresholds"
                yield key, f"{self.rule} {takes}; remove {key}"
            elif value > 1 and not counts_characters(self.rule):
                yield key, f"{value:g} is no share; write a number from 0 to 1, such as {value / 100:g} for {value:g} %"
        limits = {**defaults, **self.given}
        low, high = limits.get("at_least"), limits.get("at_most")
        if low is not None and high is not None and low > high:
            key = "at_least" if self.at_least is not None else "at_most"
            yield key, f"every document would be dropped: at_least is {low:g}, at_most {high:g}"

    @property
    def given(self) -> dict[str, float]:
        """The thresholds that are set, for the call of the rule."""
        values = {"at_least": self.at_least, "at_most": self.at_most}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True)
class Step:
    """What one rule did: `after` is None if it dropped the document, and then `reason` says why."""

    rule: str
    before: str
    after: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Cleaned:
    """A cleaned document; if it was dropped, `text` is None and the others name the rule and the reason."""

    text: str | None
    dropped_by: str | None = None
    reason: str | None = None


def steps(text: str, rules: Sequence[CleanRule]) -> Iterator[Step]:
    """Apply the rules in their order, up to the first that drops the document or leaves nothing but white space.

    A document that is blank from the start gives one step, of the rule `blank`.
    """
    if not text or text.isspace():
        yield Step(BLANK, text, None, "blank document")
        return
    for rule in rules:
        result = RULES[rule.rule](text, **rule.given)
        if isinstance(result, Drop):
            yield Step(rule.rule, text, None, result.reason)
            return
        if not result or result.isspace():
            yield Step(rule.rule, text, None, "blank after cleaning")
            return
        yield Step(rule.rule, text, result)
        text = result


def clean(text: str, rules: Sequence[CleanRule]) -> Cleaned:
    """Return the document after all rules, or why it was dropped."""
    if not rules:
        return Cleaned(text) if text and not text.isspace() else Cleaned(None, BLANK, "blank document")
    for step in steps(text, rules):
        if step.after is None:
            return Cleaned(None, step.rule, step.reason)
        text = step.after
    return Cleaned(text)


def thresholds(rule: str) -> dict[str, float | None]:
    """Return the thresholds that a rule takes, with their defaults (None: no limit)."""
    parameters = inspect.signature(RULES[rule]).parameters
    return {name: parameter.default for name, parameter in list(parameters.items())[1:]}


def counts_characters(rule: str) -> bool:
    """Return whether the thresholds of a rule are characters, as a default above 1 says, and not shares."""
    return any(limit is not None and limit > 1 for limit in thresholds(rule).values())
