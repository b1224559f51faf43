"""Turn the templates, links and tables of wikitext into what is shown of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jpllm.data.wikicode_marks import HIDDEN, REMOVED

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node
    from mwparserfromhell.wikicode import Wikicode

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

_REMOVED_LINK = re.compile(r"\s*(?:file|image|media|category|ファイル|画像|メディア|カテゴリ)\s*:", re.IGNORECASE)
_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]|^[ \t:*#]*\{\||^[ \t]*\|\}(?!\})", re.MULTILINE)
_NO_BRACKETS = r"((?:(?!\{\{|\}\}|\[\[|\]\]).)*)"
_INNERMOST = re.compile(rf"\{{\{{{_NO_BRACKETS}\}}\}}|\[\[{_NO_BRACKETS}\]\]", re.DOTALL)
_INNERMOST_TABLE = re.compile(
    r"^[ \t:*#]*\{\|(?:(?!^[ \t:*#]*\{\||^[ \t]*\|\}).)*^[ \t]*\|\}", re.DOTALL | re.MULTILINE
)


def resolve(text: str) -> str:
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
    hide = str.maketrans({character: HIDDEN[character] for character in "|="})  # what is resolved is no syntax

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
        return REMOVED
    return re.sub(
        r"\$([a-z0-9,]+)",
        lambda match: next(filter(None, (argument(key).strip() for key in match[1].split(","))), REMOVED),
        form,
    )


def _link_text(title: str, label: str) -> str:
    if _REMOVED_LINK.match(title):
        return REMOVED
    title = title.strip().removeprefix(":")
    if title.startswith(("/", "../")):  # a subpage
        title = title.strip("/.")
    return label.strip() or title.removeprefix("#") or REMOVED
