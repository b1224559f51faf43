import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpllm.data.clean.characters import control_characters, nfkc, whitespace

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n\r\t 　\u200b\u200d\ufe0f❤👨漢か\xa0"))
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("一\r\n二\r三\x0b四\x0c五\x85六\u2028七\u2029八", "一\n二\n三\n四\n五\n六\n七\n八"),
        ("\ufeff一\x00二\x1b三\x7f四\x9f五\tタブ\n", "一二三四五\tタブ\n"),
        ("ゼロ\u200b幅\u200c、共\xad有\u2060、\u200e左\u202eか\u2066ら\ufffc", "ゼロ幅、共有、左から"),
        ("普通の文。　一行　全角\n\n", "普通の文。　一行　全角\n\n"),
        ("家族👨‍👩‍👧、心❤️‍🔥、女性🏃🏽‍♀️。", "家族👨‍👩‍👧、心❤️‍🔥、女性🏃🏽‍♀️。"),
        ("1️⃣、☺︎、旗🏴\U000e0067\U000e0062\U000e007f", "1️⃣、☺︎、旗🏴\U000e0067\U000e0062\U000e007f"),
        ("葛\U000e0100城市、辻\ufe00、≨\ufe00", "葛\U000e0100城市、辻\ufe00、≨\ufe00"),
        ("か\u200d\ufe0fな\U000e0100と\ufe00\u200d👨\u200d。\U000e0061", "かなと👨。"),
        ("\u200d\ufe0f文", "文"),
        ("漢\U000e0100\U000e0101", "漢\U000e0100"),
    ],
)
def test_control_characters(text, expected):
    assert control_characters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("　字下げの段落。　 \t\n次の行\u3000\n", "　字下げの段落。\n次の行"),
        ("一\n\n二\n \n　\n\n三", "一\n\n二\n\n三"),
        ("\n\n　　　　一\n", "　　　　一"),
        ("a   b\xa0\xa0c  　d", "a b c 　d"),
        ("def f():\n    return  1", "def f():\n    return 1"),
        ("列\t列\t\t列　　　×　　　×", "列\t列\t\t列　　　×　　　×"),
        (" \n　\n", ""),
    ],
)
def test_whitespace(text, expected):
    assert whitespace(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｐｙｔｈｏｎ３　ｶﾞｷﾞ ㌔①", "Python3　ガギ キロ1"),
        ("　字下げ。「かぎ」", "　字下げ。「かぎ」"),
        ("か\u3099", "が"),
    ],
)
def test_nfkc(text, expected):
    assert nfkc(text) == expected


@pytest.mark.parametrize("rule", [control_characters, whitespace, nfkc])
@given(text=TEXTS)
def test_a_second_pass_changes_nothing(rule, text):
    once = rule(text)
    assert rule(once) == once


@given(text=TEXTS)
def test_visible_characters_stay(text):
    def visible(text):
        return [character for character in text if character.isalnum()]

    assert visible(control_characters(text)) == visible(text) == visible(whitespace(text))
