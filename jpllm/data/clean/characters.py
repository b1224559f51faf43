"""Clean single characters: invisible ones, white space, full-width forms, and decorative symbols but not formulas."""

from __future__ import annotations

import re
import unicodedata

_EMOJI = r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297"
_EMOJI += r"\u3299\U0001f000-\U0001faff"
_KANJI = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PICTURE_END = rf"[{_EMOJI}\ufe0f\U000e007f]"  # what an emoji that a joiner follows can end with

# One pass over the text finds whether there is anything to do at all.
_SUSPECT = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f"
    r"\ufeff\ufff9-\ufffc\ufffe\uffff\U000e0000-\U000e01ef]"
)
_LINE_END = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffc\ufffe\uffff\U000e0000-\U000e001f]"
)
_STRAY_TAG = re.compile(r"(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0020-\U000e007f]+")  # tags spell flags
_STRAY_JOINER = re.compile(rf"(?<!{_PICTURE_END})\u200d+|\u200d+(?![{_EMOJI}])")
_STRAY_SELECTOR = re.compile(
    rf"(?<![{_EMOJI}#*0-9])[\ufe0e\ufe0f]|(?<![{_EMOJI}{_KANJI}\u2200-\u22ff])[\ufe00-\ufe0d]"
    rf"|(?<![{_KANJI}])[\U000e0100-\U000e01ef]"
)


def control_characters(text: str) -> str:
    """Remove control and invisible characters; every line ends with \\n.

    Removed are C0 and C1 controls other than \\n and \\t, byte order marks, zero-width spaces, soft hyphens and marks
    of writing direction. Joiners and variation selectors stay where they choose a form: inside emoji, after kanji
    (ideographic variation sequences) and after mathematical signs.
    """
    if not _SUSPECT.search(text):
        return text
    text = _INVISIBLE.sub("", _LINE_END.sub("\n", text))
    while True:
        before = text
        for stray in (_STRAY_TAG, _STRAY_SELECTOR, _STRAY_JOINER):
            text = stray.sub("", text)
        if text == before:
            return text


def whitespace(text: str) -> str:
    """Remove white space at line ends and around the text; blank lines become one, spaces within a line one.

    The indent of a line stays: U+3000 opens a paragraph, spaces structure code. So do tabs and U+3000 within a line.
    """
    text = "\n".join([line.rstrip() for line in text.replace("\xa0", " ").split("\n")]).strip("\n")
    if "\n\n\n" in text:
        text = re.sub(r"\n{3,}", "\n\n", text)
    if "  " in text:
        text = re.sub(r"(?<=\S)  +", " ", text)
    return text


def nfkc(text: str) -> str:
    """Normalize to Unicode NFKC: full-width letters and digits become half-width, half-width kana full-width.

    It also turns … into ..., ！ into ! and x² into x2, and marks that stand alone into a space with a combining mark
    behind it: ゛゜ into U+0020 U+3099 and U+309A, ￣ into U+0020 U+0304, as it does with ´ ¨ ¯ ¸. U+3000 stays, because
    it is the indent of a paragraph.
    """
    if unicodedata.is_normalized("NFKC", text):
        return text
    return "\u3000".join([unicodedata.normalize("NFKC", part) for part in text.split("\u3000")])


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
