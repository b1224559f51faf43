"""Forms of verbs, adjectives and nouns, polite and plain."""

from __future__ import annotations

import pytest

from jpllm.data.grammar.inflection import inflect

FORMS = [
    ("行く", "て", "行って"),
    ("行く", "た", "行った"),
    ("書く", "なかった", "書かなかった"),
    ("書く", "て", "書いて"),
    ("泳ぐ", "た", "泳いだ"),
    ("話す", "ます", "話します"),
    ("話す", "て", "話して"),
    ("待つ", "て", "待って"),
    ("死ぬ", "て", "死んで"),
    ("遊ぶ", "た", "遊んだ"),
    ("飲む", "ています", "飲んでいます"),
    ("帰る", "ない", "帰らない"),
    ("帰る", "た", "帰った"),
    ("買う", "ない", "買わない"),
    ("食べ+る", "て", "食べて"),
    ("食べ+る", "ませんでした", "食べませんでした"),
    ("来る", "なかった", "来なかった"),
    ("来る", "ました", "来ました"),
    ("戻ってくる", "ました", "戻ってきました"),
    ("戻ってくる", "ない", "戻ってこない"),
    ("勉強する", "ない", "勉強しない"),
    ("勉強する", "ていました", "勉強していました"),
    ("ある", "ない", "ない"),
    ("木がある", "なかった", "木がなかった"),
    ("ある", "ませんでした", "ありませんでした"),
    ("いい", "た", "よかった"),
    ("いい", "ない", "よくない"),
    ("かわいい", "た", "かわいかった"),
    ("高い", "ました", "高かったです"),
    ("高い", "て", "高くて"),
    ("高い", "ません", "高くありません"),
    ("時間がない", "ました", "時間がありませんでした"),
    ("静かな", "た", "静かだった"),
    ("静かな", "連体", "静かな"),
    ("静かな", "ませんでした", "静かではありませんでした"),
    ("学生だ", "ない", "学生ではない"),
    ("学生だ", "連体", "学生の"),
    ("学生だ", "でしょう", "学生でしょう"),
    ("学生だ", "ていました", "学生でした"),
]


@pytest.mark.parametrize(("word", "form", "expected"), FORMS)
def test_inflect(word: str, form: str, expected: str) -> None:
    assert inflect(word, form, polite=True) == expected


@pytest.mark.parametrize(
    ("word", "form", "expected"),
    [
        ("話す", "ます", "話す"),
        ("高い", "ました", "高かった"),
        ("静かな", "ません", "静かではない"),
        ("行く", "ていました", "行っていた"),
        ("行く", "ていません", "行っていない"),
        ("高い", "でしょう", "高いだろう"),
    ],
)
def test_a_polite_form_is_plain_in_a_plain_document(word: str, form: str, expected: str) -> None:
    assert inflect(word, form, polite=False) == expected


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(KeyError):
        inflect("書く", "命令")
