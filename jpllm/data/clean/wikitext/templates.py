"""Look up what a template or a parser function of MediaWiki shows: one table of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jpllm.data.clean.wikitext.tags import superscript


class Arguments:
    """The arguments of a template; each is rendered when it is asked for, so that boxes cost nothing."""

    def __init__(self, values: Mapping[str, Any], render: Callable[[Any], str]) -> None:
        self._values = values
        self._render = render
        self._rendered: dict[str, str] = {}  # so that nested templates are not rendered twice at each level

    def __call__(self, *names: str) -> str:
        """Return the first of these arguments that is there and not blank, else an empty text."""
        return next(filter(None, map(self._text, names)), "")

    def unnamed(self) -> list[str]:
        """Return the arguments without a name, up to the first that is missing."""
        texts = []
        while (name := str(len(texts) + 1)) in self._values:
            texts.append(self._text(name))
        return texts

    def _text(self, name: str) -> str:
        if name not in self._rendered:
            self._rendered[name] = self._render(self._values[name]).strip() if name in self._values else ""
        return self._rendered[name]


def _convert(arguments: Arguments) -> str:
    """Return number and unit as given, also for a range: 5 km, 5–10 km, 5 ft 6 in."""
    first, second, third, fourth = (arguments(name) for name in "1234")
    if second.strip("-–—~〜,").lower() in ("", "to", "and", "or", "x", "by", "から", "×") and third:
        between = {"and": " and ", "or": " or ", "x": "×", "by": "×", "×": "×"}.get(second.lower(), "–")
        return f"{first}{between}{third} {_unit(fourth)}".rstrip()
    text = f"{first} {_unit(second)}".rstrip()
    return f"{text} {third} {_unit(fourth)}" if _NUMBER.fullmatch(third) and fourth else text


_NUMBER = re.compile(r"[-−+]?[\d,.]*\d")
_UNITS = {"c": "°C", "f": "°F", "sqmi": "sq mi", "sqft": "sq ft", "sqkm": "km^2", "kph": "km/h", "km/h": "km/h"}


def _unit(code: str) -> str:
    return _UNITS.get(code.lower()) or re.sub(r"(?<=[A-Za-z])([23])(?![0-9])", r"^\1", code)


def _value(arguments: Arguments) -> str:
    """Return a measured value: 5.67(12)×10^-8 W/m^2, (1.2±0.1)×10^3 m."""
    number, above, below, exponent = arguments("1"), arguments("2"), arguments("3"), arguments("e")
    if above and below:
        number += f"+{above.lstrip('+')}−{below.lstrip('-−')}"
    elif above:
        number += f"±{above}"
    if exponent:
        number = f"{f'({number})' if above else number}×10^{exponent}" if number else f"10^{exponent}"
    unit = _unit(arguments("u", "ul", "unit", "up", "upl"))
    per = _unit(arguments("up", "upl")) if arguments("u", "ul") else ""
    return f"{number}{unit if unit in ('%', '°') else f' {unit}'}{per and f'/{per}'}".strip()


def _fraction(arguments: Arguments) -> str:
    """Return 1/2 for two numbers, 3 1/2 for three, 1/2 for a denominator alone."""
    numbers = list(filter(None, arguments.unnamed()))
    if len(numbers) < 2:
        return f"1/{numbers[0]}" if numbers else ""
    return f"{numbers[0]} {numbers[1]}/{numbers[2]}" if len(numbers) > 2 else "/".join(numbers)


def _joined(arguments: Arguments) -> str:
    return "".join(arguments.unnamed())


def _formula(arguments: Arguments) -> str:
    """Return a chemical formula on one line, a charge behind ^: H2O, SO4^2−."""
    return "".join(superscript(text) if text[-1:] in ("+", "-", "−") else text for text in arguments.unnamed())


def _nihongo(arguments: Arguments) -> str:
    inside = ", ".join(filter(None, map(arguments, "234")))
    text = arguments("1")
    return f"{text} ({inside})" if text and inside else text or inside


def _date(year: str, month: str, day: str) -> str:
    units = ((year, "年"), (month, "月"), (day, "日"))
    return "".join(f"{number.lstrip('0')}{unit}" for number, unit in units if number)


def _born(arguments: Arguments) -> str:
    """Return the date alone: the age would be that of the day on which the page is read."""
    return _date(*map(arguments, "123"))


def _age(arguments: Arguments) -> str:
    """Return the years between two dates, each of year, month and day; nothing for a span up to today."""
    numbers = [arguments(name) for name in "123456"]
    if not all(map(str.isdecimal, numbers)):
        return ""
    born, then = tuple(map(int, numbers[:3])), tuple(map(int, numbers[3:]))
    return str(then[0] - born[0] - (then[1:] < born[1:]))


def _age_at_death(arguments: Arguments) -> str:
    age = _age(arguments)
    return f"{age}歳没" if age else ""


def _died(arguments: Arguments) -> str:
    date, age = _date(*map(arguments, "456")), _age_at_death(arguments)
    return f"{date}（{age}）" if date and age else date


_ERAS = ((2019, "令和"), (1989, "平成"), (1926, "昭和"), (1912, "大正"), (1868, "明治"))


def _era_year(arguments: Arguments) -> str:
    """Return a year with that of its era: 2001年（平成13年）; without it before 1868."""
    year = arguments("1")
    if not year.isdecimal():
        return year
    for start, era in _ERAS:
        if int(year) >= start:
            number = int(year) - start + 1
            return f"{year}年（{era}{number if number > 1 else '元'}年）"
    return f"{year}年"


def _form(form: str) -> Callable[[Arguments], str]:
    """Return what fills a form: `$1` is the first argument, `$label,1` the first of the two that is not empty.

    Nothing is written if no argument of the form is there.
    """
    pieces = re.split(r"\$([a-z0-9,]+)", form)
    fields = [tuple(names.split(",")) for names in pieces[1::2]]

    def fill(arguments: Arguments) -> str:
        values = [arguments(*names) for names in fields]
        if fields and not any(values):
            return ""
        filled = "".join(text + value for text, value in zip(pieces[::2], [*values, ""], strict=True))
        return filled.replace("（）", "")

    return fill


_FIRST = """
    ruby, ルビ, ふりがな, 振り仮名, 傍点, 圏点, 下線, underline, 取消線, 打消線, 打ち消し, strike, strikethrough, s,
    del, ins, sub, small, smaller, big, larger, large, em, strong, bold, 太字, b, i, italic, nowrap, nobr,
    nowiki, code, kbd, samp, var, tt, mono, abbr, 略語, tooltip, visible anchor, vanchor, unicode, ipa, math, mvar,
    数式, 縦中横, 縦書き, jis2004フォント, 補助漢字フォント, 環境依存文字, cjkv, 拡張漢字, 外字, 機種依存文字,
    large font, xlarge, num, nts, number, 数値, overline, overset, flag, flagcountry, flagcountry2,
    国旗, 国名, center, 中央, left, right, 左寄せ, 右寄せ, indent, 字下げ, 白文, 書き下し文,
    pdflink, ill, ill2, 日本語版にない記事リンク, phone, tel, midsize, mark, highlight, マーカー, 強調
"""
_SECOND = "lang, color, colour, font color, fontcolor, background color, fontsize, font size, legend, legend2, 色"
_QUOTED = "quote, quotation, cquote, blockquote, 引用, quote box, bquote, centered quote"
# Notes, references, requests to editors, pictures and places on a map: known, and shown nowhere.
_NOT_SHOWN = """
    reflist, 脚注リスト, 脚注ヘルプ, notelist, notelist2, notefoot, 参照方法, 出典の明記, 複数の問題, r, rp, sfn,
    sfnp, sfnm, harv, harvnb, harvp, harvsp, harvcoltxt, efn, efn2, efn-ua, efn-la, refn, refnest, note, ref,
    ref label, note label, notetag, 脚注, 注, 注釈, cite, citation, 出典, 要出典, 要ページ番号, 要検証, 要説明,
    要追加記述, 要校閲, 要更新, 要高次出典, 要文献特定詳細情報, 信頼性要検証, 独自研究, 誰, 誰2, いつ, どこ, 何,
    疑問点, なぜ, どのように, when, who, fact, citation needed, by whom, clarify, dead link, リンク切れ, wayback,
    webarchive, archive link, audio, 音声, audio-ipa, listen, 試聴, 動画, color box, colorbox, 色見本, flagicon,
    flagicon2, flagicon image, 国旗アイコン, coord, coor, ウィキ座標, ウィキ座標2段度分秒, 座標一覧, 地図外部リンク,
    0, 00, 000, pad, zwsp, wbr, zwj, zwnj, shy, ja icon, en icon, de icon, fr icon, ru icon, zh icon, ko icon,
    es icon, it icon, icon, pdf, anchor, anchors, アンカー, clear, -, br, 改行, otheruses, otheruseslist,
    redirect, 混同, about, main, see, see also, seealso, further, details, 独自記事, ntsh, hs, sort, sortname,
    display none, hidden, 節stub, stub, doi, 国立国会図書館のデジタル化資料, increase, decrease, steady, loss, profit,
    増加, 減少, 横ばい, 上昇, 下降, commons, commonscat, wikisource, wiktionary, 要翻訳
"""
_NOT_SHOWN_NAME = re.compile(
    "infobox|基礎情報|navbox|^(?:cite|citation|sfn|efn|refn|harv|r|otheruses?|portal|user|利用者|warning|告知)[ /-]|"
    "^(?:otheruses|cite)|(?:stub|アイコン|icon|の出典|テンプレート|ボックス)$"
)
_FIRST_NAME = re.compile(r"lang-[a-z-]+|(?:要|誰|いつ|訳語疑問点|独自研究)[^ ]*範囲|誰範囲2?|ipa-[a-z-]+|ipac-[a-z]+")

_CURRENCIES = {
    "¥$1": "jpy, ¥, 日本円, jpy¥",
    "$1円": "円, yen",
    "US$$1": "usd, us$, us dollar, ドル",
    "€$1": "eur, €, euro, ユーロ",
    "£$1": "gbp, £, gbp£, ポンド",
    "₩$1": "krw, ₩",
    "元$1": "cny, rmb",
}
_COUNTRIES = """
    jpn 日本, usa アメリカ合衆国, gbr イギリス, eng イングランド, sco スコットランド, wal ウェールズ,
    irl アイルランド, fra フランス, deu ドイツ, ger ドイツ, ita イタリア, esp スペイン, por ポルトガル,
    prt ポルトガル, nld オランダ, ned オランダ, bel ベルギー, che スイス, sui スイス, aut オーストリア,
    swe スウェーデン, nor ノルウェー, fin フィンランド, dnk デンマーク, den デンマーク, rus ロシア, urs ソビエト連邦,
    ukr ウクライナ, pol ポーランド, cze チェコ, hun ハンガリー, grc ギリシャ, gre ギリシャ, tur トルコ, chn 中国,
    prc 中国, twn 台湾, roc 中華民国, tpe チャイニーズタイペイ, hkg 香港, kor 韓国, prk 北朝鮮, ind インド, tha タイ,
    vnm ベトナム, vie ベトナム, phl フィリピン, phi フィリピン, idn インドネシア, ina インドネシア, mys マレーシア,
    mas マレーシア, sgp シンガポール, mng モンゴル国, aus オーストラリア, nzl ニュージーランド, can カナダ,
    mex メキシコ, bra ブラジル, arg アルゼンチン, chl チリ, chi チリ, egy エジプト, zaf 南アフリカ共和国,
    rsa 南アフリカ共和国
"""


def _names(names: str) -> list[str]:
    return [name.strip() for name in names.replace("\n", " ").split(",") if name.strip()]


def _same(names: str, form: str) -> dict[str, Callable[[Arguments], str]]:
    return dict.fromkeys(_names(names), _form(form))


# Names are in lower case; patterns of names are in `template_text`.
TEMPLATES: Mapping[str, Callable[[Arguments], str]] = {
    **_same(_NOT_SHOWN, ""),
    **_same(_FIRST, "$1"),
    **_same(_SECOND, "$2"),
    **_same(_QUOTED, "\n\n$1,text,quote\n\n"),
    **{name: _form(form) for form, names in _CURRENCIES.items() for name in _names(names)},
    **{entry.split(" ")[0]: _form(entry.split(" ")[1]) for entry in _names(_COUNTRIES)},
    **_same("読み仮名, 読み仮名 ルビ不使用, 読み, ふりがな付き", "$1（$2）"),
    **_same("仮リンク", "$label,1"),
    **_same("w, wp, wikipedia, url, official url, resize", "$2,1"),
    **dict.fromkeys(("convert", "cvt", "convinfobox", "単位換算"), _convert),
    **dict.fromkeys(("val", "測定値"), _value),
    **dict.fromkeys(("分数", "frac", "sfrac", "fraction", "mfrac", "tfrac", "dfrac"), _fraction),
    **dict.fromkeys(("chem", "chem2", "化学式"), _formula),
    **dict.fromkeys(("gaps", "桁区切り"), _joined),
    **dict.fromkeys(("nihongo", "nihongo3"), _nihongo),
    **dict.fromkeys(("生年月日と年齢", "生年月日", "birth date", "birth date and age", "start date", "日付"), _born),
    **dict.fromkeys(("死亡年月日と没年齢", "死亡年月日", "death date and age"), _died),
    **dict.fromkeys(("没年齢", "没年齢2"), _age_at_death),
    **dict.fromkeys(("年齢", "満年齢", "age", "年数", "周年"), _age),
    "和暦": _era_year,
    "sup": lambda arguments: superscript(arguments("1")),
    "e": _form("×10^$1"),
    "esp": _form("10^$1"),
    **_same("√, sqrt, radic, ルート", "√$1"),
    **_same("unit, 単位", "$1 $2"),
    "ha": _form("$1 ha"),
    "km": _form("$1 km"),
    "ipa2": _form("[$1]"),
    "isbn": _form("ISBN $1"),
    "issn": _form("ISSN $1"),
    "!": _form("|"),
    "=": _form("="),
    "'": _form("'"),
    "pi": _form("π"),
    "½": _form("1/2"),
    **_same("・, dot, ·, •", "・"),
    **_same("nbsp, sp, space, spaces, 半角空白", "\u00a0"),
    **_same("ndash, en dash", "–"),
    **_same("snd, spnd, spaced ndash", "\u00a0– "),
    **_same("mdash, em dash", "—"),
}


def template_text(name: str, arguments: Arguments) -> str | None:
    """Return what a template shows: a text, an empty one if it shows none, None if it is unknown."""
    name = " ".join(name.replace("_", " ").split()).lower()
    name = re.sub(r"^(?:(?:safe)?subst|template|テンプレート):\s*", "", name)
    if ":" in name or name in _VARIABLES:
        return _parser_function(name, arguments)
    if known := TEMPLATES.get(name):
        return known(arguments)
    if _FIRST_NAME.fullmatch(name):
        return arguments("1")
    return "" if _NOT_SHOWN_NAME.search(name) else None


_VARIABLES = frozenset(
    (
        *("pagename", "fullpagename", "basepagename", "subpagename", "namespace", "sitename", "currentyear"),
        *("currentmonth", "currentday", "currentday2", "currenttime", "currentdayname", "localyear", "localmonth"),
        *("localday", "numberofarticles", "revisionid", "revisionyear"),
    )
)
_TEXT = re.compile(r"[^\W_]")
_NO_TEXT = re.compile(r"\n|://|\.(?:og[gav]|wav|mp3|mid|jpe?g|png|gif|svg|tiff?|webm|webp|pdf|djvu)$", re.IGNORECASE)


def argument_that_reads_as_text(arguments: Arguments) -> str:
    """Return the first unnamed argument that may be a part of a sentence: no address, no file, no list of lines."""
    texts = arguments.unnamed()
    return next((text for text in texts if _TEXT.search(text) and not _NO_TEXT.search(text)), "")


def _parser_function(name: str, arguments: Arguments) -> str:
    """Return what a parser function or variable gives, where that does not depend on the wiki or the day."""
    function, _, first = name.partition(":")
    function, first = function.strip(), first.strip()
    values = arguments
    match function:
        case "formatnum":
            return _grouped(first) if not values("1") else first.replace(",", "")
        case "#expr" | "lc" | "uc" | "lcfirst" | "ucfirst" | "padleft" | "padright" | "plural" | "#formatdate":
            return first
        case "#if":
            return values("1") if first else values("2")
        case "#ifeq":
            return values("2") if first == values("1") else values("3")
        case "#iferror":
            return values("2") or first
        case "#ifexist" | "#ifexpr":
            return values("1", "2")
        case "#switch":
            return values(first, "#default") or next(iter(values.unnamed()[-1:]), "")
    return ""


def _grouped(number: str) -> str:
    """Return 1,234,567.5 for 1234567.5, and what is no plain number as it is."""
    match = re.fullmatch(r"([-−+]?)(\d+)(\.\d+)?", number)
    return f"{match[1]}{int(match[2]):,}{match[3] or ''}" if match else number
