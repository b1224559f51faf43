"""Training: bounded lines, the presets, determinism, and errors that say what to change."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from jpllm.data.clean.characters import nfkc
from jpllm.runtime import InputError
from jpllm.tokenizer import train as train_module
from jpllm.tokenizer.train import (
    MAX_LINE_CHARACTERS,
    RESERVED_LITERALS,
    TokenizerConfig,
    train,
    training_lines,
)


def documents(num_documents: int = 60) -> list[str]:
    """Japanese-looking documents of ten lines, over a vocabulary of 300 words."""
    generator = random.Random(0)
    words = ["".join(generator.choices("山川空海人東西南北花鳥風月春夏秋冬大小新古", k=2)) for _ in range(200)]
    words += ["".join(generator.choices("アイウエオカキクケコサシスセソタチツテトン", k=4)) for _ in range(100)]

    def sentence() -> str:
        return "　" + "は".join(generator.choices(words, k=3)) + generator.choice(["である。", "でした。", "（了）"])

    return ["\n".join(sentence() for _ in range(10)) for _ in range(num_documents)]


def trained(folder: Path, texts: list[str] | None = None, **settings: object) -> sentencepiece.SentencePieceProcessor:
    config = TokenizerConfig(**{"vocab_size": 600, "num_threads": 1, **settings})
    train(documents() if texts is None else texts, config, folder / "a.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "a.model"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sentencepiece.SentencePieceProcessor]:
    return {name: trained(tmp_path_factory.mktemp(name), preset=name) for name in ("default", "published")}


@pytest.mark.parametrize("preset", ["default", "published"])
def test_vocabulary_has_the_size_and_the_control_ids(models: dict, preset: str) -> None:
    model = models[preset]
    assert len(model) == 600
    assert [model.id_to_piece(index) for index in range(4)] == ["<unk>", "<pad>", "<s>", "</s>"]
    assert (model.unk_id(), model.pad_id(), model.bos_id(), model.eos_id()) == (0, 1, 2, 3)
    assert sum(model.is_byte(index) for index in range(600)) == 256


def test_default_preset_keeps_white_space(models: dict) -> None:
    text = "\ta\n\n  b \n\u3000山は"
    assert models["default"].decode(models["default"].encode(text)) == "\ta\n\n  b \n 山は"  # NFKC: U+3000 to space
    assert models["default"].encode("\n\t") == [model_id(models["default"], "\n"), model_id(models["default"], "\t")]


@pytest.mark.parametrize("preset", ["default", "published"])
def test_spaces_survive_a_corpus_without_any(tmp_path: Path, preset: str) -> None:
    texts = [text.replace("\u3000", "") for text in documents()]
    model = trained(tmp_path, texts, preset=preset)
    assert model.decode(model.encode("山 川")) == "山 川"
    assert not any(model.is_byte(index) for index in model.encode("山 川"))


def test_published_preset_removes_extra_spaces_and_spells_newlines_in_bytes(models: dict) -> None:
    model = models["published"]
    assert model.decode(model.encode("  a   b\n")) == "a b\n"
    assert "".join(model.encode("山", return_type=str)) == "▁山"
    assert model.encode("\n")[-1] == model_id(model, "<0x0A>")


def model_id(model: sentencepiece.SentencePieceProcessor, piece: str) -> int:
    index = model.piece_to_id(piece)
    assert index != model.unk_id() or piece == "<unk>"
    return index


@pytest.mark.parametrize("preset", ["default", "published"])
def test_reserved_literals_can_be_spelled_though_the_text_lacks_their_characters(models: dict, preset: str) -> None:
    assert not set("<>x0123") & set("".join(documents()))
    for character in set(RESERVED_LITERALS) - {" "}:
        model_id(models[preset], character)


def test_lines_are_cut_after_the_last_full_stop_that_fits() -> None:
    sentence = "あ" * 399 + "。"
    assert list(training_lines([sentence * 4])) == [sentence * 2, sentence * 2]


def test_lines_without_a_full_stop_are_cut_at_the_limit_of_sentencepiece() -> None:
    lines = list(training_lines(["𠮷" * 2500]))
    assert [len(line) for line in lines] == [1048, 1048, 404]
    assert max(len(line.encode()) for line in lines) == 4192


def test_short_lines_stay_whole_and_blank_ones_go() -> None:
    assert list(training_lines(["a\n\n  b\u2028c\r\n\u3000\n", "", "d"])) == ["a", "  b\u2028c\r", "d"]


def test_characters_that_sentencepiece_cannot_train_on_are_deleted() -> None:
    assert list(training_lines(["a\0b▅c\ud83dd", "\0"])) == ["abcd"]


def test_long_lines_are_trained_on(tmp_path: Path) -> None:
    model = trained(tmp_path, [*documents(), "龍" * 3000], vocab_size=600)
    assert model.piece_to_id("龍") != model.unk_id()  # SentencePiece alone would skip the line


def test_one_pass_over_a_stream(tmp_path: Path) -> None:
    num_read = 0

    def stream():
        nonlocal num_read
        for text in documents():
            num_read += 1
            yield text

    trained(tmp_path, stream())
    assert num_read == 60


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for _ in range(2):
        trained(tmp_path, num_threads=2, max_sentences=200, vocab_size=500)
        contents.add((tmp_path / "a.model").read_bytes())
    assert len(contents) == 1


def test_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    trained(tmp_path, num_threads=2, max_sentences=300, vocab_size=500)
    expected = (tmp_path / "a.model").read_bytes()
    (tmp_path / "texts.json").write_text(json.dumps(documents()))
    program = """
import json, pathlib, sys
from jpllm.tokenizer.train import TokenizerConfig, train
config = TokenizerConfig(vocab_size=500, num_threads=2, max_sentences=300)
train(json.load(open("texts.json")), config, pathlib.Path("b.model"))
"""
    root = Path(train_module.__file__).parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(root)}, check=True)
    assert (tmp_path / "b.model").read_bytes() == expected


def test_max_sentences_draws_evenly_from_the_whole_stream() -> None:
    drawn: list[str] = []
    generator = random.Random(0)
    for index in range(10_000):
        train_module._draw(str(index), index, drawn, 1000, generator)
    numbers = [int(item) for item in drawn]
    assert len(set(numbers)) == 1000
    assert 460 < sum(number < 5000 for number in numbers) < 540  # 500 ± 2.5 standard deviations of 15.0


def test_seed_and_max_sentences_choose_the_lines(tmp_path: Path) -> None:
    contents = []
    for settings in (
        {"seed": 0},
        {"seed": 1},
        {"seed": 0, "max_sentences": 10_000},
        {"seed": 1, "max_sentences": 10_000},
    ):
        trained(tmp_path, **{"max_sentences": 200, "vocab_size": 450, **settings})
        contents.append((tmp_path / "a.model").read_bytes())
    assert contents[0] != contents[1]
    assert contents[2] == contents[3]  # every line is used: nothing is left to draw


def test_bpe(tmp_path: Path) -> None:
    model = trained(tmp_path, model_type="bpe")
    assert len(model) == 600
    scores = [model.get_score(index) for index in range(600) if not model.is_byte(index)]
    assert sorted(scores[6:], reverse=True) == [-float(rank) for rank in range(600 - 256 - 6)]  # ranks of merges


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize(
    ("normalization", "expected"), [("identity", "Ａｶﾞ㍿e\u0301\u3000①"), ("nfkc", "Aガ株式会社é 1")]
)
def test_normalization(tmp_path: Path, model_type: str, normalization: str, expected: str) -> None:
    model = trained(tmp_path, model_type=model_type, normalization=normalization)
    assert model.decode(model.encode("Ａｶﾞ㍿e\u0301\u3000①")) == expected


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_identity_loses_nothing_where_the_rule_nfkc_cleans(tmp_path: Path, model_type: str) -> None:
    raw = [text.replace("\u3000", "ＡＢＣ①ｶﾞ㍿！") for text in documents()]  # the rule keeps U+3000
    cleaned = list(map(nfkc, raw))
    assert cleaned != raw
    normalizing = trained(tmp_path, raw, model_type=model_type, normalization="nfkc")
    plain = trained(tmp_path, cleaned, model_type=model_type, normalization="identity")
    pieces, expected = ([(one.id_to_piece(i), one.get_score(i)) for i in range(600)] for one in (plain, normalizing))
    assert pieces == expected
    assert plain.encode(cleaned) == normalizing.encode(raw)


def test_full_width_digits_stay_apart(tmp_path: Path) -> None:
    texts = [*documents(), *["山は２０２６年"] * 200]
    for model_type in ("unigram", "bpe"):
        model = trained(tmp_path, texts, model_type=model_type, normalization="identity")
        assert model.encode("２０２６", out_type=str) == ["２", "０", "２", "６"]


def test_it_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    trained(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_vocabulary_too_large_names_the_largest_that_fits(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"vocab_size: 30000 is too large for this text; write (\d+) or less"
    ) as caught:
        trained(tmp_path, vocab_size=30_000)
    largest = int(str(caught.value).split("write ")[1].split()[0])
    assert len(trained(tmp_path, vocab_size=largest)) == largest
    with pytest.raises(InputError):
        trained(tmp_path, vocab_size=largest + 1)


def test_vocabulary_too_small_names_the_smallest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"vocab_size: 300 is too small.* need (\d+) pieces; write \1 or more"):
        trained(tmp_path, vocab_size=300)


@pytest.mark.parametrize("texts", [[], [""], ["\n \n\u3000\n"], ["\0", "▅"]])
def test_empty_text_is_an_input_error_and_leaves_no_file(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(InputError, match="the training text is empty"):
        trained(tmp_path, texts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [InputError("data.jsonl:3: not JSON"), KeyboardInterrupt()])
def test_an_error_of_the_stream_passes_unchanged(tmp_path: Path, error: BaseException) -> None:
    def stream():
        yield from documents()
        raise error

    with pytest.raises(type(error)) as caught:
        trained(tmp_path, stream())
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_limit_is_in_characters_of_four_bytes() -> None:
    assert MAX_LINE_CHARACTERS * 4 == 4192
