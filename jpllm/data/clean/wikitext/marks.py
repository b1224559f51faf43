"""Keep apart what must not be parsed: marks for literals and unknown templates, and how they become text again.

Marks are noncharacters of Unicode, which no text may use.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass, field

# Around the number of a literal or of an unknown template, and in place of what is shown nowhere.
KEPT_START, KEPT_END, REMOVED, UNKNOWN_START, UNKNOWN_END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4"
# Before what is syntax at the beginning of a line, so that a parser passes it over.
LINE_START = "\ufdd5"
HIDDEN = {
    character: chr(0xFDD6 + number) for number, character in enumerate(("<", "[", "]", "|", "=", "{", "}", "'", "\n"))
}
_HIDE = str.maketrans({character: hidden for character, hidden in HIDDEN.items() if character != "\n"})

_SHOWN = {hidden: shown for shown, hidden in HIDDEN.items()} | {"\u00a0": " "}
_TO_SHOW = re.compile(f"[{''.join(_SHOWN)}]")
_NONCHARACTERS = re.compile(r"[\ufdd0-\ufdef]")
_KEPT = re.compile(rf"{KEPT_START}(\d+){KEPT_END}")
_UNKNOWN = re.compile(rf"{UNKNOWN_START}(\d+){UNKNOWN_END}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SYNTAX = frozenset("<>&[]{}|=_'*#:;!-\n\r")

_FORMULA = re.compile(r"\$[^$\n\u3040-\u30ff\u4e00-\u9fff]*(?:\\[A-Za-z]|[_^]\{)[^$\n\u3040-\u30ff\u4e00-\u9fff]*\$")
_TEX_BRACES = re.compile(
    r"(?:\\[A-Za-z]+|[_^\\])\{\{[^{}|\n]*(?:\{[^{}|\n]*\}[^{}|\n]*)*\}\}"  # \frac{{a}}{b}, x_{{1}}
    r"|\{\{(?=[^{}|\n]*\\[A-Za-z])[^{}|\n]*(?:\{[^{}|\n]*\}[^{}|\n]*)*\}\}"  # {{\displaystyle x}}
)


@dataclass
class Page:
    """What is taken out of the text of one page while its markup is resolved; marks hold the numbers.

    Attributes:
        literals: program code, formulas and escaped text.
        unknown: name of each template that is not in the table, and what returns the text that it might show.
        removed_inside: names of the unknown templates that were removed inside a sentence.
    """

    literals: list[str] = field(default_factory=list)
    unknown: list[tuple[str, Callable[[], str]]] = field(default_factory=list)
    removed_inside: list[str] = field(default_factory=list)

    def keep(self, literal: str) -> str:
        """Return the mark that stands for `literal`."""
        self.literals.append(literal)
        return f"{KEPT_START}{len(self.literals) - 1}{KEPT_END}"

    def restore(self, text: str) -> str:
        """Return `text` with the literals in place of their marks."""
        return _KEPT.sub(lambda match: self.literals[int(match[1])], text)

    def mark_unknown(self, name: str, guess: Callable[[], str]) -> str:
        """Return the mark that stands for an unknown template until its surroundings are known."""
        self.unknown.append((name, guess))
        return f"{UNKNOWN_START}{len(self.unknown) - 1}{UNKNOWN_END}"

    def settle_unknown(self, text: str) -> str:
        """Return `text` with the marks of unknown templates resolved.

        Beside other words on its line, so inside a sentence, a template becomes the argument that reads as text, and
        `removed_inside` gets its name if there is none. On a line of its own it is a box or a note, and is removed.
        """
        if UNKNOWN_START not in text:
            return text
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if UNKNOWN_START in line:
                has_words = any(map(str.isalnum, _UNKNOWN.sub("", line)))
                lines[number] = _UNKNOWN.sub(self._shown_inside if has_words else REMOVED, line)
        return "\n".join(lines)

    def _shown_inside(self, mark: re.Match) -> str:
        name, guess = self.unknown[int(mark[1])]
        if text := guess():
            return _UNKNOWN.sub(self._shown_inside, text)
        self.removed_inside.append(name)
        return REMOVED


def without_marks(text: str) -> str:
    """Return `text` without the characters that serve as marks."""
    return _NONCHARACTERS.sub("", text)


def hide(text: str) -> str:
    """Return `text` with marks for all characters that are syntax; `show` gives them back."""
    return text.translate(_HIDE)


def show(text: str) -> str:
    """Return `text` with the hidden characters shown, and common spaces for those that do not break."""
    return _TO_SHOW.sub(lambda match: _SHOWN[match[0]], text)


def hide_tex_braces(text: str) -> str:
    """Return `text` with the syntax in formulas between dollars, and double braces of TeX elsewhere, hidden."""
    if "$" in text:
        text = _FORMULA.sub(lambda match: hide(match[0]), text)
    if "{{" in text and ("\\" in text or "_{{" in text or "^{{" in text):
        text = _TEX_BRACES.sub(lambda match: hide(match[0]), text)
    return text


def decode_entities(text: str) -> str:
    """Return `text` with the character of each HTML entity."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def decode_harmless_entities(text: str) -> str:
    """Return `text` with the entities decoded that spell no syntax: `&nbsp;`, but not `&lt;`."""

    def decoded(match: re.Match) -> str:
        character = html.unescape(match[0])
        return match[0] if _SYNTAX.intersection(character) else character

    return _ENTITY.sub(decoded, text) if "&" in text else text
