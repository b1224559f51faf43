import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpllm.data.clean.characters import is_formula, symbols

PROSE = "これは長い文章で、記号の割合はとても小さい。" * 30


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今日は★楽しい♪一日♪。", "今日は 楽しい 一日。"),
        ("★★★ 特集 ★★★\n■本文はこちら。", "特集\n本文はこちら。"),
        ("東京→大阪。※注意", "東京 大阪。注意"),
        ("　■ 一つ目", "　一つ目"),
        ("☆彡", "彡"),
        ("-----★-----", "---"),
    ],
)
def test_too_many_symbols_are_removed(text, expected):
    assert symbols(text) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("評価は★★★★★です。", "評価は★★です。"),
        ("★☆★☆ 東京→→→大阪 ■一", "★☆★☆ 東京→→大阪 ■一"),
        ("----------\n＝＝＝＝＝＝＝＝\n────────", "---\n＝＝＝\n───"),
        ("###### 見出し", "###### 見出し"),
    ],
)
def test_few_symbols_are_only_shortened(line, expected):
    assert symbols(f"{PROSE}\n{line}") == f"{PROSE}\n{expected}"
    assert symbols(line, at_most=1) == expected


@pytest.mark.parametrize(
    "line",
    [
        "。、！？！！？？「『（…………）』」ーーー〜〜〜・・・――――",
        "一九○○年、○○さん、二〇〇〇円、××県、〓",
        "$x^2+3→5$",
        "f: A → B",
        "lim x→∞、ａ→ｂ",
        r"\alpha → \beta ★★★",
        "3 × 4 → 12",
        "y = f(x) ■",
        "△ABC ≡ △DEF、△PQRは正三角形",
        "∫ ■",
        "p ⇒ q ⇒ r",
        "x＝□□□□□□＝74□×？",
        "経常利益 ▲3.5％ △ 12",
        "┏━━━━━━━┓\n├───────┤\n+-------+\n|=======|",
    ],
)
def test_punctuation_and_formulas_stay(line):
    assert symbols(line) == line
    assert symbols(f"★★★★★\n{line}") == f"\n{line}"


def test_the_share_decides():
    text = "★" + "あ" * 48 + " \n　"
    assert symbols(text, at_most=0.02) == "あ" * 48 + " \n　"
    assert symbols("あ" + text, at_most=0.02) == "あ" + text


@pytest.mark.parametrize("line", ["2+3", "ｘ≦１", r"\frac", "$x$", "√2", "f(x) = g(x)"])
def test_formulas(line):
    assert is_formula(line)


@pytest.mark.parametrize("line", ["価格は$5", "東京→大阪", "090-1234-5678", "Ａ★Ｂ", "△印", "C++ と C#", "50%→30%"])
def test_what_is_no_formula(line):
    assert not is_formula(line)


@given(
    st.lists(st.sampled_from([*"★☆■→⇒※♪-=$\\+|xA3)△あ漢。 　\n", "------", "★★★"])).map("".join),
    st.sampled_from([0, 0.02, 0.5, 1]),
)
def test_a_second_pass_changes_nothing(text, at_most):
    once = symbols(text, at_most)
    assert symbols(once, at_most) == once
