import difflib
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpllm.data.clean.aozora import aozora

BOX = """\
-------------------------------------------------------
【テキスト中に現れる記号について】

《》：ルビ
（例）薔薇《ばら》の花

［＃］：入力者注　主に外字の説明や、傍点の位置の指定
（例）わたしのした［＃「した」に傍点］こと
-------------------------------------------------------
"""
COLOPHON = """


底本：「全集　第一巻」書房
　　　1969（昭和44）年9月30日初版発行
底本の親本：「全集」書房
入力：山田
校正：田中
青空文庫作成ファイル：
このファイルは、インターネットの図書館、青空文庫（http://www.aozora.gr.jp/）で作られました。
"""


def test_a_file_as_published():
    work = "　　　　　一\n\n　薔薇《ばら》の花。\n　次。\n［＃地付き］（昭和二年七月）"
    raw = f"題名\n副題\n著者\n\n{BOX}\n{work}{COLOPHON}"
    assert aozora(raw.replace("\n", "\r\n")) == "一\n\n　薔薇の花。\n　次。\n（昭和二年七月）"


def test_a_file_without_box_loses_its_title_block():
    assert aozora(f"題名\n著者\n\n\n　本文である。\n　つづき。{COLOPHON}") == "本文である。\n　つづき。"


@pytest.mark.parametrize(
    "first", ["　一つの段落。\nもう一つ。", "短い文。", "「ええ。」", "長" * 61, "\n".join("一二三四五六七八九")]
)
def test_a_first_paragraph_that_is_no_title_stays(first):
    assert aozora(f"{first}\n\n二つ目。{COLOPHON}") == f"{first.strip()}\n\n二つ目。"


def test_a_text_without_box_and_colophon_keeps_its_first_and_last_lines():
    text = "題名\n\n本文。\n\n底本：と書いてある古い本を見た。"
    assert aozora(text) == text


@pytest.mark.parametrize("heading", ["【テキスト中に現れる記号について】", "【記号について】", "　【凡例】　"])
@pytest.mark.parametrize("ruler", ["-" * 55, "　" + "-" * 30 + " "])
def test_boxes_headed_otherwise(heading, ruler):
    box = f"{ruler}\n{heading}\n\n《》：ルビ\n{ruler}\n"
    assert aozora(f"題名\n著者\n\n{box}\n　本文。{COLOPHON}") == "本文。"


@pytest.mark.parametrize(
    "colophon",
    [
        '翻訳の底本：Foo (1890) "Bar"\n　　　上記の翻訳底本は、著作権が失効しています。\n青空文庫提供ファイル：',
        "　　　底本：「全集」書房\n　　　入力：山田",
        " \u3000底本: 全集\n校正: 田中",
        "底本：「全集」\n　　　1969年発行\n※表記は新字。\n\n翻訳の底本：Foo\n\n　　底本の親本：「全集」\n入力：山田",
        "［＃本文終わり］\n原書：Foo\n※利用条件",
    ],
)
def test_colophons_of_other_forms(colophon):
    assert aozora(f"題名\n著者\n\n　本文。\n　二。\n\n\n{colophon}\n") == "本文。\n　二。"


def test_only_the_last_colophon_ends_the_work():
    text = "一\n\n底本：について書く。\n\n終わり。"
    assert aozora(f"{BOX}{text}{COLOPHON}") == text


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("薔薇《ばら》の花", "薔薇の花"),
        ("事実上｜＋《プラス》である", "事実上＋である"),
        ("｜Ａ《エー》と｜Ｂ《ビー》", "ＡとＢ"),
        ("勿論｜唯《ただ》｜そう", "勿論唯｜そう"),
        ("彼は、《夜》と言った。「《昼》」", "彼は、《夜》と言った。「《昼》」"),
        ("わたしのした［＃「した」に傍点］こと", "わたしのしたこと"),
        ("（一）［＃「（一）」は縦中横］の中", "（一）の中"),
        ("「大溝《おほどぶ》」［＃「「大溝」」は中見出し］", "「大溝」"),
        ("替［＃レ］天行［＃レ］道《みち》の", "替天行道の"),
        ("も［＃「比翼塚《ひよくづか》も」は底本では「翼比塚《ひよくづか》も」］残", "も残"),
        ("字［＃「［字］」に傍点］だ", "字だ"),
        ("甲［＃「乙［＃「乙」に傍点］」は底本では「丙※［＃「口＋皮」、第3水準1-14-75］」］丁", "甲丁"),
        ("［以下空白］［注］", "［以下空白］［注］"),
        ("甲［＃割り注］乙［＃割り注終わり］丙", "甲（乙）丙"),
        ("甲（［＃割り注］乙［＃改行］丙［＃割り注終わり］）丁", "甲（乙丙）丁"),
        ("甲［＃割り注］（乙）［＃割り注終わり］丙", "甲（乙）丙"),
        ("甲〔［＃割り注］乙《おつ》［＃割り注終わり］〕丙［＃割り注］丁［＃割り注終わり］", "甲〔乙〕丙（丁）"),
        ("甲［＃ここから割り注］乙［＃ここで割り注終わり］丙［＃割り注］丁", "甲（乙）丙丁"),
        ("甲［＃割り注］乙［＃割り注］丙［＃割り注終わり］丁［＃割り注終わり］", "甲（乙（丙）丁）"),
        ("乙［＃「乙（［＃割り注］丙［＃割り注終わり］）」は底本では「乙」］丁", "乙丁"),
    ],
)
def test_ruby_and_annotations(raw, plain):
    assert aozora(raw) == plain


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("※［＃「木＋解」、第3水準1-86-22］《かし》の木", "檞の木"),
        ("※［＃「けものへん＋言」、第4水準2-80-36］々《ぎんぎん》", "狺々"),
        ("里見｜※［＃「弓＋椁のつくり」、第3水準1-84-22］《とん》氏", "里見弴氏"),
        ("※［＃「鼬」の「由」に代えて「晏」、第3水準1-94-84］鼠", "鼹鼠"),
        ("※［＃始め二重括弧、1-2-54］中※［＃終わり二重括弧、1-2-55］", "⦅中⦆"),
        ("※［＃「てへん＋爭」、U+6399、123-4］", "掙"),
        ("※［＃「土へん＋丸」、U+21211、123-4］", "\U00021211"),
        ("※［＃半濁点付き片仮名ト、1-5-94］", "ト゚"),
        ("反※［＃「てへん＋発」、129-上段-3］する", "反〓する"),
        ("反※［＃「てへん＋発」、129-3］する", "反〓する"),
        ("※［＃始め二重山括弧、1-1-52］夜※［＃終わり二重山括弧、1-1-53］", "《夜》"),
        ("※［＃米印、1-2-8］［＃改ページ］", "※"),
        ("※［＃始め角括弧、1-1-46］※［＃井桁、1-1-84］注］", "［＃注］"),
        ("※［＃あり得ない、1-99-99］※［＃番号だけ、U+110000］", "〓〓"),
        ("※［＃「姉」の正字、「※［＃「例」の正字、第3水準1-85-57］」の「木」に代えて「女」、749-12］が", "〓が"),
        ("※［＃「甲※［＃「乙※［＃「木＋解」、第3水準1-86-22］」、1-2-54］」、第3水準1-84-22］。", "弴。"),
        ("※［＃「甲［＃「甲」に傍点］」、第3水準1-86-22］", "檞"),
        ("　　※\n次", "※\n次"),
    ],
)
def test_characters_described_in_notes(raw, plain):
    assert aozora(raw) == plain


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("怪しげな 〔a` la Huysmans〕 の", "怪しげな à la Huysmans の"),
        ("〔Les Emaux et Came'es〕", "Les Emaux et Camées"),
        ("〔Du:ntzer〕 〔garc,on〕 〔man~ana〕 〔Basho_〕 〔A&ngstro:m〕", "Düntzer garçon mañana Bashō Ångström"),
        ("〔oe&uvre〕 〔Stras&e〕 〔So/ren〕 〔!@Hola!〕 〔Pan' Tadeusz〕", "œuvre Straße Søren ¡Hola! Pań Tadeusz"),
        ("〔l'e'te' qu'il c'est je t'assure〕", "l'été qu'il c'est je t'assure"),
        ("〔le courage/ De, donc, de'gou^t !〕", "le courage/ De, donc, dégoût !"),
        ("｜〔Mise'rables〕《ミゼラブル》", "Misérables"),
        ("〔Unsyo^（阿蘇の峰名）〕", "Unsyô（阿蘇の峰名）"),
        (
            "〔悪魔は神の二重人格者である。〕〔遺稿〕〔plain text〕",
            "〔悪魔は神の二重人格者である。〕〔遺稿〕〔plain text〕",
        ),
        ("e'te' a`", "e'te' a`"),
    ],
)
def test_accents(raw, plain):
    assert aozora(raw) == plain


def test_repeat_marks():
    assert aozora("ます／＼、さま／″＼。Ａ／Ｂ＼Ｃ") == "ます〳〵、さま〴〵。Ａ／Ｂ＼Ｃ"


def test_line_ends_and_blank_lines():
    assert aozora("一\r\n\r\n［＃改ページ］\r\n\r\n\r\n　二　\r\n三\r\n") == "一\n\n　二　\n三"


MARKS = ["《", "》", "｜", "［＃", "］", "※［＃", "「", "」", "、", "1-86-22", "1-1-52"]
MARKS += ["［＃割り注］", "［＃割り注終わり］", "（", "）", "〔", "〕", "e'", "／＼", "\n", "　", "語", "か"]


@given(st.lists(st.sampled_from(MARKS), max_size=25).map("".join))
def test_a_second_pass_finds_nothing(raw):
    once = aozora(raw)
    if "1-1-52" not in raw:  # a 《 that the work itself prints cannot be told from ruby
        assert aozora(once) == once


# For each file what the reference lacks or leaves as typed, and what we read there, in the order of the text. The
# reference leaves out every character that is described in a note, and resolves neither accents nor repeat marks.
DIFFERENCES = {
    "15": " 匇",
    "16": " 匇 匇 眶",
    "17": " 彽 〔a`>à 〕> 礴 〔> a^>â 〕> 〔> e'>é u^>û 〕> 〔> e'>é 〕> 匇",
    "18": " 譃 譃 譃 譃 譃 譃 〔> o^>ô 〕>",
    "19": " 檞 檞 匇 揷 譃 譃 譃",
    "20": " ⦅ ⦆",
    "22": " ／＼>〳〵",
    "23": " 鱣 螭",
    "24": " 匀 匀 匀 匀",
    "26": " 弴 弴 〔> u:>ü 〕> 揷",
    "27": " 匇",
    "31": " 翛 娓 匇 簶 狺 眶",
    "32": " 惝怳",
    "36": " 譃 譃 譃 譃 譃",
    "37": " 礴 螭 尫",
    "38": " 〓 礴 螭 尫",
    "39": " 炷 匀 匀",
    "40": " 譃 譃 譃 匇 譃 鼹 鼹 〔> e`>è 〕> 鼹 眶",
    "41": " 匇",
    "48": " 匀 沅 沅 匀 饀 匀 匀 匀 匀 ／＼>〳〵 匀 匀",
    "50": " 扭 眶",
    "51": " 譃 弴",
}


def test_real_files_against_the_stripped_corpus(real_data):
    with gzip.open(real_data / "aozora.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = {row["meta"]["作品ID"]: row["text"] for row in map(json.loads, lines)}
    files = sorted((real_data / "aozora-raw").glob("*.txt"))
    assert len(files) == 40
    found = {}
    for file in files:
        work = file.name.partition("_")[0]
        ours = aozora(file.read_bytes().decode("cp932"))
        assert aozora(ours) == ours
        if ours != rows[work]:
            found[work] = differences(rows[work], ours)
    assert found == DIFFERENCES


def differences(reference: str, ours: str) -> str:
    """What is only in one of two texts of equal line count: ` new` where ours adds, ` old>new` where it replaces."""
    found = ""
    for old, new in zip(reference.split("\n"), ours.split("\n"), strict=True):
        if old != new:
            for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
                if kind != "equal":
                    found += f" {old[a:b]}>{new[c:d]}" if a < b else f" {new[c:d]}"
    return found
