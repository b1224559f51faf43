"""Resolve the HTML tags of wikitext: drop notes, keep code and formulas as literals, break lines, mark powers."""

from __future__ import annotations

import re

from jpllm.data.clean.wikitext.marks import HIDDEN, REMOVED, Page, decode_entities

_CODE_TAGS = ("pre", "source", "syntaxhighlight")
_MATH_TAGS = ("math", "chem", "ce")
_LIFTED = re.compile(
    rf"<!--|<(nowiki|{'|'.join(_CODE_TAGS + _MATH_TAGS)}|ref|references|gallery|imagemap|timeline|score|graph|mapframe|"
    "maplink|templatedata|templatestyles|indicator|categorytree|inputbox|section|includeonly|table|rt|rp|rtc)"
    r"(?=[\s/>])([^<>]*)>",
    re.IGNORECASE,
)
# An attribute has a =, so that a<b and c>d is no tag.
_ATTRIBUTES = r"(?:\s+(?:nowrap|reversed|compact|inline|[\w:-]+\s*=[^<>]*))?\s*/?>"
_LINE_TAG = re.compile(
    rf"(?:<[/\\]?[bh]r\b[^<>]*>|</?(?:div|p|center|blockquote|poem|ul|ol|li|dl|dt|dd|tr|h[1-6]){_ATTRIBUTES})[ \t]*",
    re.IGNORECASE,
)
_INLINE_TAG = re.compile(
    "</?(?:span|small|big|b|i|u|s|em|strong|strike|del|ins|sub|sup|tt|code|kbd|samp|var|cite|dfn|abbr|q|mark|font|ruby|"
    "rb|rbc|rt|rp|bdi|bdo|time|data|wbr|td|th|tbody|thead|table|section|noinclude|onlyinclude|includeonly|nowiki|math|"
    rf"chem|ce|pre|source|syntaxhighlight|ref|references|gallery){_ATTRIBUTES}",
    re.IGNORECASE,
)
_NOWIKI_TAG = re.compile(r"</?nowiki\s*/?>", re.IGNORECASE)
_SUPERSCRIPT = re.compile(r"<sup(?:\s[^<>]*)?>([^<>\n]{1,12})</sup>", re.IGNORECASE)
_POWER = re.compile(r"[-+−]?(?:\d{1,9}|[A-Za-z])|\d{0,2}[-+−]")


def resolve_tags(text: str, page: Page) -> str:
    """Return `text` without tags: what they hide is gone, literals are in `page`, line breaks are hidden ones."""
    if "<" not in text:
        return text
    text = _SUPERSCRIPT.sub(lambda match: superscript(match[1]), _lift(text, page))
    return _INLINE_TAG.sub("", _LINE_TAG.sub(HIDDEN["\n"], text))


def superscript(text: str) -> str:
    """Return what is written for raised `text`: `^2` for a power or a charge, anything else (x<sup>th</sup>) as it is.

    Without the `^`, 10<sup>5</sup> would read as another number. It is the notation of TeX, as in formulas, and
    unlike ² it outlives NFKC.
    """
    return f"^{text}" if _POWER.fullmatch(text.strip()) else text


def _lift(text: str, page: Page) -> str:
    """Drop comments and tags without prose; put code, formulas and nowiki in `page`, leaving a mark for each."""
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
        parts += [text[end : opening.start()], _lifted(tag, attributes, content, page)]
        end = position
    return "".join(parts) + text[end:]


def _lifted(tag: str, attributes: str, content: str, page: Page) -> str:
    before = after = ""
    if tag in _CODE_TAGS:
        if tag == "pre":
            content = decode_entities(_NOWIKI_TAG.sub("", content))
        if "inline" not in attributes:
            before = after = "\n\n"
        content = re.sub(r"^(?:[ \t]*\n)+", "", content).rstrip()
    elif tag in _MATH_TAGS:
        content = " ".join(content.split())
        content = content and (f"${content}$" if tag == "math" else rf"$\ce{{{content}}}$")
    elif tag == "nowiki":
        content = decode_entities(content)
    else:
        content = ""
    if not content:
        return "\n\n" if tag == "table" else REMOVED if tag else ""
    return f"{before}{page.keep(content)}{after}"
