"""The report: each measure against a count by hand, and the list of Jōyō kanji."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.tokenizer.load import load
from jpllm.tokenizer.pieces import CHARACTER_OF_BYTE, JOYO_KANJI, byte_piece_ids, is_japanese, piece_bytes
from jpllm.tokenizer.report import WHITE_SPACE, describe, markdown_table, rows, sample, show
from jpllm.tokenizer.train import TokenizerConfig, train_and_export


def byte_level(folder: Path, words: list[str]) -> PreTrainedTokenizerFast:
    """256 bytes and the words, each made by merging its bytes from the left; end of text last."""
    vocabulary = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}
    merges = []
    for word in words:
        spelled = "".join(CHARACTER_OF_BYTE[byte] for byte in word.encode())
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in vocabulary:
                vocabulary[spelled[:end]] = len(vocabulary)
                merges.append((spelled[: end - 1], spelled[end - 1]))
    vocabulary["<|end|>"] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>").save_pretrained(folder)
    return load(folder)


@pytest.fixture
def described(tmp_path: Path) -> dict:
    tokenizer = byte_level(tmp_path, ["山", "山。", "20", "202", "――――", "a\n"])
    return describe(tokenizer, str(tmp_path), ["山。山川", "202", "<|end|>"])


def test_lengths_by_hand(described: dict) -> None:
    # 山。 | 山 | three bytes of 川; 202; seven ASCII characters
    assert described["tokens"] == 5 + 1 + 7
    assert described["characters per token"] == pytest.approx((4 + 3 + 7) / 13)
    assert described["UTF-8 bytes per token"] == pytest.approx((12 + 3 + 7) / 13)
    assert described["byte pieces, share of tokens"] == pytest.approx(3 / 13)
    assert described["unknown tokens"] == 0
    assert described["exact round trips, share of documents"] == described["exact after NFKC"] == 1


def test_vocabulary_by_hand(described: dict) -> None:
    # 256 bytes; 山 in 2 steps, 山。 in 3; 20, 202; ―――― in 11; a\n; the end
    assert described["vocabulary"] == 256 + 2 + 3 + 2 + 11 + 1 + 1
    assert described["Jōyō kanji of 2,136"] == 1
    assert described["mixed pieces"] == 1
    assert described["longest mixed pieces"] == "山。 (2)"
    assert described["longest Japanese pieces"] == "山。 (2), 山 (1)"
    assert described["longest pieces"].startswith("202 (3), 20 (2), a\\n (2), 山。 (2), ")
    assert described["longest runs of one character"] == "―×4, ―×3, ―×2"
    assert described["most digits in a piece"] == 3
    assert (described["2026 is cut"], described["12345 is cut"]) == ("202·6", "1·2·3·4·5")
    assert described["white space kept"] == "newline, two newlines, tab, two spaces, leading spaces, U+3000"


def test_sentencepiece_by_its_own_pieces(tokenizer_dir: Path) -> None:
    tokenizer = load(tokenizer_dir)
    texts = ["𠮷野家で", "全角ＡＢＣ", "12"]
    pieces = [piece for text in texts for piece in tokenizer.tokenize(text)]
    described = describe(tokenizer, str(tokenizer_dir), texts)
    assert described["tokens"] == len(pieces)
    num_bytes = sum(piece.startswith("<0x") for piece in pieces)
    assert num_bytes >= 4  # 𠮷
    assert described["byte pieces, share of tokens"] == pytest.approx(num_bytes / len(pieces))
    assert described["exact round trips, share of documents"] == pytest.approx(2 / 3)
    assert described["exact after NFKC"] == 1
    kept = described["white space kept"].split(", ")
    assert {"newline", "two newlines", "tab"} <= set(kept)
    assert "U+3000" not in kept  # NFKC makes it a space
    assert described["2026 is cut"] == "·".join(tokenizer.tokenize("2026"))
    kanji = sum(piece in JOYO_KANJI for piece in tokenizer.get_vocab() if len(piece) == 1)
    assert described["Jōyō kanji of 2,136"] == kanji > 100


def test_bpe_that_rewrites_nothing(corpus_file: Path, tmp_path: Path) -> None:
    settings = TokenizerConfig(vocab_size=1200, model_type="bpe", normalization="identity")
    train_and_export(read_documents(SourceConfig(str(corpus_file))), settings, tmp_path / "tok")
    tokenizer = load(tmp_path / "tok")
    texts = ["𠮷野家で", "全角ＡＢＣ\u3000ｶﾞ", "12"]
    described = describe(tokenizer, str(tmp_path / "tok"), texts)
    assert described["tokens"] == sum(len(tokenizer.tokenize(text)) for text in texts)
    assert described["exact round trips, share of documents"] == 1
    assert described["white space kept"] == ", ".join(WHITE_SPACE)
    assert described["2026 is cut"] == "2·0·2·6"
    assert described["unknown tokens"] == 0


def test_unknown_tokens(tmp_path: Path) -> None:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("</s>", -9.0)], 0))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>").save_pretrained(tmp_path)
    described = describe(load(tmp_path), str(tmp_path), ["aba", "山"])
    assert (described["tokens"], described["unknown tokens"]) == (4, 2)
    assert described["exact round trips, share of documents"] == 0


def test_byte_pieces(tmp_path: Path, tokenizer_dir: Path) -> None:
    tokenizer = byte_level(tmp_path, ["山"])
    contents = piece_bytes(tokenizer)
    assert [contents[index] for index in (0x41, 0xE3, 256, 257)] == [b"A", b"\xe3", b"\xe5\xb1", "山".encode()]
    assert 258 not in contents  # the end is no text
    assert sorted(byte_piece_ids(tokenizer)) == [*range(0x80, 0x100), 256]
    tokenizer = load(tokenizer_dir)
    expected = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)])
    assert sorted(byte_piece_ids(tokenizer)) == sorted(expected)
    assert piece_bytes(tokenizer)[tokenizer.convert_tokens_to_ids("<0xE3>")] == b"\xe3"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("の", True),
        ("山。", True),
        ("𠮷", True),
        ("ー々〆ｶﾞ（　", True),
        ("", False),
        ("a", False),
        ("のa", False),
        (" の", False),
        ("—", False),
        ("한", False),
        ("の".encode()[:2], True),
        ("山".encode()[:2], True),
        ("𠮷".encode()[:3], True),
        ("—".encode()[:2], False),
        ("ㄅ".encode()[:2], False),  # Bopomofo
        ("\ufffd".encode()[:2], False),
        (b"\xf0\x9f", False),  # emoji
        ("のの".encode()[:4], False),
        ("の".encode()[1:], False),
    ],
)
def test_is_japanese(content: str | bytes, expected: bool) -> None:
    assert is_japanese(content.encode() if isinstance(content, str) else content) is expected


def test_joyo_kanji() -> None:
    assert len(JOYO_KANJI) == len(set(JOYO_KANJI)) == 2136
    assert all(unicodedata.name(one).startswith("CJK UNIFIED IDEOGRAPH-") for one in JOYO_KANJI)
    assert unicodedata.normalize("NFKC", JOYO_KANJI) == JOYO_KANJI
    assert set("亜腕一俺鬱麺岡阪媛茨栃𠮟塡剝頰餅謎遜遡") <= set(JOYO_KANJI)
    assert not set("叱填剥頬勺錘銑脹匁之亞國龍薔薇髙﨑々") & set(JOYO_KANJI)
    new_forms = []
    for kanji in JOYO_KANJI:
        try:
            kanji.encode("shift_jis")  # JIS X 0208 has all others
        except UnicodeEncodeError:
            new_forms.append(kanji)
    assert new_forms == ["剝", "塡", "頰", "𠮟"]


def test_sample_is_bounded_and_reads_no_further() -> None:
    def texts():
        yield from ("", "あいう", "えお")
        raise AssertionError("read too far")

    assert sample(texts(), 5) == ["あいう", "えお"]
    assert sample(texts(), 4) == ["あいう", "え"]
    assert sample([], 4) == []


def test_rows_and_tables(capsys: pytest.CaptureFixture) -> None:
    table = rows({"a": {"tokens": 1234, "cut": "[1]|2"}, "b": {"tokens": 5, "cut": ""}})
    assert table == [{"measure": "tokens", "a": 1234, "b": 5}, {"measure": "cut", "a": "[1]|2", "b": ""}]
    expected = "| measure | a | b |\n| --- | ---: | ---: |\n| tokens | 1,234 | 5 |\n| cut | \\[1\\]\\|2 |  |\n"
    assert markdown_table(table) == expected
    show(table)
    assert capsys.readouterr().out == expected  # no terminal
    json.dumps(table)


def test_table_on_a_terminal(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    show([{"measure": "cut", "a": "[bold]x[/bold]", "b": 1.5}])
    output = capsys.readouterr().out
    assert "[bold]x[/bold]" in output
    assert "1.5000" in output
    assert "┃" in output
