"""Tidy the lines of a wiki page after its markup has been resolved: sections, headings, lists, parentheses."""

from __future__ import annotations

import re

from jpllm.data.wikicode_marks import HIDDEN, REMOVED

# Headings in lower case of sections without prose, left out with all below them; 脚注・出典 counts as its parts do.
LEFT_OUT_SECTIONS = frozenset(
    (
        *("関連項目", "関連リンク", "外部リンク", "脚注", "脚注欄", "注釈", "注記", "注", "註", "註釈", "出典"),
        *("参考文献", "引用文献", "関連文献", "関連書籍", "参考資料", "see also", "external links", "references"),
        *("notes", "footnotes", "citations", "sources", "bibliography", "further reading"),
    )
)

_SEPARATORS = rf"[ \t\u00a0\u3000、,，;；:：・/{REMOVED}]"
_EMPTY_PARENTHESES = re.compile(rf"[（(]{_SEPARATORS}*[）)]")
_AFTER_PARENTHESIS = re.compile(rf"([（(])({_SEPARATORS}+)")
_BEFORE_PARENTHESIS = re.compile(rf"(?<!{_SEPARATORS})({_SEPARATORS}+)([）)])")

_HEADING = re.compile(rf"(={{1,6}})(.+?)\1[ \t{REMOVED}]*$")
_DEBRIS = re.compile(r"^[ \t]*(?:\{\||\|[-}]|\{\{)", re.MULTILINE)
_LIST_MARKS = re.compile(r"[*#:;]+[ \t]*")


def tidy_parentheses(text: str) -> str:
    """Remove parentheses that lost their content, and separators next to what was removed inside others."""

    def emptied(match: re.Match) -> str:
        lost = REMOVED in match[0] or (match[0][0] == "（" and len(match[0]) > 2)  # the f() of a program stays
        return REMOVED if lost else match[0]

    for _ in range(3):
        text = _EMPTY_PARENTHESES.sub(emptied, text)
    text = _AFTER_PARENTHESIS.sub(lambda match: match[1] if REMOVED in match[2] else match[0], text)
    text = _BEFORE_PARENTHESIS.sub(lambda match: match[2] if REMOVED in match[1] else match[0], text)
    return text.replace(f" {REMOVED} ", " ")


def join_lines(text: str) -> str:
    """Lines of text, without the sections left out, headings with nothing below and what is left of broken tables."""
    has_debris = _DEBRIS.search(text) is not None
    lines: list[str] = []
    pending: list[tuple[int, str]] = []  # headings that wait for text below them, with their level
    left_out_level = 7
    for line in text.split("\n"):
        if heading := _HEADING.match(line):
            level, title = len(heading[1]), _without_marks(heading[2]).replace(HIDDEN["\n"], " ").strip()
            if level <= left_out_level:
                left_out_level = level if _is_left_out(title) else 7
                pending = [(above, other) for above, other in pending if above < level] + [(level, title)]
        elif left_out_level == 7 and not (has_debris and _is_debris(line)):
            plain = _plain_line(line)
            if plain:
                for _, title in pending:
                    lines += ["", title]
                lines.append(plain)
                pending = []
            elif REMOVED not in line:
                lines.append("")
    return "\n".join(lines)


def _is_left_out(title: str) -> bool:
    parts = re.split(r"[・、，,/／と]|および|及び| and ", title.lower())
    return all(part.strip() in LEFT_OUT_SECTIONS for part in parts)


def _is_debris(line: str) -> bool:
    """A row of a table, or the name of a template, that was never closed."""
    line = line.lstrip(" \t")
    return line.startswith(("{|", "|", "!")) or (line.startswith("{{") and "。" not in line)


def _plain_line(line: str) -> str:
    if line.startswith(" "):  # preformatted: what follows the first space is kept as it is
        return _without_marks(line[1:]).rstrip()
    if line.startswith("----"):
        line = line.lstrip("-")
    elif marks := _LIST_MARKS.match(line):
        line = line[marks.end() :]
        if ";" in marks[0]:  # a term, and perhaps its definition
            line = "\n".join(part.strip() for part in re.split(":(?!//)", line, maxsplit=1))
    return _without_marks(line).strip(" \t\u00a0" + HIDDEN["\n"])


def _without_marks(line: str) -> str:
    return re.sub(r"\{\{+|\}\}+|\[\[+|\]\]+", "", line.replace(REMOVED, ""))
