"""Turn wikitext (https://www.mediawiki.org/wiki/Help:Formatting) into the text that a reader sees."""

from __future__ import annotations

import re

from jpllm.data.clean.wikitext.brackets import resolve_brackets, without_stray_brackets
from jpllm.data.clean.wikitext.lines import join_lines, tidy_parentheses, without_quotes
from jpllm.data.clean.wikitext.marks import (
    REMOVED,
    Page,
    decode_entities,
    decode_harmless_entities,
    hide_tex_braces,
    show,
    without_marks,
)
from jpllm.data.clean.wikitext.tags import resolve_tags

VERSION = 2  # a part of the fingerprint of shards whose texts were wikitext: raise it when texts change

_REDIRECT = re.compile(r"\s*#(?:redirect|転送|リダイレクト)\s*:?\s*\[\[", re.IGNORECASE)
_MAGIC_WORD = re.compile(
    "__(?:TOC|NOTOC|FORCETOC|NOEDITSECTION|NEWSECTIONLINK|NONEWSECTIONLINK|NOGALLERY|HIDDENCAT|NOCONTENTCONVERT|NOCC|"
    "NOTITLECONVERT|NOTC|INDEX|NOINDEX|STATICREDIRECT|DISAMBIG|目次|目次非表示|目次強制|節編集非表示|ギャラリー非表示)__"
)
_INTERLANGUAGE = re.compile(r"^(?:[ \t]*\[\[[a-z]{2,3}(?:-[a-z]+)*:[^\[\]|\n]+\]\])+[ \t]*$", re.MULTILINE)
_EXTERNAL_LINK = re.compile(r"\[(?:(?:https?|ftp):)?//[^\s\[\]]+(?:[ \t\u3000]([^\[\]\n]*))?\]", re.IGNORECASE)


class Wikitext(str):
    """A text that is known to be wikitext: the page of a dump."""

    __slots__ = ()


def wikipedia(text: str) -> str:
    """Turn wikitext, or what extractors leave of it, into plain text.

    Removed: templates without text, tables, notes, comments, pictures, categories, list marks, headings with nothing
    below, and the sections 関連項目, 脚注, 参考文献, 外部リンク and their like, also where extractors left only a bare
    title. Kept as text: links, bold and italic words, other headings, formulas (`$...$`), program code, and what
    templates show of numbers, units, languages, readings and quotations. Parentheses that lost their content go as
    well. A redirect becomes an empty text. Pages of a dump pass this rule once, also where it is not named.
    """
    return plain_text(text)


def plain_text(wikitext: str) -> str:
    """Return the readable text of a page; never fails, whatever the wikitext.

    Paragraphs are separated by an empty line, a list has a line for each item, a heading is a line directly above
    what it heads. Formulas are TeX between `$`, program code keeps its line breaks. Templates become what the table in
    `templates.py` says. Plain text comes back as it is, but for rests of markup, and a second pass changes nothing;
    only what was escaped (`<nowiki>`, code, `&lt;`) would be taken for markup by then.
    """
    return _resolved(wikitext)[0]


def removed_inside_sentences(wikitext: str) -> list[str]:
    """Return the name of each template that `plain_text` does not know and removed inside a sentence, in order."""
    return _resolved(wikitext)[1].removed_inside


def _resolved(wikitext: str) -> tuple[str, Page]:
    page = Page()
    if _REDIRECT.match(wikitext):
        return "", page
    text = without_marks(wikitext.replace("\r\n", "\n"))
    while True:  # what is resolved may be markup again, above all in the rests that extractors leave
        before = text
        text = _resolved_once(text, page)
        if text == before:
            return page.restore(decode_entities(text)), page


def _resolved_once(text: str, page: Page) -> str:
    text = hide_tex_braces(decode_harmless_entities(resolve_tags(text, page)))
    if "__" in text:
        text = _MAGIC_WORD.sub(REMOVED, text)
    if "[" in text:
        text = _EXTERNAL_LINK.sub(lambda match: (match[1] or "").strip() or REMOVED, _INTERLANGUAGE.sub(REMOVED, text))
    text = page.settle_unknown(resolve_brackets(without_quotes(text), page))
    text = show(without_stray_brackets(join_lines(tidy_parentheses(text))))
    return re.sub(r"\n{3,}", "\n\n", "\n".join([line.rstrip() for line in text.split("\n")])).strip("\n")
