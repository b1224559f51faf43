"""Inflect Japanese verbs, adjectives and nouns.

Words that inflect are written in dictionary form: `食べ+る` (ichidan, the mark stands before る), `書く`
(godan), `勉強する` and `来る` (irregular), `高い` (i-adjective), `静かな` (na-adjective), `学生だ` (noun).
"""

from __future__ import annotations

# Final kana of a godan verb: its a and i rows, the te form and the past form.
_GODAN_ROWS = {
    "う": ("わ", "い", "って", "った"),
    "く": ("か", "き", "いて", "いた"),
    "ぐ": ("が", "ぎ", "いで", "いだ"),
    "す": ("さ", "し", "して", "した"),
    "つ": ("た", "ち", "って", "った"),
    "ぬ": ("な", "に", "んで", "んだ"),
    "ぶ": ("ば", "び", "んで", "んだ"),
    "む": ("ま", "み", "んで", "んだ"),
    "る": ("ら", "り", "って", "った"),
}

_PLAIN_FORMS = {"ます": "る", "ました": "た", "ません": "ない", "ませんでした": "なかった", "でしょう": "だろう"}


def inflect(word: str, form: str, polite: bool = False) -> str:
    """Return `word` (a word or a phrase that ends in one, in the notation above) in the form `form`.

    `form` is one of `る た ない なかった て 連体 だろう`, which are plain whatever `polite` says, or of `ます ました
    ません ませんでした でしょう`, which become plain where `polite` is false. After てい they are progressive, as in
    `ています`; an adjective or a noun takes the ending alone. An unknown form raises `KeyError`.
    """
    ending = form.removeprefix("てい")
    if not polite:
        ending = _PLAIN_FORMS.get(ending, ending)
    if word.endswith(("な", "だ")):
        return _inflect_nominal(word, ending)
    if word.endswith("い"):
        return _inflect_adjective(word, ending)
    if form.startswith("てい"):
        word = _inflect_verb(word, "て") + "い+る"
    return _inflect_verb(word, ending)


def _verb_rows(verb: str) -> tuple[str, tuple[str, str, str, str]]:
    """Return the part of `verb` that never changes and its four endings, as in `_GODAN_ROWS`."""
    if "+" in verb:
        return verb.replace("+", "")[:-1], ("", "", "て", "た")
    if verb.endswith("する"):
        return verb[:-2], ("し", "し", "して", "した")
    if verb.endswith("来る"):
        return verb[:-1], ("", "", "て", "た")
    if verb == "くる" or verb.endswith(("てくる", "でくる")):
        return verb[:-2], ("こ", "き", "きて", "きた")
    if verb == "いく" or verb.endswith(("行く", "ていく", "でいく")):
        return verb[:-1], ("か", "き", "って", "った")
    return verb[:-1], _GODAN_ROWS[verb[-1]]


def _inflect_verb(verb: str, form: str) -> str:
    stem, (a_row, i_row, te_form, past) = _verb_rows(verb)
    # The negative of ある is an adjective of its own.
    negative = stem[:-1] if verb == "ある" or verb.endswith(("がある", "もある", "はある")) else stem + a_row
    dictionary = verb.replace("+", "")
    return {
        "る": dictionary,
        "連体": dictionary,
        "た": stem + past,
        "ない": negative + "ない",
        "なかった": negative + "なかった",
        "て": stem + te_form,
        "だろう": dictionary + "だろう",
        "ます": stem + i_row + "ます",
        "ました": stem + i_row + "ました",
        "ません": stem + i_row + "ません",
        "ませんでした": stem + i_row + "ませんでした",
        "でしょう": dictionary + "でしょう",
    }[form]


def _inflect_adjective(adjective: str, form: str) -> str:
    stem = adjective[:-1]
    if adjective.endswith("いい") and not adjective.endswith("わいい"):
        stem = adjective[:-2] + "よ"
    polite, polite_past = adjective + "です", stem + "かったです"
    if adjective.endswith(("がない", "もない", "はない")):
        polite, polite_past = adjective[:-2] + "ありません", adjective[:-2] + "ありませんでした"
    return {
        "る": adjective,
        "連体": adjective,
        "た": stem + "かった",
        "ない": stem + "くない",
        "なかった": stem + "くなかった",
        "て": stem + "くて",
        "だろう": adjective + "だろう",
        "ます": polite,
        "ました": polite_past,
        "ません": stem + "くありません",
        "ませんでした": stem + "くありませんでした",
        "でしょう": adjective + "でしょう",
    }[form]


def _inflect_nominal(word: str, form: str) -> str:
    stem = word[:-1]
    return {
        "る": stem + "だ",
        "連体": stem + ("な" if word.endswith("な") else "の"),
        "た": stem + "だった",
        "ない": stem + "ではない",
        "なかった": stem + "ではなかった",
        "て": stem + "で",
        "だろう": stem + "だろう",
        "ます": stem + "です",
        "ました": stem + "でした",
        "ません": stem + "ではありません",
        "ませんでした": stem + "ではありませんでした",
        "でしょう": stem + "でしょう",
    }[form]
