"""Tidy the lines of a page whose markup has been resolved: sections, headings, lists, parentheses, quotes."""

from __future__ import annotations

import re

from jpllm.data.clean.wikitext.marks import HIDDEN, REMOVED

# Headings in lower case of sections without prose, left out with all below them; 脚注・出典 counts as its parts do.
LEFT_OUT_SECTIONS = frozenset(
    (
        *("関連項目", "関連事項", "関連リンク", "関連文献", "関連書籍", "関連図書", "外部リンク", "外部サイト"),
        *("参考リンク", "脚注", "脚註", "脚注欄", "注釈", "註釈", "注記", "注", "註", "出典", "出典元", "参考文献"),
        *("参考資料", "参考書籍", "参考図書", "参考サイト", "引用文献", "主要参考文献", "参照", "文献", "see also"),
        *("external links", "references", "notes", "footnotes", "citations", "sources", "bibliography"),
        "further reading",
    )
)

_SPACE = r"[ \t\u00a0\u3000]"
_SEPARATORS = rf"[ \t\u00a0\u3000、,，;；:：・/{REMOVED}]"
_EMPTIED_PARENTHESES = re.compile(rf"[（(]{_SEPARATORS}*[）)]")
_AFTER_PARENTHESIS = re.compile(rf"([（(])({_SEPARATORS}+)")
_BEFORE_PARENTHESIS = re.compile(rf"(?<!{_SEPARATORS})({_SEPARATORS}+)([）)])")
# What extractors leave, where nothing tells what was removed.
_EMPTY_PARENTHESES = re.compile(
    rf"（[ \t\u00a0\u3000、，；：,;:]*）|（{_SPACE}+[-–—]{_SPACE}*）|（{_SPACE}*[-–—]{_SPACE}+）"
    rf"|(?<=[ぁ-ヿ㐀-鿿」』]){_SPACE}?\([ \t\u00a0\u3000、，；,;]*\)|\({_SPACE}*[、，；](?:{_SPACE}|[、，；])*\)"
)
_LEADING_SEPARATOR = re.compile(rf"（{_SPACE}*[、，；,;](?:{_SPACE}|[、，；,;])*(?=[^\s、，；,;])")
_TRAILING_SEPARATOR = re.compile(rf"(?<!{_SPACE}){_SPACE}*[、，；](?:{_SPACE}|[、，；])*）")
_SPACE_OF_REMOVED = re.compile(
    rf"{_SPACE}+{REMOVED}+(?=[ \u00a0、。，．,.;:)）」』]|$)|^{REMOVED}+[ \t]+", re.MULTILINE
)

_QUOTES = re.compile("'{2,}")
_HEADING = re.compile(rf"(={{1,6}})(.+?)\1[ \t{REMOVED}]*$")
_DEBRIS = re.compile(r"^[ \t]*(?:\{\||\|\}|\|-+[ \t]*(?:[A-Za-z]+=.*)?$|\{\{)", re.MULTILINE)
_DIRECTIVE = "include|define|undef|if|ifn?def|el|endif|error|pragma|import|!/"  # of a program, which # begins
_LIST_MARKS = re.compile(rf"(?!#$)(?:(?:[*:;]|#(?!{_DIRECTIVE}))+[ \t]*)+")
_LEFT_OVER_LINK = re.compile(r"(?:ファイル|画像|カテゴリ|File|Image|Category):[^。]*$")
_STRAY = re.compile(r"\{\{+|\}\}+|\[\[+|\]\]+")


def without_quotes(text: str) -> str:
    """Return `text` without the apostrophes of bold and italic words; the primes of f''(x) stay."""
    if "''" not in text:
        return text
    return "\n".join([_line_without_quotes(line) if "''" in line else line for line in text.split("\n")])


def _line_without_quotes(line: str) -> str:
    """Remove the apostrophes of a line: two are italics, three bold, five both, one more is text."""
    styles: set[str] = set()

    def shown(match: re.Match) -> str:
        length, before = len(match[0]), line[: match.start()][-2:]
        is_prime = re.search(r"[A-Za-z0-9)]$|[^\]]\]$", before)
        if not styles and length < 4 and is_prime:
            return match[0]
        for style in {2: "i", 3: "b", 4: "b"}.get(length, "ib"):
            styles.symmetric_difference_update(style)
        return "'" if length in (4, 6) else ""

    return _QUOTES.sub(shown, line)


def tidy_parentheses(text: str) -> str:
    """Return `text` without parentheses that lost their content, and without separators next to what was removed."""
    if REMOVED in text:
        for _ in range(3):
            text = _EMPTIED_PARENTHESES.sub(_emptied, text)
        text = _AFTER_PARENTHESIS.sub(lambda match: match[1] if REMOVED in match[2] else match[0], text)
        text = _BEFORE_PARENTHESIS.sub(lambda match: match[2] if REMOVED in match[1] else match[0], text)
        text = _SPACE_OF_REMOVED.sub(REMOVED, text)
    if "（" in text or "(" in text:
        text = _EMPTY_PARENTHESES.sub(REMOVED, text)
        text = _TRAILING_SEPARATOR.sub("）", _LEADING_SEPARATOR.sub("（", text))
    return text


def _emptied(match: re.Match) -> str:
    return REMOVED if REMOVED in match[0] else match[0]


def join_lines(text: str) -> str:
    """Return lines of text, without the sections left out, headings with nothing below and rests of broken tables.

    A line that is no more than the title of such a section, after an empty one, begins it as well: extractors take
    the marks of headings away. It ends at the next heading.
    """
    has_debris = _DEBRIS.search(text) is not None
    lines: list[str] = []
    pending: list[tuple[int, str]] = []  # headings that wait for text below them, with their level
    left_out_level = 7
    for line in _without_common_indent(text.split("\n")):
        if line.startswith("=") and (heading := _HEADING.match(line)):
            level, title = len(heading[1]), _title(heading[2])
            if level <= left_out_level:
                left_out_level = level if _is_left_out(title) else 7
                pending = [(above, other) for above, other in pending if above < level] + [(level, title)]
        elif left_out_level == 7 and not (has_debris and _is_debris(line)):
            plain = _plain_line(line)
            if not pending and not (lines and lines[-1]) and _is_left_out(plain):
                left_out_level = 6
            elif plain:
                for _, title in pending:
                    lines += ["", title]
                lines.append(plain)
                pending = []
            elif REMOVED not in line:
                lines.append("")
    return "\n".join(lines)


def _without_common_indent(lines: list[str]) -> list[str]:
    """Remove the one space before preformatted lines; where a line of a block has more, all spaces stay."""
    if not any(line.startswith(" ") for line in lines):
        return lines
    result, block = [], []
    for line in [*lines, ""]:
        if line.startswith(" ") and not line.isspace():
            block.append(line)
            continue
        is_flat = all(not member.startswith("  ") for member in block)
        result += [member[1:] for member in block] if is_flat else block
        result.append(line)
        block = []
    return result[:-1]


def _title(heading: str) -> str:
    return _STRAY.sub("", heading.replace(REMOVED, "")).replace(HIDDEN["\n"], " ").strip()


def _is_left_out(title: str) -> bool:
    if not title or len(title) > 40:
        return False
    parts = re.split(r"[・、，,/／と]|および|及び| and ", title.lower())
    return all(part.strip() in LEFT_OUT_SECTIONS for part in parts)


def _is_debris(line: str) -> bool:
    """Return whether a line is a row of a table, or the name of a template, that was never closed."""
    line = line.lstrip(" \t")
    return line.startswith(("{|", "|", "!")) or (line.startswith("{{") and "。" not in line)


def _plain_line(line: str) -> str:
    if line.startswith("----"):
        line = line.lstrip("-")
    elif marks := _LIST_MARKS.match(line):
        line = line[marks.end() :].lstrip(" \t\u00a0")
        if ";" in marks[0]:  # a term, and perhaps its definition
            line = "\n".join(part.strip() for part in re.split(":(?!//)", line, maxsplit=1))
    line = line.replace(REMOVED, "").strip(HIDDEN["\n"]).rstrip(" \t\u00a0\u3000" + HIDDEN["\n"])
    return "" if _LEFT_OVER_LINK.match(line) else line
