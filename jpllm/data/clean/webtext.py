"""Remove the lines of a web page that belong to the site and not to its text."""

from __future__ import annotations

import re

MENU_LINES = 5  # as many short lines without a sentence in a row are a menu
MENU_CHARACTERS = 15  # a longer line is no entry of a menu
LONGEST_LINE_CHARACTERS = 200  # a longer line is text

# A line of these words alone, with numbers and separators, is no text.
_SITE_WORDS = """
    ホーム, トップ, トップページ, メニュー, 検索, サイト内検索, サイトマップ, ナビゲーション, ログイン, ログアウト,
    新規登録, 会員登録, 無料会員登録, マイページ, お問い合わせ, お問合せ, お問合わせ, 問い合わせ, 会社概要, 会社案内,
    運営会社, 運営者情報, プライバシーポリシー, 個人情報保護方針, 個人情報の取り扱い, 利用規約, ご利用規約,
    特定商取引法に基づく表記, 免責事項, サイトポリシー, ご利用ガイド, よくある質問, よくあるご質問, ヘルプ, カート,
    カートを見る, カートに入れる, 買い物かご, お気に入り, お気に入りに追加, 前へ, 次へ, 前のページ, 次のページ,
    前のページへ, 次のページへ, 前の記事, 次の記事, 前の記事へ, 次の記事へ, 前ページ, 次ページ, 最初, 最後, 最初へ,
    最後へ, 最初のページ, 最後のページ, 戻る, 進む, 一覧へ, 一覧に戻る, 一覧へ戻る, 記事一覧, トップへ戻る,
    トップに戻る, ページトップ, ページトップへ, ページトップへ戻る, ページの先頭へ, ページ上部へ戻る, 上へ戻る,
    もっと見る, すべて見る, 続きを読む, 続きを見る, 詳細を見る, 詳しくはこちら, 閉じる, コンテンツへスキップ,
    本文へスキップ, 本文へ移動, メインコンテンツへスキップ, 関連記事, 人気記事, おすすめ記事, 最近の記事, 最近の投稿,
    最新記事, 新着記事, 最近のコメント, 人気ランキング, ランキング, カテゴリ, カテゴリー, アーカイブ, 月別アーカイブ,
    タグ, コメント, コメントする, コメントを書く, コメントを残す, コメントを投稿, この記事へのコメント, トラックバック,
    シェア, シェアする, 共有, 共有する, ツイート, ツイートする, ポスト, ポストする, いいね, いいね!, フォロー,
    フォローする, はてな, はてブ, はてなブックマーク, はてなブックマークに追加, Facebookでシェア, Xでシェア,
    Twitterでシェア, Twitterで共有, Facebookで共有, LINEで送る, この記事をシェア, この記事をシェアする,
    この記事をツイート, リンクをコピー, URLをコピー, ブックマーク, 印刷, 印刷する, メールで送る, 広告,
    スポンサーリンク, スポンサードリンク, この広告について, 同意する, 許可する, すべて許可, すべて拒否, 拒否する,
    ページ, 件, 件中,
    home, top, menu, search, sitemap, navigation, login, log in, logout, log out, sign in, sign up, register,
    my account, contact, contact us, about, about us, privacy, privacy policy, terms, terms of use, terms of service,
    help, faq, cart, add to cart, prev, previous, next, first, last, newer, older, previous post, next post,
    back to top, page top, read more, see more, view all, more, close, skip to content, skip to main content,
    related posts, related articles, recent posts, recent comments, archives, categories, category, tags, comments,
    leave a comment, leave a reply, share, share this, share on facebook, share on twitter, share on x, tweet, like,
    follow, follow us, facebook, twitter, instagram, youtube, line, pocket, pinterest, rss, feedly, linkedin,
    tumblr, copy link, print, sponsored, sponsored links, advertisement, ads, ad, pr, accept, accept all, reject all,
    page
"""
_GAP = r"(?:[\s\d|｜/／・>＞»›<＜«‹≫≪,、:：…\[\]【】)（）\-–—▲△▼▶◀→←↑●■◆*!！]|(?<![A-Za-z])\()"  # close() is code
_WORDS = "|".join(sorted(map(re.escape, re.split(r",\s+", _SITE_WORDS.strip())), key=len, reverse=True))
_ONLY_SITE_WORDS = re.compile(rf"(?:{_GAP}|(?:{_WORDS})(?={_GAP}|\Z))+", re.I)

_NOTICE = re.compile(
    r"©|(?:copyright|(?:\A|\s)\(c\))\s*:?\s*(?:\(c\)\s*)?(?:19|20)\d\d(?![\d年])|\Acopyright\b.*\b(?:inc|ltd|llc)\b"
    r"|all rights? reserved|無断.{0,40}[をはの](?:固く)?(?:禁じ(?:ます|ております)|禁止(?:[しい]\w*)?|お断り.*)。?\Z"
    r"|(?:cookie|クッキー).{0,60}(?:に同意(?:し|する|いただ|の上|された)|を(?:許可|拒否|受け入れ)(?:する|します)?。?\Z)"
    r"|(?:サイト|サービス|ページ).{0,30}(?:cookie|クッキー).{0,15}(?:使用|利用)して(?:います|おります)"
    r"|(?:this|our) (?:web)?site uses cookies|we use cookies|(?:accept|reject|allow|manage)(?: all)? cookies",
    re.I,
)
_CRUMB = re.compile(r"\s*[>＞»›≫]\s*")
_NO_CRUMBS = dict.fromkeys(map(ord, ">＞»›≫"))
_SENTENCE_MARK = re.compile(r"[。．！？!?…」』，、,;；]|\.(?:\s|\Z)")
_CODE_MARK = re.compile(r"[=＝<>{}$\\^+]")


def web_lines(text: str) -> str:
    """Drop the lines of a page that are navigation, advertising, share buttons, cookie or copyright notices.

    A line goes if it has only words of site navigation, in Japanese or English (ログイン, 次へ, Share), is a notice, or
    is a path of short names (ホーム > 本 > 小説). So do 5 or more lines in a row with at most 15 characters and no
    sentence mark: a menu. Poems and lists look the same, so keep this rule to web pages. Sentences that mention such
    words, lines over 200 characters, and short lines of code, formulas or numbers stay.
    """
    lines = [line for line in text.split("\n") if not _is_site_line(line.strip())]
    kept: list[str] = []
    run: list[str] = []  # blank lines do not end a menu
    for line in [*lines, None]:
        if line is not None and (not line.strip() or _could_be_menu(line.strip())):
            run.append(line)
            continue
        num_entries = sum(1 for entry in run if entry.strip())
        kept += run if num_entries < MENU_LINES else [entry for entry in run if not entry.strip()]
        run = []
        if line is not None:
            kept.append(line)
    return "\n".join(kept)


def _is_site_line(line: str) -> bool:
    if not line or len(line) > LONGEST_LINE_CHARACTERS:
        return False
    if _ONLY_SITE_WORDS.fullmatch(line):
        return any(character.isalpha() for character in line)
    return _NOTICE.search(line) is not None or _is_path(line)


def _is_path(line: str) -> bool:
    """Return whether a line leads through a site: `本 > 小説 > 短編`, or two names, first that of the home page."""
    names = _CRUMB.split(line)
    if len(names) < 2 or _SENTENCE_MARK.search(line) or _CODE_MARK.search(line.translate(_NO_CRUMBS)):
        return False
    from_home = _ONLY_SITE_WORDS.fullmatch(names[0]) is not None and any(map(str.isalpha, names[0]))
    in_words = all(len(name) <= 30 and any(character >= "ぁ" for character in name) for name in names)
    return from_home or (len(names) >= 3 and in_words)


def _could_be_menu(line: str) -> bool:
    """Return whether a line is short, with letters, and neither part of a sentence nor code, a formula or a number."""
    return (
        len(line) <= MENU_CHARACTERS
        and any(character.isalpha() for character in line)
        and not _SENTENCE_MARK.search(line)
        and not _CODE_MARK.search(line)
    )
