"""Prove that a tokenizer gives the ids that SentencePiece gives, on strings that are likely to differ and on texts."""

from __future__ import annotations

import typing
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from jpllm.runtime import InputError
from jpllm.tokenizer.load import MODEL_FILE_NAME
from jpllm.tokenizer.pieces import without_surrogates

if typing.TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

NASTY_STRINGS = (
    *("", " ", "   ", "\u3000", "\n", "\n\n", "\t", "\r\n", "a\r\nb\r\n", "\n\n  a", "\tif x:\n\t\treturn"),
    *(" a", "a ", "  a  b  ", "\u3000吾輩は　猫。\n\u3000名前は\u3000無い。", "a\u3000 \u3000b", "a \n b"),
    *("\0", "a\0b", "\x01\x07\x1b[0m", "\x0b\x0c\x1c\x85", "\u2028a\u2029b", "\xa0a\xa0", "\u2003a\u2009b"),
    *("</s>", "<s>", "<unk>", "<pad>", "a</s>b", "はい。</s>", "</s></s>", "＜/ｓ＞", "＜ｐａｄ＞", "<unk", "</"),
    *("<0x0A>", "<0xE3><0x81><0x82>", "a<0x00>b", "＜０ｘ０Ａ＞", "<0x", "<mask>", "[CLS]", "<|endoftext|>"),
    *("👨‍👩‍👧‍👦", "👍🏽", "🇯🇵", "❤️", "𠮷野家で𩸽を𠮟る", "葛\U000e0100城市", "辻\ufe00", "\xad", "a\xadb"),
    *("ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ", "ｱｲｳｰ｡｢｣", "\uff9e", "か\u3099", "は\u309a", "\u3099", "\u309a", "゛゜", "e\u0301"),
    *("a\u0308\u0323", "\u0301", "´", "¨a", "㍿", "①②③", "ﷺ", "㋿", "㌔", "ﬁ", "½", "№", "ⅣⅷⅯ", "ＡＢＣ１２３"),
    *("（）！？：；～〜－―…‥", "“”‘’«»", "▁", "▁▁", "▁a▁", " ▁ a ▁ ", "a▁", "\u2585", "\ufffd", "\ufeffa"),
    *("\u200b", "a\u200bb", "\u200d", "\u2060", "\u202eabc\u202c", "שָׁלוֹם", "مُحَمَّد", "हिन्दी", "ไทย", "Привет"),
    *("\u1112\u1161\u11ab", "한글", "ㅎㅏㄴ", "Tiếng Việt", "\U0010ffff", "\ue000", "\ufdd0", "3.14", "1,000円"),
    *("https://example.com/a_b?q=%E3%81%82&x=1#y", "x_1 = y[0] * 2  # ﾒﾓ", "A" * 3000, "あ" * 1000, "―" * 7),
    *(" " * 50, "\u3000" * 50, "\n" * 50, "!?" * 200, "𠮷" * 100),
)

_FLOAT32_TOLERANCE = 1e-5
_MAX_SHOWN = 200
_BATCH_TEXTS = 1000


def verify(folder: Path, texts: Iterable[str]) -> int:
    """Return the number of texts, for all of which AutoTokenizer encodes and decodes as SentencePiece does.

    The tokenizer is loaded from the folder. Lone surrogates are taken out of the texts.

    Raises:
        InputError: the first text that differs, with both lists of ids.
    """
    from sentencepiece import SentencePieceProcessor
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    reference = SentencePieceProcessor(model_file=str(folder / MODEL_FILE_NAME))
    remaining = map(without_surrogates, texts)
    num_texts = 0
    while batch := list(islice(remaining, _BATCH_TEXTS)):
        encoded = tokenizer(batch, add_special_tokens=False)["input_ids"]
        if found := first_difference(reference, batch, encoded):
            raise InputError(f"{folder}: the tokenizer is not SentencePiece's: {found}")
        for text, ids in zip(batch, encoded, strict=True):
            decoded, expected = tokenizer.decode(ids), reference.decode(ids)
            if decoded != expected and reference.unk_id() not in ids:  # SentencePiece shows unknown as " ⁇ "
                raise InputError(f"{folder}: {text!r}: {ids} decode to {decoded!r}, SentencePiece: {expected!r}")
        num_texts += len(batch)
    return num_texts


def first_difference(
    reference: SentencePieceProcessor, texts: Sequence[str], encoded: Sequence[Sequence[int]]
) -> str | None:
    """Return the first text whose ids are not those of the reference, with both lists of ids; None if all are.

    The two harmless differences that the docstring of `jpllm.tokenizer.convert` names do not count.
    """
    has_nfkc = reference.normalize("①").endswith("1")
    for text, ids in zip(texts, encoded, strict=True):
        actual, expected = [int(index) for index in ids], reference.encode(text)
        if actual == expected or _is_tie(reference, actual, expected):
            continue
        sorted_marks = reference.encode(unicodedata.normalize("NFKC", text)) if has_nfkc else expected
        if actual != sorted_marks and not _is_tie(reference, actual, sorted_marks):
            return _shown_difference(text, actual, expected)
    return None


def _is_tie(reference: SentencePieceProcessor, ids: list[int], others: list[int]) -> bool:
    """Return whether both lists spell the same text with the same sum of scores, as far as 32 bits can tell."""
    if max(*ids, *others, 0) >= len(reference) or reference.decode(ids) != reference.decode(others):
        return False
    score, other_score = (sum(map(reference.get_score, one)) for one in (ids, others))
    return abs(score - other_score) <= _FLOAT32_TOLERANCE * abs(score)


def _shown_difference(text: str, actual: list[int], expected: list[int]) -> str:
    """Return the text and both lists of ids; of long lists a part that begins at the first difference."""
    begin = 0
    if max(len(actual), len(expected)) > _MAX_SHOWN:
        begin = next(i for i, (one, other) in enumerate(zip_longest(actual, expected)) if one != other)
    shown, shown_expected = (ids[begin : begin + _MAX_SHOWN] for ids in (actual, expected))
    where = f" from number {begin} on" if begin else ""
    excerpt = repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")
    return f"{excerpt} gives the ids{where} {shown}, SentencePiece {shown_expected}"
