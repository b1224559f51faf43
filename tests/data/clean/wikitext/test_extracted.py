"""The rule `wikipedia` on what extractors leave: markup in shreds among plain text."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jpllm.data.clean.wikitext.plain_text import wikipedia

PAGE = """\
{{Infobox 山
|名称 = 富士山{{Lang|en|Mt. Fuji}}
|画像 = [[ファイル:a.jpg|thumb]]
}}
[[ファイル:Foo.jpg|thumb|200px|[[富士山]]の写真]]
'''富士山'''（ふじさん、{{lang-en|Mount Fuji}}）は、[[日本]]の[[静岡県|静岡]]にある<ref name="a">出典。<br/></ref>
<ref name=b/>山。
== 歴史 ==
{| class="wikitable"
|-
| 内 || 外
{| class="x"
| 中
|}
|}
* 項目
*# 小項目
=== 小見出し ===
本文（）。<!-- 注 -->
== 関連項目 ==
* [[山]]
=== 下位 ===
* 下
== 付録 ==
残る。
== 外部リンク ==
* [http://a.example 公式]
{{DEFAULTSORT:ふしさん}}
[[Category:山]]
[[en:Mount Fuji]]
"""


def test_a_page():
    assert wikipedia(PAGE) == (
        "富士山（ふじさん、Mount Fuji）は、日本の静岡にある\n山。\n\n歴史\n項目\n小項目\n\n小見出し\n本文。\n\n"
        "付録\n残る。"
    )


def test_extracted_text():
    text = "本文の脚注。\n\n歴史\n続き。\n\n脚注\n\n注釈\n\n関連項目\n山\n\n外部リンク\n\n日本の山"
    assert wikipedia(text) == "本文の脚注。\n\n歴史\n続き。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{要出典|date=2020年}}文{{仮リンク|岩|en|Rock}}と{{ruby|漢字|かんじ}}{{0}}", "文岩と漢字"),
        ("[[富士山]]、[[富士山 (曖昧)|富士]]、[[:Category:山]]、[[山#歴史|]]", "富士山、富士、Category:山、山#歴史"),
        ("[https://example.org]と[https://example.org 公式 サイト]。", "と公式 サイト。"),
        ("これは'''太字'''で''斜体''、'''''両方'''''。", "これは太字で斜体、両方。"),
        ("一<br />二<small>三</small><ref>四</ref><gallery>\na.jpg\n</gallery>五", "一\n二三五"),
        ("AT&amp;T&nbsp;&lt;3 &#12354;&#x3042; A&B;", "AT&T <3 ああ A&B;"),
        ("__NOTOC__\nカテゴリ:山\nFile:a.jpg|thumb\nファイル:を開く。", "ファイル:を開く。"),
        ("#REDIRECT [[富士山]]", ""),
        ("#転送 [[富士山]]", ""),
        ("= 一 =\n== 二 ==\n=== 三 ===\n四 == 五", "一\n\n二\n\n三\n四 == 五"),
        ("== 出典 ==\n<references />", ""),
        ("== 出典と背景 ==\n残る。", "出典と背景\n残る。"),
    ],
)
def test_markup(text, expected):
    assert wikipedia(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("文（、）文（）文（ ； ）文（ - ）文()文(、)文", "文文文文文文文"),
        ("（、1900年 - ）（1900年、）（ ，、英: Fuji）", "（1900年 - ）（1900年）（英: Fuji）"),
        ("（電荷（-）は負）（、、）main() (a, b) （・∀・）", "（電荷（-）は負）main() (a, b) （・∀・）"),
    ],
)
def test_parentheses_left_empty(text, expected):
    assert wikipedia(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "f''(x) + g''(x) = 0",
        r"$\frac{{a}}{b}$、$x_{{1}}^{{2}}$、{{\displaystyle x}}",
        "a<b and c>d、x < y、p < q > r",
        "#include <stdio.h>",
        "脚注について書いた本文。\n関連項目という言葉。",
        "[1]と[注 2]、配列a[0]、『[[』",
        "it's 'quoted' text",
    ],
)
def test_what_is_no_markup_stays(text):
    assert wikipedia(text) == text


def test_formulas_become_tex_between_dollars():
    assert wikipedia("<math display='block'>x_{{1}} < \\sqrt{{y}}</math>である") == "$x_{{1}} < \\sqrt{{y}}$である"


PARTS = [
    *(
        "{{",
        "}}",
        "[[",
        "]]",
        "|",
        "[http://a.b ",
        "]",
        "[",
        "''",
        "'''",
        "\n== ",
        " ==\n",
        "\n* ",
        "脚注",
        "（",
        "、",
        "）",
    ),
    *("<ref>", "</ref>", "<b>", "{|", "|}", "&lt;", "&amp;", "ファイル:", "\n", " ", "語", "x"),
]
MORE_PARTS = [
    *("{{ruby|", "{{謎|", "{{convert|5|km}}", "{{quote|", "{{{1|", "}}}", "{{formatnum:", "{", "}", "=", "\n;", ":"),
    *("\n#", "\n----", "#include", "<br>", "<sup>2</sup>", "<table>", "</table>", "<small>", "<!--", "-->", "<", ">"),
    *("&nbsp;", "&mdash;", "__NOTOC__", "[[en:a]]", "$x_{1}$", "_{{1}}", "\\alpha", "\n  ", "\n 文", "\t", "\u3000"),
    *("\n\n注釈\n", "カテゴリ:", "。", "(", ")", "-"),
]  # fmt: skip


@given(st.lists(st.sampled_from(PARTS), max_size=25).map("".join))
def test_a_second_pass_finds_nothing(text):
    once = wikipedia(text)
    assert wikipedia(once) == once


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PARTS + MORE_PARTS), max_size=25).map("".join))
def test_a_second_pass_finds_nothing_in_more_kinds_of_markup(text):
    once = wikipedia(text)
    assert wikipedia(once) == once


@given(st.text(st.characters(exclude_characters="&", exclude_categories=["Cs"]), max_size=200))
def test_a_second_pass_finds_nothing_in_any_text(text):
    once = wikipedia(text)
    assert wikipedia(once) == once


def test_real_plain_text_is_left_alone_the_second_time(real_data):
    with gzip.open(real_data / "aozora.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line, _ in zip(stream, range(100), strict=False)]
    articles = (real_data / "english" / "wiki.txt").read_text(encoding="utf-8").split("\n")
    for text in texts + articles:
        once = wikipedia(text)
        assert wikipedia(once) == once
        assert len(once) >= 0.98 * len(text)


def test_what_was_escaped_is_shown_as_a_reader_sees_it():
    assert wikipedia("HTMLの&lt;b&gt;は太字、<nowiki>[[山]]</nowiki>はリンク。") == "HTMLの<b>は太字、[[山]]はリンク。"
