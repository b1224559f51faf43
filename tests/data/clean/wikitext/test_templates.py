"""Templates and parser functions become what a reader of the page would see."""

import pytest

from jpllm.data.clean.wikitext import brackets
from jpllm.data.clean.wikitext.plain_text import plain_text, removed_inside_sentences

SHOWN = {
    "長さは{{convert|10|km}}である。": "長さは10 kmである。",
    "{{convert|10|km|mi|abbr=on}}の道": "10 kmの道",
    "{{convert|5|to|10|km2|sqmi}}の森": "5–10 km^2の森",
    "{{Convert|5|ft|6|in|cm}}の人": "5 ft 6 inの人",
    "気温は{{convert|100|F|C}}": "気温は100 °F",
    "質量は{{val|1.67|e=-27|u=kg}}": "質量は1.67×10^-27 kg",
    "長さは{{val|1.2|0.1|e=3|ul=m}}": "長さは(1.2±0.1)×10^3 m",
    "定価は{{円|1,000}}": "定価は1,000円",
    "定価は{{JPY|1,000}}と{{USD|5}}": "定価は¥1,000とUS$5",
    "{{分数|1|2}}と{{frac|3|1|4}}と{{sfrac|5}}": "1/2と3 1/4と1/5",
    "水は{{chem|H|2|O}}、硫酸イオンは{{Chem|SO|4|2−}}": "水はH2O、硫酸イオンはSO4^2−",
    "The {{nihongo|Tokyo Tower|東京タワー|Tōkyō Tawā}} stands.": "The Tokyo Tower (東京タワー, Tōkyō Tawā) stands.",
    "{{w|山 (地形)|山}}と{{w|川}}": "山と川",
    "1989年1月7日（{{没年齢|1901|4|29|1989|1|7}}）": "1989年1月7日（87歳没）",
    "生まれは{{生年月日と年齢|1980|03|4}}": "生まれは1980年3月4日",
    "没したのは{{死亡年月日と没年齢|1900|5|2|1980|3|4}}": "没したのは1980年3月4日（79歳没）",
    "開業から{{年数|1950|5|5|2000|5|4}}年": "開業から49年",
    "{{和暦|2001}}と{{和暦|2019}}と{{和暦|1800}}": "2001年（平成13年）と2019年（令和元年）と1800年",
    "人口は{{formatnum:1234567}}人": "人口は1,234,567人",
    "人口は{{formatnum:{{val|12345.6}}}}人、{{formatnum:12,345|R}}人": "人口は12,345.6人、12345人",
    "和は{{#expr: 1 + 2}}": "和は1 + 2",
    "{{#if: x | 有 | 無}}、{{#if: | 有 | 無}}、{{#ifeq: a | b | 同 | 異}}": "有、無、異",
    "{{#switch: b | a = 一 | b = 二 | 三}}と{{#switch: c | a = 一 | 三}}": "二と三",
    "{{DEFAULTSORT:やま}}山{{#invoke:a|b}}": "山",
    "字は{{small|小さい}}": "字は小さい",
    "言う。\n{{Quotation|引用文。|人}}": "言う。\n\n引用文。",
    "{{読み仮名|山|やま}}と{{ruby|川|かわ}}": "山（やま）と川",
    "{{lang|en|text}}（{{lang-en-short|word}}、{{Lang-fr|mot}}）": "text（word、mot）",
    "{{仮リンク|町|en|Town}}と{{仮リンク|町|en|Town|label=街}}": "町と街",
    "{{要出典範囲|という説|date=2026年}}がある{{要出典|date=2026年}}。": "という説がある。",
    "{{USA}}と{{JPN}}": "アメリカ合衆国と日本",
    "『本』{{ISBN2|4}}、{{ISBN|4-00-000000-0}}": "『本』4、ISBN 4-00-000000-0",
    "{{math|{{sqrt|2}}}}と10{{e|5}}と{{esp|5}}": "√2と10×10^5と10^5",
    "文{{Sfn|山田|2001|p=5}}。{{r|a|b}}{{Efn2|注}}": "文。",
    "山（{{Lang-en|Mt}}、{{IPA-en|maʊnt}}、{{音声|a.ogg|聞く}}）": "山（Mt、maʊnt）",
    "{{Template:Ruby|山|やま}}と{{テンプレート:small|川}}": "山と川",
}  # fmt: skip

UNKNOWN = {
    "それは{{謎|文字}}である。": ("それは文字である。", []),
    "それは{{謎|a.jpg|https://a.example/|中|右}}である。": ("それは中である。", []),
    "それは {{謎|k=v}} である{{謎2}}。": ("それは である。", ["謎", "謎2"]),
    "山 {{謎}}、川": ("山、川", ["謎"]),
    "a {{謎}} b": ("a b", ["謎"]),
    "{{謎|文字}}\n文。\n* {{謎|文字}}{{謎2}}": ("文。", []),
    "{{箱\n| a = {{謎}}の文\n}}\n文。": ("文。", []),
    "それは{{謎\n|\n* 項}}で、{{謎|\n* 項\n* 目}}。": ("それは* 項で、。", ["謎"]),
    "それは{{謎|{{謎2|中{{謎3}}}}}}である。": ("それは中である。", ["謎3"]),
    "[[山|{{謎}}山]]と（{{謎|k=v}}）川": ("山と川", ["謎", "謎"]),
}  # fmt: skip


@pytest.fixture(params=[brackets.PARSER_BUDGET_CHARS, 0], ids=["parser", "patterns"], autouse=True)
def engine(request, monkeypatch):
    monkeypatch.setattr(brackets, "PARSER_BUDGET_CHARS", request.param)


@pytest.mark.parametrize("wikitext", SHOWN)
def test_what_a_template_shows(wikitext):
    assert plain_text(wikitext) == SHOWN[wikitext]
    assert removed_inside_sentences(wikitext) == []


@pytest.mark.parametrize("wikitext", UNKNOWN)
def test_unknown_templates_leave_no_hole_in_a_sentence(wikitext):
    expected, removed = UNKNOWN[wikitext]
    assert plain_text(wikitext) == expected
    assert removed_inside_sentences(wikitext) == removed


def test_templates_in_each_others_arguments_take_no_more_than_linear_time():
    assert plain_text("{{val|1|up=" * 30 + "m" + "}}" * 30).startswith("1")
    assert plain_text("文" + "{{謎|a|" * 30 + "}}" * 30) == "文a"
