"""Turn the templates, links and tables of wikitext into what is shown of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jpllm.data.clean.wikitext.marks import HIDDEN, LINE_START, REMOVED, Page, hide
from jpllm.data.clean.wikitext.templates import Arguments, argument_that_reads_as_text, template_text

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node, Template, Text, Wikilink
    from mwparserfromhell.wikicode import Wikicode

# mwparserfromhell 0.7 reads on to the end of the page for each bracket that is never closed, and cannot be
# interrupted (https://github.com/earwig/mwparserfromhell/issues/364). A page that would make it read more
# characters than this, at most a second or two, is resolved with patterns instead.
PARSER_BUDGET_CHARS = 2_000_000
_MAX_NESTING = 40  # of templates, links and tables, when resolved with patterns

_PARAMETER = re.compile(r"\{\{\{[^{}|]*(?:\|([^{}]*))?\}\}\}")
_SINGLE_BRACKET = re.compile(r"(?<!\[)\[(?!\[)")
_REMOVED_LINK = re.compile(r"\s*(?:file|image|media|category|ファイル|画像|メディア|カテゴリ)\s*:", re.IGNORECASE)
_BRACKET = re.compile(r"\{\{|\}\}|\[\[|\]\]")
_NO_BRACKETS = r"((?:(?!\{\{|\}\}|\[\[|\]\]).)*)"
_INNERMOST = re.compile(rf"\{{\{{{_NO_BRACKETS}\}}\}}|\[\[{_NO_BRACKETS}\]\]", re.DOTALL)
_TABLE_EDGE = re.compile(r"^[ \t:*#]*(\{\|)|^[ \t]*\|\}(?!\})", re.MULTILINE)
_LINE_SYNTAX = re.compile(r"^(?=[*#:;=]|[ \t]*\{\|)", re.MULTILINE)
_MENTIONED = re.compile(r"(?<=[「『“\"'])(?:\[\[|\]\]|\{\{|\}\})(?=[」』”\"'])")
_DOUBLE = re.compile(r"\[\[+|\]\]+|\{\{+|\}\}+")
_CLOSED_BY = {"[": "]", HIDDEN["["]: "]", "{": "}"}
_HALF = re.compile(rf"[\[{HIDDEN['[']}\]{{}}]")


def resolve_brackets(text: str, page: Page) -> str:
    """Return `text` with templates, links and tables as what is shown of them; unknown templates leave marks."""
    if "{{{" in text:
        text = _PARAMETER.sub(lambda match: match[1] or REMOVED, text)
    if "{|" in text:
        text = _without_tables(text)
    if not ("{{" in text or "[[" in text):
        return text
    text = _MENTIONED.sub(lambda match: hide(match[0]), text)
    text = _SINGLE_BRACKET.sub(HIDDEN["["], text.replace("<", HIDDEN["<"]))  # neither tags nor links of their own
    if (1 + _num_unmatched(text)) * len(text) > PARSER_BUDGET_CHARS:
        return _resolve_with_patterns(text, page)
    import mwparserfromhell

    try:
        code = mwparserfromhell.parse(_LINE_SYNTAX.sub(LINE_START, text), skip_style_tags=True)
        return _render(code, page)
    except (mwparserfromhell.parser.ParserError, RecursionError):
        return _resolve_with_patterns(text, page)


def _without_tables(text: str) -> str:
    """Return `text` with an empty line in place of each table that has an end."""
    opened: list[int] = []
    tables: list[tuple[int, int]] = []
    for edge in _TABLE_EDGE.finditer(text):
        if edge[1]:
            opened.append(edge.start())
        elif opened:
            start = opened.pop()
            while tables and tables[-1][0] > start:  # tables in this one
                tables.pop()
            tables.append((start, edge.end()))
    parts, end = [], 0
    for start, next_end in tables:
        parts += [text[end:start], "\n\n"]
        end = next_end
    return "".join(parts) + text[end:]


def without_stray_brackets(text: str) -> str:
    """Return `text` without double brackets that are left of broken links and templates.

    Single brackets that happen to stand together stay: `x[y[0]]`, `[[1, 2], [3, 4]]`.
    """
    if not _DOUBLE.search(text):
        return text
    partners = _partners(text)
    stray: set[int] = set()
    for run in _DOUBLE.finditer(text):
        paired = [partners.get(position) for position in range(run.start(), run.end())]
        for index, partner in enumerate(paired):
            neighbours = [other for other in (*paired[:index][-1:], *paired[index + 1 :][:1]) if other is not None]
            if partner is None or any(abs(other - partner) == 1 for other in neighbours):
                stray.add(run.start() + index)
    return "".join([character for position, character in enumerate(text) if position not in stray])


def _partners(text: str) -> dict[int, int]:
    """Return the position of the other half for that of each bracket and brace that has one."""
    partners: dict[int, int] = {}
    opened: dict[str, list[int]] = {"]": [], "}": []}
    for match in _HALF.finditer(text):
        if match[0] in _CLOSED_BY:
            opened[_CLOSED_BY[match[0]]].append(match.start())
        elif opened[match[0]]:
            other = opened[match[0]].pop()
            partners |= {match.start(): other, other: match.start()}
    return partners


def _num_unmatched(text: str) -> int:
    """Return the number of brackets {{ [[ without an end, or crossing another."""
    unmatched, opened = 0, []
    for bracket in _BRACKET.findall(text):
        if bracket in ("{{", "[["):
            opened.append(bracket)
        elif opened and opened[-1] == {"}}": "{{", "]]": "[["}[bracket]:
            opened.pop()
        else:
            unmatched += 1
    return unmatched + len(opened)


def _render(code: Wikicode, page: Page) -> str:
    render_kind = _node_renderers()
    return "".join([render_kind.get(type(node), _source)(node, page) for node in code.nodes])


@functools.cache
def _node_renderers() -> dict[type[Node], Callable[[Any, Page], str]]:
    from mwparserfromhell import nodes

    return {nodes.Text: _text, nodes.Template: _render_template, nodes.Wikilink: _render_link}


def _text(node: Text, _: Page) -> str:
    return node.value.replace(LINE_START, "")


def _source(node: Node, _: Page) -> str:
    return str(node).replace(LINE_START, "")


def _render_link(link: Wikilink, page: Page) -> str:
    return _link_text(_render(link.title, page), "" if link.text is None else _render(link.text, page))


def _render_template(template: Template, page: Page) -> str:
    values = {str(param.name).strip(): param.value for param in template.params}
    return _shown(_render(template.name, page), Arguments(values, lambda value: _render(value, page)), page)


def _shown(name: str, arguments: Arguments, page: Page) -> str:
    text = template_text(name, arguments)
    if text is None:
        return page.mark_unknown(" ".join(name.split()), lambda: argument_that_reads_as_text(arguments))
    return text or REMOVED


def _resolve_with_patterns(text: str, page: Page) -> str:
    """Resolve brackets without the parser, from the innermost outwards, in time linear in the length."""

    def shown(match: re.Match) -> str:  # what is resolved is no syntax
        head, *rest = (match[1] if match[2] is None else match[2]).split("|")
        if match[1] is None:
            return hide(_link_text(head, "|".join(rest)))
        values = {str(number): value for number, value in enumerate((r for r in rest if "=" not in r), start=1)}
        values |= {key.strip(): value for key, _, value in (r.partition("=") for r in rest if "=" in r)}
        return hide(_shown(head, Arguments(values, str), page))

    for _ in range(_MAX_NESTING):
        text, num_replaced = _INNERMOST.subn(shown, text)
        if not num_replaced:
            break
    return text


def _link_text(title: str, label: str) -> str:
    if _REMOVED_LINK.match(title):
        return REMOVED
    if "[" in title or "]" in title or HIDDEN["["] in title:  # a list of lists in program code
        return hide(f"[[{title}{'|' if label else ''}{label}]]")
    title = title.strip().removeprefix(":")
    if title.startswith(("/", "../")):  # a subpage
        title = title.strip("/.")
    return label.strip() or title.removeprefix("#") or REMOVED
