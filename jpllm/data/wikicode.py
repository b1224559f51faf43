"""Plain text of wikitext (https://www.mediawiki.org/wiki/Help:Formatting), parsed by mwparserfromhell."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node
    from mwparserfromhell.wikicode import Wikicode

# Headings in lower case of sections without prose, left out with all below them; 脚注・出典 counts as its parts do.
LEFT_OUT_SECTIONS = frozenset(
    (
        *("関連項目", "関連リンク", "外部リンク", "脚注", "脚注欄", "注釈", "注記", "注", "註", "註釈", "出典"),
        *("参考文献", "引用文献", "関連文献", "関連書籍", "参考資料", "see also", "external links", "references"),
        *("notes", "footnotes", "citations", "sources", "bibliography", "further reading"),
    )
)

_FIRST_ARGUMENT = (
    *("ruby", "ルビ", "ふりがな", "振り仮名", "傍点", "圏点", "下線", "underline", "sub", "sup", "small", "smaller"),
    *("big", "larger", "em", "strong", "nowrap", "nobr", "abbr", "tooltip", "visible anchor", "vanchor", "unicode"),
    *("jis2004フォント", "補助漢字フォント", "ipa", "math", "mvar", "code", "kbd", "samp", "var"),
    *("要出典範囲", "要検証範囲", "訳語疑問点範囲"),
)

# What is written for a template: `$1` is its first argument, `$label,1` the first of the two that is not empty.
# Names are in lower case; lang-en, lang-ru… are `$1` as well. Every other template is removed.
TEMPLATE_TEXTS: Mapping[str, str] = {
    **dict.fromkeys(_FIRST_ARGUMENT, "$1"),
    **dict.fromkeys(("lang", "color", "font color"), "$2"),
    **dict.fromkeys(("読み仮名", "読み仮名 ルビ不使用"), "$1（$2）"),
    **dict.fromkeys(("仮リンク", "日本語版にない記事リンク", "ill2"), "$label,1"),
    **dict.fromkeys(("quote", "quotation", "cquote"), "\n\n$1,text,quote\n\n"),
    "convert": "$1 $2",
    "!": "|",
    "=": "=",
    "・": "・",
    "nbsp": " ",
    "ndash": "–",
    "mdash": "—",
}

# mwparserfromhell 0.7 reads on to the end of the page for each bracket that is never closed, and cannot be
# interrupted (https://github.com/earwig/mwparserfromhell/issues/364). A page that would make it read more
# characters than this, at most a second or two, is resolved with patterns instead.
PARSER_BUDGET_CHARS = 2_000_000
_MAX_NESTING = 40  # of templates, links and tables, when resolved with patterns

# Unicode noncharacters, which no text may use, stand for what must not be parsed.
_KEPT_START, _KEPT_END, _REMOVED = "\ufdd0", "\ufdd1", "\ufdd2"
_HIDDEN = {"<": "\ufdd3", "[": "\ufdd4", "|": "\ufdd5", "=": "\ufdd6", "\n": "\ufdd7"}
_SHOW = str.maketrans({hidden: shown for shown, hidden in _HIDDEN.items()} | {"\u00a0": " "})
_NONCHARACTERS = re.compile(r"[\ufdd0-\ufdef]")
_KEPT = re.compile(rf"{_KEPT_START}(\d+){_KEPT_END}")

_CODE_TAGS = ("pre", "source", "syntaxhighlight")
_MATH_TAGS = ("math", "chem", "ce")
_LIFTED = re.compile(
    rf"<!--|<(nowiki|{'|'.join(_CODE_TAGS + _MATH_TAGS)}|ref|references|gallery|imagemap|timeline|score|graph|mapframe|"
    "maplink|templatedata|templatestyles|indicator|categorytree|inputbox|section|includeonly|table|rt|rp|rtc)"
    r"(?=[\s/>])([^<>]*)>",
    re.IGNORECASE,
)
_LINE_TAG = re.compile(
    r"</?(?:br|div|p|center|blockquote|poem|ul|ol|li|dl|dt|dd|tr|hr|h[1-6])(?=[\s/>])[^<>]*>[ \t]*", re.IGNORECASE
)
_INLINE_TAG = re.compile(
    "</?(?:span|small|big|b|i|u|s|em|strong|strike|del|ins|sub|sup|tt|code|kbd|samp|var|cite|dfn|abbr|q|mark|font|ruby|"
    "rb|rbc|rt|rp|bdi|bdo|time|data|wbr|td|th|tbody|thead|table|section|noinclude|onlyinclude|includeonly|nowiki|math|"
    r"chem|ce|pre|source|syntaxhighlight|ref|references|gallery)(?=[\s/>])[^<>]*>",
    re.IGNORECASE,
)
_NOWIKI_TAG = re.compile(r"</?nowiki\s*/?>", re.IGNORECASE)
_POWER = re.compile(r"<sup>([-+−]?(?:\d{1,9}|[a-z]))</sup>", re.IGNORECASE)

_MAGIC_WORD = re.compile(
    "__(?:TOC|NOTOC|FORCETOC|NOEDITSECTION|NEWSECTIONLINK|NONEWSECTIONLINK|NOGALLERY|HIDDENCAT|NOCONTENTCONVERT|NOCC|"
    "NOTITLECONVERT|NOTC|INDEX|NOINDEX|STATICREDIRECT|DISAMBIG|目次|目次非表示|目次強制|節編集非表示|ギャラリー非表示)__"
)
_INTERLANGUAGE = re.compile(r"^(?:[ \t]*\[\[[a-z]{2,3}(?:-[a-z]+)*:[^\[\]|\n]+\]\])+[ \t]*$", re.MULTILINE)
_REMOVED_LINK = re.compile(r"\s*(?:file|image|media|category|ファイル|画像|メディア|カテゴリ)\s*:", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_QUOTES = re.compile("'{2,}")

_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ \t:*#]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
_NO_BRACKETS = r"((?:(?!\{\{|\}\}|\[\[|\]\]).)*)"
_INNERMOST = re.compile(rf"\{{\{{{_NO_BRACKETS}\}}\}}|\[\[{_NO_BRACKETS}\]\]", re.DOTALL)
_INNERMOST_TABLE = re.compile(
    r"^[ \t:*#]*\{\|(?:(?!^[ \t:*#]*\{\||^[ \t]*\|\}).)*^[ \t]*\|\}", re.DOTALL | re.MULTILINE
)
_PARAMETER = re.compile(r"\{\{\{[^{}|]*(?:\|([^{}]*))?\}\}\}")
_SINGLE_BRACKET = re.compile(r"(?<!\[)\[(?!\[)")
_EXTERNAL_LINK = re.compile(r"\[(?:(?:https?|ftp):)?//[^\s\[\]]+(?:[ \t\u3000]([^\[\]\n]*))?\]", re.IGNORECASE)

_SEPARATORS = rf"[ \t\u00a0\u3000、,，;；:：・/{_REMOVED}]"
_EMPTY_PARENTHESES = re.compile(rf"[（(]{_SEPARATORS}*[）)]")
_AFTER_PARENTHESIS = re.compile(rf"([（(])({_SEPARATORS}+)")
_BEFORE_PARENTHESIS = re.compile(rf"(?<!{_SEPARATORS})({_SEPARATORS}+)([）)])")

_HEADING = re.compile(rf"(={{1,6}})(.+?)\1[ \t{_REMOVED}]*$")
_DEBRIS = re.compile(r"^[ \t]*(?:\{\||\|[-}]|\{\{)", re.MULTILINE)
_LIST_MARKS = re.compile(r"[*#:;]+[ \t]*")


def plain_text(wikitext: str) -> str:
    """The readable text of a page; never fails, whatever the wikitext.

    Paragraphs are separated by an empty line, a list has a line for each item, a heading is a line directly above
    what it heads. Formulas are TeX between `$`, program code keeps its line breaks. Templates become what
    `TEMPLATE_TEXTS` says; sections of `LEFT_OUT_SECTIONS`, headings with nothing below, tables, pictures, notes and
    parentheses that lost their content are left out.
    """
    kept: list[str] = []
    text = _lift_tags(_NONCHARACTERS.sub("", wikitext.replace("\r\n", "\n")), kept)
    text = _POWER.sub(r"^\1", text)
    text = _INLINE_TAG.sub("", _LINE_TAG.sub(_HIDDEN["\n"], text))
    text = _INTERLANGUAGE.sub(_REMOVED, _MAGIC_WORD.sub(_REMOVED, text))
    text = _PARAMETER.sub(lambda match: match[1] or _REMOVED, text)
    text = _EXTERNAL_LINK.sub(lambda match: (match[1] or "").strip() or _REMOVED, text.replace("&nbsp;", "\u00a0"))
    text = _SINGLE_BRACKET.sub(_HIDDEN["["], text.replace("<", _HIDDEN["<"]))
    text = _QUOTES.sub(_literal_quotes, _resolve(text))
    text = _join_lines(_tidy_parentheses(text))
    text = _decode_entities(text).translate(_SHOW)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _KEPT.sub(lambda match: kept[int(match[1])], re.sub(r"\n{3,}", "\n\n", text).strip("\n"))


def _lift_tags(text: str, kept: list[str]) -> str:
    """Drop comments and tags without prose; put code, formulas and nowiki in `kept`, leaving a mark for each."""
    parts, end, position = [], 0, 0
    never_closed = set()  # so that many opening tags without an end do not each search the rest of the page
    while opening := _LIFTED.search(text, position):
        position = opening.end()
        tag, attributes, content = (opening[1] or "").lower(), opening[2] or "", ""
        if not tag:
            close = text.find("-->", position)
            position = close + 3 if close >= 0 else len(text)
        elif not attributes.endswith("/"):
            closing = None if tag in never_closed else re.compile(rf"</{tag}\s*>", re.IGNORECASE).search(text, position)
            if closing is None:
                never_closed.add(tag)
                continue
            content, position = text[position : closing.start()], closing.end()
        parts += [text[end : opening.start()], _kept_text(tag, attributes, content, kept)]
        end = position
    return "".join(parts) + text[end:]


def _kept_text(tag: str, attributes: str, content: str, kept: list[str]) -> str:
    before = after = ""
    if tag in _CODE_TAGS:
        if tag == "pre":
            content = _decode_entities(_NOWIKI_TAG.sub("", content))
        if "inline" not in attributes:
            before = after = "\n\n"
        content = re.sub(r"^(?:[ \t]*\n)+", "", content).rstrip()
    elif tag in _MATH_TAGS:
        content = " ".join(content.split())
        content = content and (f"${content}$" if tag == "math" else rf"$\ce{{{content}}}$")
    elif tag == "nowiki":
        content = _decode_entities(content)
    else:
        content = ""
    if not content:
        return "\n\n" if tag == "table" else _REMOVED if tag else ""
    kept.append(content)
    return f"{before}{_KEPT_START}{len(kept) - 1}{_KEPT_END}{after}"


def _decode_entities(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def _resolve(text: str) -> str:
    """Templates, links and tables to what is shown of them."""
    if (1 + _num_unmatched(text)) * len(text) > PARSER_BUDGET_CHARS:
        return _resolve_with_patterns(text)
    import mwparserfromhell

    try:
        return _render(mwparserfromhell.parse(text, skip_style_tags=True))
    except (mwparserfromhell.parser.ParserError, RecursionError):
        return _resolve_with_patterns(text)


def _num_unmatched(text: str) -> int:
    """Number of brackets {{ [[ {| without an end, or crossing another."""
    unmatched, opened = 0, []
    for match in _BRACKET.finditer(text):
        bracket = match[0].lstrip(" \t:*#")
        if bracket in ("{{", "[[", "{|"):
            opened.append(bracket)
        elif opened and opened[-1] == {"}}": "{{", "]]": "[[", "|}": "{|"}[bracket]:
            opened.pop()
        else:
            unmatched += 1
    return unmatched + len(opened)


def _render(code: Wikicode) -> str:
    return "".join(map(_render_node, code.nodes))


def _render_node(node: Node) -> str:
    from mwparserfromhell import nodes

    if isinstance(node, nodes.Text):
        return node.value
    if isinstance(node, nodes.Template):
        values = {str(param.name).strip(): param.value for param in node.params}
        return _template_text(str(node.name), lambda key: _render(values[key]) if key in values else "")
    if isinstance(node, nodes.Wikilink):
        return _link_text(_render(node.title), "" if node.text is None else _render(node.text))
    if isinstance(node, nodes.Heading):
        return "=" * node.level + _render(node.title).replace("\n", " ") + "=" * node.level
    if isinstance(node, nodes.Tag) and node.wiki_markup == "{|":
        return "\n\n"
    return str(node)


def _resolve_with_patterns(text: str) -> str:
    """As the parser, from the innermost brackets outwards, in time linear in the length."""
    hide = str.maketrans({character: _HIDDEN[character] for character in "|="})  # what is resolved is no syntax

    def shown(match: re.Match) -> str:
        head, *rest = (match[1] if match[2] is None else match[2]).split("|")
        if match[1] is None:
            return _link_text(head, "|".join(rest)).translate(hide)
        values = {str(number): value for number, value in enumerate((r for r in rest if "=" not in r), start=1)}
        values |= {key.strip(): value for key, _, value in (r.partition("=") for r in rest if "=" in r)}
        return _template_text(head, lambda key: values.get(key, "")).translate(hide)

    for pattern, replacement in ((_INNERMOST, shown), (_INNERMOST_TABLE, "\n\n")):
        for _ in range(_MAX_NESTING):
            text, num_replaced = pattern.subn(replacement, text)
            if not num_replaced:
                break
    return text


def _template_text(name: str, argument: Callable[[str], str]) -> str:
    name = name.replace("_", " ").strip().lower()
    name = re.sub(r"^(?:(?:safe)?subst|template|テンプレート):\s*", "", name)
    form = "$1" if re.fullmatch(r"lang-[a-z-]+", name) else TEMPLATE_TEXTS.get(name)
    if form is None:
        return _REMOVED
    return re.sub(
        r"\$([a-z0-9,]+)",
        lambda match: next(filter(None, (argument(key).strip() for key in match[1].split(","))), _REMOVED),
        form,
    )


def _link_text(title: str, label: str) -> str:
    if _REMOVED_LINK.match(title):
        return _REMOVED
    title = title.strip().removeprefix(":")
    if title.startswith(("/", "../")):  # a subpage
        title = title.strip("/.")
    return label.strip() or title.removeprefix("#") or _REMOVED


def _literal_quotes(match: re.Match) -> str:
    """Two apostrophes are italics, three bold, five both; what is over is text."""
    return "'" * {2: 0, 3: 0, 4: 1}.get(len(match[0]), len(match[0]) - 5)


def _tidy_parentheses(text: str) -> str:
    """Remove parentheses that lost their content, and separators next to what was removed inside others."""

    def emptied(match: re.Match) -> str:
        lost = _REMOVED in match[0] or (match[0][0] == "（" and len(match[0]) > 2)  # the f() of a program stays
        return _REMOVED if lost else match[0]

    for _ in range(3):
        text = _EMPTY_PARENTHESES.sub(emptied, text)
    text = _AFTER_PARENTHESIS.sub(lambda match: match[1] if _REMOVED in match[2] else match[0], text)
    text = _BEFORE_PARENTHESIS.sub(lambda match: match[2] if _REMOVED in match[1] else match[0], text)
    return text.replace(f" {_REMOVED} ", " ")


def _join_lines(text: str) -> str:
    """Lines of text, without the sections left out, headings with nothing below and what is left of broken tables."""
    has_debris = _DEBRIS.search(text) is not None
    lines: list[str] = []
    pending: list[tuple[int, str]] = []  # headings that wait for text below them, with their level
    left_out_level = 7
    for line in text.split("\n"):
        if heading := _HEADING.match(line):
            level, title = len(heading[1]), _without_marks(heading[2]).replace(_HIDDEN["\n"], " ").strip()
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
            elif _REMOVED not in line:
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
    return _without_marks(line).strip(" \t\u00a0" + _HIDDEN["\n"])


def _without_marks(line: str) -> str:
    return re.sub(r"\{\{+|\}\}+|\[\[+|\]\]+", "", line.replace(_REMOVED, ""))
