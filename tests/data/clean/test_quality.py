import pytest

from jpllm.data.clean.quality import Drop, japanese_share, length, repeated_share, repetition

# 100 different characters, so that nothing in it repeats.
UNIQUE = "".join(chr(0x4E00 + number) for number in range(100))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("かなカナｶﾅ漢字々〆〇〳〵ー𠮷ヶ", None),
        ("日本語 English", None),  # 3 of 10
        ("日本語 Englishs", "27 % Japanese, below 30 %"),
        ("Only English, and 。「」！・", "0 % Japanese, below 30 %"),
        ("あ" * 2996 + "a" * 7004, "29.96 % Japanese, below 30 %"),
        ("あ\n\n\n　　　　\t", None),
        ("𠮷" * 3 + "🍺" * 7, None),
        ("𠮷" * 2 + "🍺" * 8, "20 % Japanese, below 30 %"),
        ("　 \n", "0 % Japanese, below 30 %"),
    ],
)
def test_japanese_share(text, reason):
    assert japanese_share(text) == (Drop(reason) if reason else text)


def test_japanese_share_with_another_threshold():
    assert japanese_share("日本語 English", at_least=0.5) == Drop("30 % Japanese, below 50 %")
    assert japanese_share("English", at_least=0) == "English"


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        (UNIQUE, 0),
        (UNIQUE[:16] + UNIQUE[:15], 0),
        (UNIQUE[:16] * 2, 1),
        (UNIQUE + "　\n " + UNIQUE[:20], 40 / 120),
        (UNIQUE + UNIQUE[10:30] + UNIQUE[50:66], (20 + 16) * 2 / 136),
        ("笑" * 17, 1),
        ("一行\n" * 3 + "二行目である\n\n\n", 6 / 12),
        (f"一行\n{UNIQUE[:96]}\n一行", 4 / 100),
        ("🍺" * 8 + "あ" * 8 + "🍺" * 8 + "あ" * 8, 1),
    ],
)
def test_repeated_share(text, share):
    assert repeated_share(text) == pytest.approx(share, abs=1e-12)


def test_repetition():
    assert repetition(UNIQUE) == UNIQUE
    assert repetition(UNIQUE + UNIQUE[:20]) == Drop("33 % repeated, above 30 %")
    assert repetition(UNIQUE + UNIQUE[:20], at_most=0.4) == UNIQUE + UNIQUE[:20]
    assert repetition("買う\n" * 50) == Drop("100 % repeated, above 30 %")


@pytest.mark.parametrize(
    ("num_characters", "limits", "reason"),
    [
        (19, {}, "19 characters, below 20"),
        (20, {}, None),
        (10**6, {}, None),
        (1001, {"at_most": 1000}, "1,001 characters, above 1,000"),
        (1000, {"at_least": 1000, "at_most": 1000}, None),
        (1, {"at_least": 0}, None),
    ],
)
def test_length(num_characters, limits, reason):
    text = "字" * num_characters
    assert length(text, **limits) == (Drop(reason) if reason else text)
