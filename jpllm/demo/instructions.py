"""Write instructions with their answers: calculations, questions, and changes of a sentence."""

from __future__ import annotations

import random

from jpllm.demo.arithmetic import calculation, problem
from jpllm.demo.inflection import inflect
from jpllm.demo.scene import between, choose, new_scene
from jpllm.demo.stories import question
from jpllm.demo.tables import word_table

_REWRITINGS = (  # instruction, form given, form wanted
    ("次の文をていねいな形に書きかえてください。", "る", "ます"),
    ("次の文をていねいな形に書きかえてください。", "た", "ました"),
    ("次の文をふつうの形（です・ますを使わない形）に書きかえてください。", "ます", "る"),
    ("次の文をふつうの形（です・ますを使わない形）に書きかえてください。", "ました", "た"),
    ("次の文を過去の文に書きかえてください。", "ます", "ました"),
    ("次の文を過去の文に書きかえてください。", "る", "た"),
    ("次の文を打ち消しの文に書きかえてください。", "ます", "ません"),
    ("次の文を打ち消しの文に書きかえてください。", "た", "なかった"),
)


def instruction(rng: random.Random) -> tuple[str, str, str]:
    """Return an instruction, its input ("" where there is none) and the answer."""
    makers = (_calculate, _calculate, _solve_problem, _answer, _rewrite, _extract, _join, _count)
    return choose(rng, makers)(rng)


def _calculate(rng: random.Random) -> tuple[str, str, str]:
    asked, answer = calculation(rng)
    return asked, "", answer


def _solve_problem(rng: random.Random) -> tuple[str, str, str]:
    return "次の問題を解いてください。", *problem(rng, polite=True)


def _answer(rng: random.Random) -> tuple[str, str, str]:
    asked, answer = question(rng)
    return asked, "", answer


def _clause(rng: random.Random) -> tuple[str, str, str]:
    """Return (who, where, what) of a sentence: 田中さん, 公園, 散歩をする."""
    scene = new_scene(rng)
    scene.bind("spot,deed=places")
    return scene.words["who"], scene.words["spot"], scene.words["deed"]


def _rewrite(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    asked, given, wanted = choose(rng, _REWRITINGS)
    start = f"{who}は{where}で"
    return asked, f"{start}{inflect(what, given, True)}。", f"{start}{inflect(what, wanted, True)}。"


def _extract(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    when = choose(rng, ("きのう", "日曜日に", "朝早く", "昼過ぎに", "先週", "久しぶりに"))
    asked, answer = choose(
        rng,
        (
            ("次の文の主語になっている人はだれですか。", f"{who}です。"),
            ("次の文で、行われた場所はどこですか。", f"{where}です。"),
            ("次の文で、だれが何をしましたか。", f"{who}が{inflect(what, 'ました', True)}。"),
        ),
    )
    return asked, f"{who}は{when}{where}で{inflect(what, 'ました', True)}。", answer


def _join(rng: random.Random) -> tuple[str, str, str]:
    who, where, what = _clause(rng)
    other = choose(rng, ("弁当を食べ+る", "電話をかけ+る", "友だちに会う", "お茶を飲む", "写真をとる"))
    given = f"{who}は{where}で{inflect(what, 'ました', True)}。それから、{inflect(other, 'ました', True)}。"
    joined = f"{who}は{where}で{inflect(what, 'て')}、{inflect(other, 'ました', True)}。"
    return "次の二つの文を一つの文にまとめてください。", given, joined


def _count(rng: random.Random) -> tuple[str, str, str]:
    item, counter = choose(rng, word_table()["carry"]).split(":")
    number = between(rng, 2, 9)
    return f"{item}が{number}あるとき、数え方を表す言葉をつけるとどうなりますか。", "", f"{number}{counter}です。"
