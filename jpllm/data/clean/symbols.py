"""Clean decorative symbols, and keep off formulas."""

from __future__ import annotations

import re

# Not the circles ○ and ◯: they stand for zero (一九○○年) and for names left out (○○さん).
_DECORATIVE = "←-↓⇐-⇓■-◊◌-◮◰-◿☀-♬♰-⚪✀-➓➔➕-➿⬅-⬇⬛⬜⭐※"
_SYMBOL = re.compile(f"[{_DECORATIVE}]")
_RUN = re.compile(rf"([{_DECORATIVE}])\1{{2,}}")
_SPACED = re.compile(f"[ \t]*[{_DECORATIVE}]+(?:[ \t]*[{_DECORATIVE}])*[ \t]*")
_FRAME = r"+|\u2502\u2503\u250c-\u254b\u2551-\u256c"  # a ruler beside one of these is the side of a table
_RULERS = {
    mark * 7: re.compile(rf"(?<![{_FRAME}{re.escape(mark)}]){re.escape(mark)}{{7,}}(?![{_FRAME}{re.escape(mark)}])")
    for mark in "-=*_~#＊＝＿─━═"
}

_OPERAND = r"A-Za-z0-9Ａ-Ｚａ-ｚ０-９α-ωΑ-Ω∞"
_FORMULA = re.compile(
    r"\\[A-Za-z]+"  # a TeX command
    r"|\$[^$]*[A-Za-z0-9][^$]*\$"  # text between dollars
    rf"|[{_OPERAND})\]}}′'²³|]\s*[=＝≠≒≡≦≧≤≥<>＜＞+＋±×÷^∈⊂⊆∧∨→⇒⇔↦←⇐]\s*(?:[-−+±√∠△({{\[|]*[{_OPERAND}]|□)"
    r"|[△▽□▱⊿]\s?[A-ZＡ-Ｚ]{2,}"  # a figure named by its corners
    r"|[0-9０-９]□|[□△▲▼]\s?[0-9０-９]"  # a digit to find, a negative amount
    r"|[∑∏∫√∮]"
)


def symbols(text: str, at_most: float = 0.02) -> str:
    """Shorten runs of a decorative symbol to two; remove all symbols if their share is still above `at_most`.

    Decorative are shapes, stars, notes, arrows and ※: what stands in a line for the eye. The share is that of the
    characters other than white space. A symbol removed between two words leaves a space. Rulers (-------, =======)
    become three characters. Never touched: punctuation (。、！？「」…ー〜), frames of tables, and lines that look like
    formulas, which have a TeX command, text between dollars, a root, sum or integral, a figure such as △ABC, a number
    such as ▲5 or 4□7, or an operator or arrow between two letters or digits.
    """
    text = _with_short_rulers(text)
    if not _SYMBOL.search(text):
        return text
    lines = text.split("\n")
    plain = [index for index, line in enumerate(lines) if _SYMBOL.search(line) and not is_formula(line)]
    for index in plain:
        lines[index] = _RUN.sub(r"\1\1", lines[index])
    num_symbols = sum(len(_SYMBOL.findall(lines[index])) for index in plain)
    num_characters = sum(len("".join(line.split())) for line in lines)
    if num_symbols > at_most * num_characters:
        for index in plain:
            lines[index] = _with_short_rulers(_without_symbols(lines[index]))
    return "\n".join(lines)


def is_formula(line: str) -> bool:
    """Return whether a line of text looks like mathematics, by the test that `symbols` describes."""
    return _FORMULA.search(line) is not None


def _with_short_rulers(text: str) -> str:
    for ruler, pattern in _RULERS.items():
        if ruler in text:  # many times faster than the pattern
            text = pattern.sub(ruler[:3], text)
    return text


def _without_symbols(line: str) -> str:
    def gap(found: re.Match[str]) -> str:
        before, after = line[: found.start()][-1:], line[found.end() :][:1]
        return " " if before.isalnum() and after.isalnum() else ""

    return _SPACED.sub(gap, line)
