import pickle
import time

import pytest

from jpllm.data.clean.wikitext import brackets
from jpllm.data.clean.wikitext.plain_text import plain_text

# Each construct with what is shown of it, whether the parser or the patterns resolve it.
CONSTRUCTS = {
    "bold and italic": ("'''太字'''と''斜体''と'''''両方'''''と''''引用''''", "太字と斜体と両方と'引用'"),
    "link": ("[[山]]と[[川 (地形)|川]]と[[山#高さ]]と[[#節]]", "山と川と山#高さと節"),
    "link to a subpage": ("[[/練習/]]と[[../目次|目次]]", "練習と目次"),
    "picture": ("前[[ファイル:a.jpg|thumb|[[山]]の絵]]後[[File:b.png]][[画像:c.png|左]]", "前後"),
    "category": ("文。\n[[Category:山]]\n[[カテゴリ:川|かわ]]\n[[:Category:山|山の一覧]]", "文。\n山の一覧"),
    "interlanguage": (
        "文。\n\n[[en:Mountain]] [[de:Berg]]\n[[zh-classical:山]]\n\n[[Re:はじめ]]の話",
        "文。\n\nRe:はじめの話",
    ),
    "external link": (
        "[https://example.jp/a?b=c 外の頁]と[//example.jp 別]と[https://example.jp]と https://example.jp/",
        "外の頁と別とと https://example.jp/",
    ),
    "comment": ("前<!-- 見えない\n\n[[山 -->後", "前後"),
    "comment without end": ("前<!-- 後", "前"),
    "note": ("文<ref>注<br />[[山]]</ref>。<ref name=\"a\" />終<ref name='b'>{{Cite|x}}</ref>", "文。終"),
    "removed templates": ("{{Otheruses|山}}\n文{{要出典|date=2026年}}。{{Reflist|2}}", "文。"),
    "nested template": ("{{基礎情報 山\n| 名前 = {{lang|en|Mt}}\n| 高さ = {{unit|1}}\n}}\n文。", "文。"),
    "ruby": ("{{ruby|漢字|かんじ}}と{{Ruby|[[山]]|やま}}", "漢字と山"),
    "reading": (
        "{{読み仮名|漢字|かな}}と{{読み仮名_ルビ不使用|'''山'''|やま}}と{{読み仮名|無}}",
        "漢字（かな）と山（やま）と無",
    ),
    "language": ("{{lang|en|text}}と{{Lang-fr|texte}}と{{lang|ru|[[a|b]]}}", "textとtexteとb"),
    "link elsewhere": ("{{仮リンク|A|en|B}}と{{仮リンク|A|en|B|label=C}}", "AとC"),
    "formula template": ("{{Math|''x'' + 1}}と{{math|1=y = 2}}", "x + 1とy = 2"),
    "substituted template": ("{{subst:ruby|山|やま}}{{subst:署名}}", "山"),
    "other templates": ("{{nowrap|a b}}{{!}}{{convert|5|km}}{{ndash}}", "a b|5 km–"),
    "template in template": ("{{small|{{lang|en|{{nowrap|1=a=b}}}}}}", "a=b"),
    "quotation": ("文。{{Quotation|引用の文。|人}}次。", "文。\n\n引用の文。\n\n次。"),
    "parameter": ("{{{1|既定}}}と{{{2}}}", "既定と"),
    "table": ('前。\n{| class="wikitable"\n! 年 !! 量\n|-\n| 1 || [[山]]\n|\n{|\n| 内\n|}\n|}\n後。', "前。\n\n後。"),
    "HTML table": ("前。<table><tr><td>1</td></tr></table>後。", "前。\n\n後。"),
    "gallery": ("前。\n<gallery>\nファイル:a.jpg|絵\n</gallery>\n後。", "前。\n後。"),
    "magic word": ("__NOTOC__\n文。__目次__\n__init__", "文。\n__init__"),
    "HTML": ('<span style="color:red">赤</span><small>小</small>行<br>次<br />終 <div>箱</div>', "赤小行\n次\n終\n箱"),
    "HTML ruby": ("<ruby>漢字<rp>（</rp><rt>かんじ</rt><rp>）</rp></ruby>", "漢字"),
    "not HTML": ("1 < 2 と <vector> と a<b", "1 < 2 と <vector> と a<b"),
    "powers": (
        "10<sup>-3</sup>、H<sub>2</sub>O、x<sup>th</sup>、x<sup>n</sup>、Ca<sup>2+</sup>、{{sup|2}}",
        "10^-3、H2O、xth、x^n、Ca^2+、^2",
    ),
    "formula": (
        "式 <math>\\frac{a}{{b}} < [[c]]</math> と\n:<math display=block>\n x\n = 1\n</math>",
        "式 $\\frac{a}{{b}} < [[c]]$ と\n$x = 1$",
    ),
    "chemical formula": ("<chem>H2O</chem>と<ce>CO2</ce>", "$\\ce{H2O}$と$\\ce{CO2}$"),
    "nowiki": (
        "<nowiki>[[山]] ''a'' &lt;b&gt; {{c}} &#99999999999;</nowiki>と<nowiki />",
        "[[山]] ''a'' <b> {{c}} &#99999999999;と",
    ),
    "program": (
        '前。\n<syntaxhighlight lang="c">\n#include <a.h>\n\n\nint main() {\n\treturn a[[0]] && {{1}};  // &lt;\n}\n'
        "</syntaxhighlight>\n後。<source lang=sh inline>ls | wc</source>。",
        "前。\n\n#include <a.h>\n\n\nint main() {\n\treturn a[[0]] && {{1}};  // &lt;\n}\n\n後。ls | wc。",
    ),
    "pre": (
        "<pre>\na\n  '''b''' &lt;c&gt;<i>\n</pre>\n<pre><nowiki>[[d]]</nowiki></pre>",
        "a\n  '''b''' <c><i>\n\n[[d]]",
    ),
    "lines shown as they are": ("例：\n x = 1\n y = 2\n文。", "例：\nx = 1\ny = 2\n文。"),
    "indented program": ("例：\n x = 1\n   y = 2\n文。", "例：\n x = 1\n   y = 2\n文。"),
    "inline program": ("<code>f()</code>と<code>g( )</code>と__FILE__", "f()とg( )と__FILE__"),
    "lists": ("* 一\n** [[二]]\n# 三\n: 四\n*# 五\n#:六", "一\n二\n三\n四\n五\n六"),
    "definitions": ("; 用語 : 説明\n;語\n:[[訳]]\n; https://example.jp", "用語\n説明\n語\n訳\nhttps://example.jp"),
    "entities": (
        "&lt;b&gt; &amp;amp; A&nbsp;B &#x5C71; &mdash; &copy=1 &#99999999999;",
        "<b> &amp; A B 山 — &copy=1 &#99999999999;",
    ),
    "rule": ("前\n----\n後", "前\n\n後"),
    "paragraphs": (
        "　一。\n二。\n\n\n\n三。  \n{{Clear}}\n四。\n{{Clear}}\n\n五。",
        "　一。\n二。\n\n三。\n四。\n\n五。",
    ),
    "empty parentheses": (
        "山（、）、川（ ; ）、海（{{lang|en|}}）、谷({{Audio|a}}, <ref>b</ref>)、丘（{{x}}（{{y}}））、f()、（）",
        "山、川、海、谷、丘、f()、",
    ),
    "separators in parentheses": ("山（{{x}}、やま、{{y}}）は（1990年 - ）", "山（やま）は（1990年 - ）"),
    "spaces around what is removed": ("a {{x}} b", "a b"),
    "headings": (
        "序。\n== 一 ==\n文。\n=== '''二'''<br>[[三]] === <!-- a -->\n\n文。\n\n= # =\n文。",
        "序。\n\n一\n文。\n\n二 三\n文。\n\n#\n文。",
    ),
    "headings with nothing below": (
        "== 空 ==\n{{x}}\n== 親 ==\n=== 空 ===\n=== 子 ===\n文。\n== 終 ==",
        "親\n\n子\n文。",
    ),
    "sections left out": (
        "== 一 ==\n文。\n== 関連項目 ==\n* [[山]]\n=== 細目 ===\n細目。\n== See also ==\na\n== 脚注・出典 ==\nb\n"
        "== Notes and references ==\nc\n=== 外部リンク ===\nd\n== 参照渡し ==\n文。",
        "一\n文。\n\n参照渡し\n文。",
    ),
    "a title without marks": (
        "一。\n\n;出典\n{{reflist}}\n二。\n== 節 ==\n三。\n\n'''脚注'''\n四。\n=== 小節 ===\n五。",
        "一。\n\n節\n三。\n\n小節\n五。",
    ),
    "brackets of programs": (
        "x[y[0]]と[[1, 2], [3, 4]]とif (a) { if (b) {}}と『[[』と「{{」",
        "x[y[0]]と[[1, 2], [3, 4]]とif (a) { if (b) {}}と『[[』と「{{」",
    ),
    "primes": ("f''(x)と''y''と[[DNA]]''z''", "f''(x)とyとDNAz"),
    "redirect": ("#転送 [[山]]", ""),
    "broken template": ("{{基礎情報\n| a = 1\n| b = [[山]]\n\n文。", "文。"),
    "broken link": ("[[山と[[川]]の文。]] 終。", "山と川の文。 終。"),
    "broken table": ("前。\n{|\n! a\n|-\n| b\n\n後。", "前。\n\n後。"),
    "tags without end": ("前<ref>中<nowiki>後<math>", "前中後"),
}  # fmt: skip


@pytest.mark.parametrize("budget_chars", [brackets.PARSER_BUDGET_CHARS, 0], ids=["parser", "patterns"])
@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_plain_text(construct, budget_chars, monkeypatch):
    monkeypatch.setattr(brackets, "PARSER_BUDGET_CHARS", budget_chars)
    wikitext, expected = CONSTRUCTS[construct]
    assert plain_text(wikitext) == expected


def test_plain_text_goes_to_worker_processes():
    assert pickle.loads(pickle.dumps(plain_text)) is plain_text


def test_text_that_looks_like_a_mark_is_dropped():
    assert plain_text("a\ufdd09\ufdd1b&#xFDD0;0&#xFDD1;c") == "a9b0c"


@pytest.mark.parametrize("error", [RecursionError, "ParserError"])
def test_parser_that_gives_up_is_replaced_by_patterns(error, monkeypatch):
    import mwparserfromhell

    def give_up(*args, **kwargs):
        raise mwparserfromhell.parser.ParserError("") if error == "ParserError" else error

    monkeypatch.setattr(mwparserfromhell, "parse", give_up)
    assert plain_text("'''山'''は[[地形|地]]、{{ruby|川|かわ}}。") == "山は地、川。"


UNITS = [
    *(
        "{{",
        "}}",
        "[[",
        "]]",
        "{|\n",
        "|}\n",
        "{{a|",
        "[[a|",
        "{{a|[[b]]",
        "[[a {{b ]] }}",
        "{{{",
        "{{{a|",
        "[//a ",
        "[",
    ),
    *(
        "''",
        "'''",
        "<ref>",
        "<math>",
        "<!--",
        "<table>",
        "<div ",
        "<x>",
        "\n*",
        "\n;a:b",
        "\n = ",
        "=",
        "（、",
        " ",
        "&amp;",
    ),
]


@pytest.mark.parametrize("unit", UNITS)
def test_repeated_markup_does_not_raise_and_is_fast(unit):
    start = time.process_time()
    plain_text(unit * (60_000 // len(unit)))
    plain_text("文。" * 1000 + unit * 2000 + "\n[[山]]{{川}}" * 1000)
    assert time.process_time() - start < 10


def test_deep_nesting():
    assert plain_text("{{small|" * 30 + "文" + "}}" * 30) == "文"
    assert plain_text("前。\n\n" + "{{small|" * 5000 + "文" + "}}" * 5000) == "前。"
