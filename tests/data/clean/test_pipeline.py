import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpllm.config.parse import ConfigError, parse
from jpllm.config.settings import option, to_yaml
from jpllm.data.clean.pipeline import BLANK, RULES, Cleaned, CleanRule, Step, clean, steps, thresholds

SENTENCE = "吾輩は猫である。名前はまだ無い。どこで生れたか。"


@dataclass
class Config:
    """Test"""

    rules: list[CleanRule] = option(default_factory=list, help="Rules.")


def read(tmp_path, text: str) -> list[CleanRule]:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    (config,) = parse([Config], ["--config", str(file)], prog="test", description="Test.")
    return config.rules


def test_rules_in_yaml(tmp_path):
    entries = "[aozora, whitespace, {rule: japanese_share, at_least: 0.3}, {rule: length, at_most: 99}]"
    rules = read(tmp_path, f"rules: {entries}")
    assert rules == [
        CleanRule("aozora"),
        CleanRule("whitespace"),
        CleanRule("japanese_share", at_least=0.3),
        CleanRule("length", at_most=99),
    ]
    assert read(tmp_path, to_yaml([Config(rules)])) == rules


@pytest.mark.parametrize(
    ("entry", "key", "message"),
    [
        ("japanes_share", "rule", "no cleaning rule is called 'japanes_share'; did you mean 'japanese_share'?"),
        ("xyz", "rule", "no cleaning rule is called 'xyz'; the rules are control_characters, aozora, "),
        ("{rule: nfkc, at_most: 1}", "at_most", "nfkc takes no thresholds; remove at_most"),
        ("{rule: repetition, at_least: 0.1}", "at_least", "repetition takes only at_most; remove at_least"),
        (
            "{rule: japanese_share, at_least: 30}",
            "at_least",
            "30 is no share; write a number from 0 to 1",
        ),
        (
            "{rule: length, at_least: 9, at_most: 8}",
            "at_least",
            "every document would be dropped: at_least is 9, at_most 8",
        ),
        ("{rule: length, at_most: 8}", "at_most", "every document would be dropped: at_least is 20, at_most 8"),
        ("{rule: symbols, at_most: -1}", "at_most", "must be at least 0, not -1"),
    ],
)
def test_mistakes_in_yaml_name_the_line(tmp_path, entry, key, message):
    with pytest.raises(ConfigError, match=rf"config.yaml:2: rules\[0\].{key}: {re.escape(message)}"):
        read(tmp_path, f"rules:\n  - {entry}\n")


def test_steps_show_what_each_rule_did():
    text = f"{SENTENCE}\u200b \n"
    rules = [
        CleanRule("control_characters"),
        CleanRule("nfkc"),
        CleanRule("whitespace"),
        CleanRule("length", at_least=25),
    ]
    assert list(steps(text, rules)) == [
        Step("control_characters", text, f"{SENTENCE} \n"),
        Step("nfkc", f"{SENTENCE} \n", f"{SENTENCE} \n"),
        Step("whitespace", f"{SENTENCE} \n", SENTENCE),
        Step("length", SENTENCE, None, "24 characters, below 25"),
    ]
    assert clean(text, rules) == Cleaned(None, "length", "24 characters, below 25")
    assert clean(text, rules[:3]) == Cleaned(SENTENCE)


def test_nothing_follows_a_drop():
    rules = [CleanRule("japanese_share"), CleanRule("length")]
    assert list(steps("abc", rules)) == [Step("japanese_share", "abc", None, "0 % Japanese, below 30 %")]


def test_a_document_that_a_rule_leaves_blank_is_dropped():
    rules = [CleanRule("wikipedia"), CleanRule("whitespace")]
    assert clean("#REDIRECT [[猫]]", rules) == Cleaned(None, "wikipedia", "blank after cleaning")


@pytest.mark.parametrize("text", ["", " \n　"])
def test_a_blank_document_is_dropped_by_no_rule(text):
    assert clean(text, []) == clean(text, [CleanRule("length")]) == Cleaned(None, BLANK, "blank document")


def test_without_rules_a_text_stays():
    assert clean(" 一\r\n", []) == Cleaned(" 一\r\n")


def test_every_rule_has_a_name_a_description_and_thresholds():
    for name, rule in RULES.items():
        assert name == rule.__name__
        assert rule.__doc__.splitlines()[0]
    assert {name: limits for name in RULES if (limits := thresholds(name))} == {
        "symbols": {"at_most": 0.02},
        "japanese_share": {"at_least": 0.3},
        "repetition": {"at_most": 0.3},
        "length": {"at_least": 20, "at_most": None},
    }


ABOUT_CHARACTERS = [CleanRule(name) for name in ("control_characters", "nfkc", "symbols", "whitespace")]
PARTS = ["猫である。", "★", "→", "\n", "　", "  ", "\t", "ｶﾞ", "①", "\u200b", "\r", "x = 1", "------------", "…", "\xa0"]


@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_rules_in_a_row_find_nothing_in_a_second_pass(text):
    once = clean(text, ABOUT_CHARACTERS).text
    if once is not None:
        assert clean(once, ABOUT_CHARACTERS) == Cleaned(once)


def test_ordinary_prose_is_untouched():
    text = f"　{SENTENCE}\n\n「にゃあ」と云う。\n　{SENTENCE[::-1]}。"
    rules = [CleanRule(name) for name in RULES if name != "aozora"]  # which takes the indent of the first line
    assert clean(text, rules) == Cleaned(text)
