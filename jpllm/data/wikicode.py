"""Plain text of wikitext (https://www.mediawiki.org/wiki/Help:Formatting), parsed by mwparserfromhell."""

from __future__ import annotations

import html
import re

from jpllm.data.wikicode_brackets import resolve
from jpllm.data.wikicode_lines import join_lines, tidy_parentheses
from jpllm.data.wikicode_marks import HIDDEN, KEPT, KEPT_END, KEPT_START, NONCHARACTERS, REMOVED, SHOW

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
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_QUOTES = re.compile("'{2,}")

_PARAMETER = re.compile(r"\{\{\{[^{}|]*(?:\|([^{}]*))?\}\}\}")
_SINGLE_BRACKET = re.compile(r"(?<!\[)\[(?!\[)")
_EXTERNAL_LINK = re.compile(r"\[(?:(?:https?|ftp):)?//[^\s\[\]]+(?:[ \t\u3000]([^\[\]\n]*))?\]", re.IGNORECASE)


def plain_text(wikitext: str) -> str:
    """The readable text of a page; never fails, whatever the wikitext.

    Paragraphs are separated by an empty line, a list has a line for each item, a heading is a line directly above
    what it heads. Formulas are TeX between `$`, program code keeps its line breaks. Templates become what
    `TEMPLATE_TEXTS` says; sections of `LEFT_OUT_SECTIONS`, headings with nothing below, tables, pictures, notes and
    parentheses that lost their content are left out.
    """
    kept: list[str] = []
    text = _lift_tags(NONCHARACTERS.sub("", wikitext.replace("\r\n", "\n")), kept)
    text = _POWER.sub(r"^\1", text)
    text = _INLINE_TAG.sub("", _LINE_TAG.sub(HIDDEN["\n"], text))
    text = _INTERLANGUAGE.sub(REMOVED, _MAGIC_WORD.sub(REMOVED, text))
    text = _PARAMETER.sub(lambda match: match[1] or REMOVED, text)
    text = _EXTERNAL_LINK.sub(lambda match: (match[1] or "").strip() or REMOVED, text.replace("&nbsp;", "\u00a0"))
    text = _SINGLE_BRACKET.sub(HIDDEN["["], text.replace("<", HIDDEN["<"]))
    text = _QUOTES.sub(_literal_quotes, resolve(text))
    text = join_lines(tidy_parentheses(text))
    text = _decode_entities(text).translate(SHOW)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return KEPT.sub(lambda match: kept[int(match[1])], re.sub(r"\n{3,}", "\n\n", text).strip("\n"))


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
        return "\n\n" if tag == "table" else REMOVED if tag else ""
    kept.append(content)
    return f"{before}{KEPT_START}{len(kept) - 1}{KEPT_END}{after}"


def _decode_entities(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def _literal_quotes(match: re.Match) -> str:
    """Two apostrophes are italics, three bold, five both; what is over is text."""
    return "'" * {2: 0, 3: 0, 4: 1}.get(len(match[0]), len(match[0]) - 5)
