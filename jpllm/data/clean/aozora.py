"""Read the text format of Aozora Bunko: what the author wrote, without the marks of the people who typed it in.

Ruby, annotations, accents and characters outside JIS X 0208 are written with marks in plain text; the format is
described at https://www.aozora.gr.jp/annotation/ and https://www.aozora.gr.jp/accent_separation.html.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

VERSION = 2  # of the texts that come out; shards of another one are packed again
GETA = "〓"  # the printers' mark for a character that cannot be set

_MAX_TITLE_LINES = 8
_MAX_TITLE_CHARACTERS = 60  # per line
_RULER = r"[ \u3000]*-{20,}[ \u3000]*"
_BOX = re.compile(rf"\A(?:.*\n){{0,30}}?{_RULER}\n\s*【[^【】\n]+】[ \u3000]*\n(?:.*\n)*?{_RULER}(?:\n|\Z)")
_END_MARK = "［＃本文終わり］"
_END = re.compile(rf"^[ \u3000]*{_END_MARK}[ \u3000]*$", re.MULTILINE)
_COLOPHON = re.compile(r"底本[:：]")
_COLOPHON_HEADS = ("", "翻訳の")
_SPACES = " \u3000"
_CREDITS = (
    "入力：",
    "入力:",
    "校正：",
    "校正:",
    "翻訳者：",
    "翻訳者:",
    "青空文庫",
)  # one of them follows in every colophon
_COLOPHON_LINE = re.compile(r"[ \u3000]{2}.*|[ \u3000]*(?:(?:(?:翻訳の)?底本|初出[:：]|[※●]).*)?")

_INSIDE = r"［＃((?:[^［］\n]|［[^＃［］\n][^［］\n]*］)*)］"  # without an annotation in it
_GAIJI = re.compile(f"※{_INSIDE}")
_ANNOTATION = re.compile(_INSIDE)
_CODE_POINT = re.compile(r"U\+([0-9A-Fa-f]{4,6})")
_MEN_KU_TEN = re.compile(r"(?:水準|[、，]|^)([12])-(\d{1,2})-(\d{1,2})(?=[、，]|$)")  # 129-3 is a page and a line

_INSERTED = re.compile(
    r"([（〔]?)［＃(?:ここから)?割り?注］((?:(?!［＃(?:ここから)?割り?注］).)*?)［＃(?:ここで)?割り?注終わり］([）〕]?)",
    re.DOTALL,
)

_MARKED_RUBY = re.compile(r"｜([^｜《》\n]*)《[^《》\n]*》")
_RUBY = re.compile(r"(?<=[^\s、。「『（〈〔［｛])《[^《》\n]*》")  # 《》 with nothing before it to read is a quotation

_BRACKETED = re.compile(r"〔([^〔〕\n]*)〕")
_ACCENT = re.compile(
    r"(?P<ligature>AE&|OE&|ae&|oe&|s&|[!?]@|[LlOo]/)"
    r"|(?P<letter>[AEINOUaeinou](?=`)|[ACEILMNORSUYZaceilmnorsuyz](?=')|[ACEGHIJOSUWYaceghijosuwy](?=\^)"
    r"|[AINOUainou](?=~)|[AEIOUYaeiouy](?=:)|[AEIOUaeiou](?=_)|[AUau](?=&)|[CSTcst](?=,[A-Za-z]))(?P<mark>.)"
)
_ELISION = re.compile(r"(?<![A-Za-z])[CLMNSclmns]'(?=[A-Za-z])|[Qq]u'")  # French l'a, qu'il: no accents
_LIGATURES = {"AE&": "Æ", "OE&": "Œ", "ae&": "æ", "oe&": "œ", "s&": "ß", "!@": "¡", "?@": "¿"}
_LIGATURES |= {"L/": "Ł", "l/": "ł", "O/": "Ø", "o/": "ø"}
_COMBINING = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "_": "\u0304", ":": "\u0308"}
_COMBINING |= {"&": "\u030a", ",": "\u0327"}

# What a gaiji note stands for may itself be a mark of the format; as private characters they are not read as one.
_MARKS = "《》｜［］＃※〔〕／＼"
_PROTECT = {ord(mark): chr(0xF5A0 + index) for index, mark in enumerate(_MARKS)}
_UNPROTECT = {0xF5A0 + index: mark for index, mark in enumerate(_MARKS)}


def aozora(text: str) -> str:
    """Turn a file of Aozora Bunko into the plain text of the work.

    Removed: the title block and the box that explains the marks, ruby, annotations, and the colophon from
    底本： or 翻訳の底本： on. Characters described in notes become Unicode (by men-ku-ten of JIS X 0213 or by code
    point; 〓 where neither is given), accents in 〔〕 become letters with accents, and ／＼ becomes the repeat mark
    〳〵. Notes of the work that are set in two small lines (割り注) stand in parentheses. Runs of blank lines become
    one. A text with neither box nor colophon keeps its first and last lines, so the rule can run again over its own
    result; only 《》 that the work itself prints could then be taken for ruby.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _plain(_body(text)).translate(_UNPROTECT)


def _body(text: str) -> str:
    """Return the text without what stands before and after the work."""
    body = text[: _end(text)]
    without_box = _BOX.sub("", body, count=1)
    if body != text and without_box == body:
        without_box = _without_title(body)
    return without_box


def _end(text: str) -> int:
    """Return where the work ends: at a mark that says so, or where the last colophon begins."""
    if _END_MARK in text and (mark := _END.search(text)):
        return mark.start()
    last_credit = max(text.rfind(credit) for credit in _CREDITS)
    ends = list(_colophons(text, max(last_credit, 0)))
    while len(ends) > 1 and all(map(_COLOPHON_LINE.fullmatch, text[ends[-2] : ends[-1]].split("\n"))):
        ends.pop()  # one colophon, in several paragraphs
    return ends[-1] if ends else len(text)


def _colophons(text: str, end: int) -> Iterator[int]:
    """Yield where a line behind a blank one, or the first line, begins with 底本： or 翻訳の底本：."""
    for match in _COLOPHON.finditer(text, 0, end):
        start = text.rfind("\n", 0, match.start()) + 1
        line_before = text[text.rfind("\n", 0, max(start - 1, 0)) + 1 : max(start - 1, 0)]
        if text[start : match.start()].strip(_SPACES) in _COLOPHON_HEADS and not line_before.strip(_SPACES):
            yield start


def _without_title(text: str) -> str:
    """Return the text without a first paragraph that looks like title and author: few, short lines, no sentence."""
    title, _, rest = text.partition("\n\n")
    lines = title.split("\n")
    is_title = len(lines) <= _MAX_TITLE_LINES and not any(
        len(line) > _MAX_TITLE_CHARACTERS or line.startswith("\u3000") or line.endswith(("。", "」")) for line in lines
    )
    return rest if is_title else text


def _plain(text: str) -> str:
    """Resolve the marks within the work, until none is left: notes stand inside notes."""
    while True:
        before = text
        text = _without_notes(text)
        text = _RUBY.sub("", _MARKED_RUBY.sub(r"\1", text))
        text = _BRACKETED.sub(_accented, text)
        text = text.replace("／＼", "〳〵").replace("／″＼", "〴〵")
        text = re.sub(r"\n{3,}", "\n\n", text.strip())
        if text == before:
            return text


def _without_notes(text: str) -> str:
    """Resolve notes, from the inside: what stands in one may be a character that another describes."""
    while "注終わり］" in text and (resolved := _INSERTED.sub(_in_parentheses, text)) != text:
        text = resolved
    while "［＃" in text:
        before = text
        while "※［＃" in text and (resolved := _GAIJI.sub(_character, text)) != text:
            text = resolved
        text = _ANNOTATION.sub("", text)
        if text == before:
            break
    return text


def _in_parentheses(inserted: re.Match[str]) -> str:
    """Return a 割り注 without its marks, in the parentheses that it has, or in new ones."""
    opening, text, closing = inserted.groups()
    has_own = (opening and closing) or (text.startswith(("（", "〔")) and text.endswith(("）", "〕")))
    return f"{opening}{text}{closing}" if has_own else f"{opening}（{text}）{closing}"


def _character(gaiji: re.Match[str]) -> str:
    """Return the character that a note such as ※［＃「木＋解」、第3水準1-86-22］ stands for."""
    code_point = _CODE_POINT.search(gaiji[1])
    if code_point and (number := int(code_point[1], 16)) <= 0x10FFFF and not 0xD800 <= number < 0xE000:
        return chr(number).translate(_PROTECT)
    position = _MEN_KU_TEN.search(gaiji[1])
    if not position:
        return GETA
    plane, row, cell = map(int, position.groups())
    if not (row <= 94 and cell <= 94):
        return GETA
    encoded = bytes([0x8F] * (plane - 1) + [0xA0 + row, 0xA0 + cell])
    return encoded.decode("euc_jis_2004", errors="replace").replace("\ufffd", GETA).translate(_PROTECT)


def _accented(bracketed: re.Match[str]) -> str:
    """Return `Camées` for `〔Came'es〕`; brackets around anything without accents stay."""
    elisions = {match.end() - 1 for match in _ELISION.finditer(bracketed[1])}

    def letter(accent: re.Match[str]) -> str:
        if accent["ligature"]:
            return _LIGATURES[accent["ligature"]]
        if accent.end() - 1 in elisions:
            return accent[0]
        return unicodedata.normalize("NFC", accent["letter"] + _COMBINING[accent["mark"]])

    accented = _ACCENT.sub(letter, bracketed[1])
    return bracketed[0] if accented == bracketed[1] else accented
