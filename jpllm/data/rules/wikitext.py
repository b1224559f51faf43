"""Remove the markup of Wikipedia, and what extractors leave of it, from the text of an article."""

from __future__ import annotations

import html
import re

_END_SECTIONS = """
    関連項目 関連事項 関連文献 関連書籍 脚注 脚註 注釈 註釈 注 註 注記 出典 脚注・出典 注釈・出典 注釈と出典
    出典・脚注 参考文献 参考資料 参考書籍 参考サイト 引用文献 外部リンク 外部サイト 関連リンク 参考リンク 参照 文献
"""
# Templates that show one of their arguments: its position among those without a name.
_FIRST_ARGUMENT = ("仮リンク", "ruby", "ルビ", "読み仮名", "unicode", "nowrap", "補助漢字フォント", "jis2004フォント")
_SHOWN_ARGUMENT = {"lang": -1, **dict.fromkeys(_FIRST_ARGUMENT, 0)}

_END_TITLES = frozenset(_END_SECTIONS.split())
# No element is searched beyond the next one of its kind: with many that are never closed it would take forever.
_COMMENT = re.compile(r"<!--(?:[^<-]|-(?!->)|<(?!!--))*-->")
_REDIRECT = re.compile(r"\s*#(?:REDIRECT|転送)\s*:?\s*\[\[.*", re.I | re.S)
_MATH = re.compile(r"<math\b[^<>]*>([^<]*(?:<(?!/?math\b)[^<]*)*)</math>", re.I)
_REFERENCE = re.compile(r"<ref\b[^<>]*?/>|<ref\b[^<>]*>[^<]*(?:<(?!/?ref\b)[^<]*)*</ref\s*>", re.I)
_BLOCK = re.compile(
    r"<(gallery|timeline|imagemap|score|graph|mapframe)\b[^<>]*>[^<]*(?:<(?!/?\1\b)[^<]*)*</\1\s*>", re.I
)
_LINE_BREAK = re.compile(r"<br\b[^>]*>\n?", re.I)
_TAG = re.compile(  # an attribute needs an =, so that a<b and c>d is none
    r"</?(?:ref|references|nowiki|span|div|small|big|sub|sup|center|font|b|i|u|s|del|ins|em|strong|p|blockquote|cite|"
    r"code|pre|poem|ruby|rb|rp|rt|table|tr|td|th|ul|ol|li|dl|dt|dd|hr|noinclude|includeonly|onlyinclude|tt|var|abbr|"
    r"source|syntaxhighlight|section|gallery|kbd|samp|q|h[1-6])(?:\s+[\w-]+\s*=[^<>]*)?\s*/?>",
    re.I,
)
_TEMPLATE = re.compile(r"\{\{((?:[^{}]|(?<!\{)\{(?!\{)[^{}]*\})*)\}\}")
_TEX_BEFORE = re.compile(r"(?:\\[A-Za-z]+|[_^\\])\Z")
_TABLE = re.compile(r"^[ :]*\{\|(?:(?!^[ :]*\{\|).)*?^[ ]*\|\}(?!\})[^\S\n]*\n?", re.M | re.S)
_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_HIDDEN_LINK = re.compile(
    r"(?:(?i:file|image|media|category)|ファイル|画像|メディア|カテゴリ|[a-z]{2,3}(?:-[a-z]+)?(?=:[^|]*\Z))\s*:"
)
_LEFT_OVER_LINK = re.compile(r"^(?:ファイル|画像|カテゴリ|File|Image|Category):[^\n。]*(?:\n|\Z)", re.M)
_URL_LINK = re.compile(r"\[(?:https?:|ftp:)?//[^\s\]]+(?:[^\S\n]+([^\[\]\n]*))?\]")
_QUOTES = re.compile(r"(?<![A-Za-z0-9)\]'])('{5}|'{2,3})(?!')([^\n]+?)(?<!')\1(?!')")
_HEADING = re.compile(r"^(={2,6})(?!=)[^\S\n]*(.+?)[^\S\n]*(?<!=)\1[^\S\n]*$", re.M)
_PLAIN_END = re.compile(rf"(?:\A|(?<=\n\n))(?:{'|'.join(_END_TITLES)})[^\S\n]*(?:\n|\Z).*\Z", re.S)
_LIST_MARK = re.compile(r"^[*#:;]+(?<!#(?=[A-Za-z]))[^\S\n]*", re.M)  # not #include
_MAGIC_WORD = re.compile(r"__[A-Z]{3,}__|__[ぁ-んァ-ヶ一-龠]+__")
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_EMPTY_PARENTHESES = re.compile(
    r"（[\s、，；：,;:]*）|（\s+[-–—]\s*）|（\s*[-–—]\s+）|(?<=[ぁ-ヿ㐀-鿿」』])[^\S\n]?\([\s、，；,;]*\)|\(\s*[、，；][\s、，；]*\)"
)
_LEADING_SEPARATOR = re.compile(r"（[^\S\n]*[、，；,;](?:[^\S\n]|[、，；,;])*(?=[^\s、，；,;])")
_TRAILING_SEPARATOR = re.compile(r"[^\S\n]*[、，；](?:[^\S\n]|[、，；])*）")


def wikipedia(text: str) -> str:
    """Remove the remains of wiki markup from an article.

    Removed: templates, tables, references, comments, galleries, file and category links, list marks, and the sections
    at the end (関連項目, 脚注, 参考文献, 外部リンク ...), with or without marks of a heading. Kept as text: links, bold
    and italic words, other headings, and formulas (`<math>` becomes `$...$`; TeX braces are not templates).
    Parentheses that a removed template leaves empty go as well. A redirect becomes an empty text.
    """
    while True:  # markup stands inside markup
        before = text
        text = _without_markup(text)
        text = _without_end_sections(text)
        text = _HEADING.sub(r"\2", text)
        text = re.sub(r"\n{3,}", "\n\n", text.strip("\n"))
        if text == before:
            return text


def _without_markup(text: str) -> str:
    if "<" in text:
        text = _MATH.sub(lambda formula: f"${formula[1].strip()}$", _COMMENT.sub("", text))
        text = _LINE_BREAK.sub("\n", _BLOCK.sub("", _REFERENCE.sub("", text)))
        text = _TAG.sub("", text)
    if "{{" in text:
        text = _TEMPLATE.sub(_shown, text)
    if "{|" in text:
        text = _TABLE.sub("", text)
    if "[" in text:
        text = _URL_LINK.sub(lambda link: link[1] or "", _LINK.sub(_linked, _REDIRECT.sub("", text)))
    if "''" in text:
        text = _QUOTES.sub(r"\2", text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]).replace("\xa0", " "), text)
    text = _LIST_MARK.sub("", _LEFT_OVER_LINK.sub("", _MAGIC_WORD.sub("", text)))
    return _without_empty_parentheses(text)


def _without_end_sections(text: str) -> str:
    """Without each section named in _END_SECTIONS, its subsections included, and without what follows a bare title."""
    kept, start, hidden_level = [], 0, 7
    for heading in _HEADING.finditer(text):
        level = len(heading[1])
        if hidden_level == 7:
            kept.append(text[start : heading.start()])
        if level <= hidden_level:
            hidden_level = level if heading[2] in _END_TITLES else 7
        start = heading.start()
    if hidden_level == 7:
        kept.append(text[start:])
    return _PLAIN_END.sub("", "".join(kept))


def _shown(template: re.Match[str]) -> str:
    """What the reader sees of a template: for most of them nothing."""
    name, *arguments = template[1].split("|")
    if "\\" in template[1] or _TEX_BEFORE.search(template.string[max(template.start() - 20, 0) : template.start()]):
        return template[0]  # braces of TeX
    position = _SHOWN_ARGUMENT.get(name.strip().lower())
    plain = [argument for argument in arguments if "=" not in argument]
    return plain[position].strip() if position is not None and plain else ""


def _linked(link: re.Match[str]) -> str:
    """The text of a link; none for files, categories and other languages."""
    target, _, label = link[1].partition("|")
    if _HIDDEN_LINK.match(link[1].lstrip()):
        return ""
    return label.rpartition("|")[2] if label else target.lstrip(":")


def _without_empty_parentheses(text: str) -> str:
    if "（" not in text and "(" not in text:
        return text
    text = _EMPTY_PARENTHESES.sub("", text)
    return _TRAILING_SEPARATOR.sub("）", _LEADING_SEPARATOR.sub("（", text))
