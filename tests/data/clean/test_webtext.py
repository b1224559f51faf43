import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpllm.data.clean.webtext import web_lines


@pytest.mark.parametrize(
    "line",
    [
        *("ログイン", "ホーム | お問い合わせ | サイトマップ", "Home / About us / Contact", "メニュー ▼", "[検索]"),
        *(
            "« 前へ 1 2 3 … 10 次へ »",
            "次のページ＞",
            "1/10 ページ",
            "Previous | Next",
            "ページトップへ戻る",
            "続きを読む…",
        ),
        *(
            "シェア Facebook 12 LINEで送る はてなブックマーク",
            "Tweet",
            "この記事をシェアする",
            "コメント（3）",
            "Read more »",
        ),
        *("スポンサーリンク", "広告", "Advertisement", "[PR]", "コンテンツへスキップ", "関連記事"),
        *("ホーム > 本 > 小説", "トップページ » ブログ", "本 ＞ 日本の小説 ＞ 短編", "Home > Books"),
        *("© 2020 Foo Inc.", "Copyright (C) 2005-2020 Foo", "(c) 2020 Foo", "Foo All Rights Reserved."),
        *("記事の無断転載を禁じます。", "本サイトの画像の無断使用は固くお断りします。", "無断複製・転載の禁止"),
        *("当サイトではCookieを使用しています。続けて閲覧するとCookieの使用に同意したものとみなされます。",),
        *("クッキーに同意する", "We use cookies to improve your experience.", "Accept all cookies"),
    ],
)
def test_lines_of_the_site_go(line):
    assert web_lines(f"本文です。\n　{line} \n続きです。") == "本文です。\n続きです。"


@pytest.mark.parametrize(
    "line",
    [
        *("", "見出し", "検索エンジンの使い方", "次へ進むと、駅がある。", "1 2 3", "10", "---"),
        *("Cookieという菓子を焼いた。", "このサイトの話をする。", "広告の歴史", "Home sweet home"),
        *(
            "コメントに同意する人が多い。",
            "無断転載の歴史は長い。",
            "(c) 2010年の売上",
            "Copyright law changed in 1976.",
        ),
        *("a > b > c", "x > 0", "東京 > 大阪。", "3 > 2 > 1", "close()", "print(1)", "x = 1", "f: A → B"),
        "あ" * 190 + " © 2020 Foo",
    ],
)
def test_lines_of_the_text_stay(line):
    assert web_lines(f"本文です。\n{line}\n続きです。") == f"本文です。\n{line}\n続きです。"


MENU = ["日本文学", "海外文学（12）", "詩集", "New books", "2023年5月"]


def test_short_lines_in_a_row_are_a_menu():
    assert web_lines("\n".join(["本文です。", *MENU, "続きです。"])) == "本文です。\n続きです。"
    assert web_lines("\n\n".join(MENU)) == "\n\n\n"
    assert web_lines("\n".join([*MENU[:3], "ログイン", *MENU[3:], "続きです。"])) == "続きです。"


@pytest.mark.parametrize(
    "lines",
    [
        MENU[:4],
        [*MENU[:4], "ここで一文が終わる。", *MENU[:4]],
        ["「はい」", "「いいえ」", "「なぜ」", "「さあ」", "「行こう」"],
        ["x = 1", "y = 2", "$a$", "if (x) {", "}", "<b>"],
        ["1", "2", "3", "4", "5", "6"],
        ["十五字より長い行はもうメニューの項目ではない"] * 6,
    ],
)
def test_what_is_no_menu_stays(lines):
    assert web_lines("\n".join(lines)) == "\n".join(lines)


PARTS = ["ログイン", "次へ", "詩集", "本 > 小説 > 短編", "© 2020", "これは文章です。", "x = 1", "12", " ", "\n", "\n\n"]


@given(st.lists(st.sampled_from(PARTS), max_size=30).map("".join))
def test_a_second_pass_changes_nothing(text):
    once = web_lines(text)
    assert web_lines(once) == once
