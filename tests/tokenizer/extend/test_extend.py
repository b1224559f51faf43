"""Extension: old ids and other text untouched, the new pieces exact in number and used."""

from __future__ import annotations

import gzip
import json
import random
import re
import shutil
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jpllm.runtime import InputError
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.extend import extend as extend_module
from jpllm.tokenizer.extend.extend import extend
from jpllm.tokenizer.extend.merges import ExtendConfig
from jpllm.tokenizer.load import load
from jpllm.tokenizer.pieces import (
    CHARACTER_OF_BYTE,
    JAPANESE,
    first_new_id,
    is_japanese,
    old_ids_of_new_pieces,
    piece_bytes,
)
from jpllm.tokenizer.proof import NASTY_STRINGS, verify
from jpllm.tokenizer.train import TokenizerConfig, train

OTHER_NASTY = [text for text in NASTY_STRINGS if not JAPANESE.search(text)]
QWEN_WORDS = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def english_lines(num_lines: int = 300) -> list[str]:
    generator = random.Random(1)
    words = ["".join(generator.choices("etaoinshrdlu", k=generator.randrange(1, 8))) for _ in range(150)]
    return [" ".join(generator.choices(words, k=9)) + f" — “{number}”, café; it's" for number in range(num_lines)]


def japanese_documents(num_documents: int = 30) -> list[str]:
    generator = random.Random(0)
    words = ["".join(generator.choices("山川空海人東西南北花鳥風月春夏秋冬大小新古", k=2)) for _ in range(120)]

    def sentence() -> str:
        return (
            "　" + "は".join(generator.choices(words, k=3)) + generator.choice(["である。", "でした。", "、という。"])
        )

    return ["\n".join(sentence() for _ in range(20)) for _ in range(num_documents)]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like GPT-2's: `vocab.json` and `merges.txt`, of 600 ids."""
    folder = tmp_path_factory.mktemp("gpt2")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=599, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*english_lines(), *["山の海の東の山"] * 50], trainer)
    backend.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text()) | {"<|endoftext|>": 599}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.fixture(scope="module")
def extended(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extended") / "tok"
    extend(gpt2, japanese_documents(), ExtendConfig(num_pieces=200), folder)
    return folder


def write_qwen_like(folder: Path, gpt2: Path, **settings: object) -> None:
    """A pattern before ByteLevel, and added tokens that are no part of the vocabulary."""
    state = json.loads(load(gpt2).backend_tokenizer.to_str())
    backend = Tokenizer.from_str(json.dumps(state | {"added_tokens": []}))
    split = pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, split, byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    backend.add_tokens([AddedToken("  ", normalized=False)])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", **settings).save_pretrained(folder)


def same_ids(old_folder: Path, new_folder: Path, texts: list[str]) -> None:
    old, new = load(old_folder), AutoTokenizer.from_pretrained(new_folder)
    for text in texts:
        assert new.encode(text) == old.encode(text), text


def test_byte_level_keeps_every_old_id_and_adds_exactly_as_many(gpt2: Path, extended: Path) -> None:
    old, new = load(gpt2), AutoTokenizer.from_pretrained(extended)
    vocabulary = new.get_vocab()
    assert (len(old), len(new), sorted(vocabulary.values())) == (600, 800, list(range(800)))
    assert old.get_vocab().items() <= vocabulary.items()
    assert (new.eos_token_id, new.bos_token_id, type(new).__name__) == (599, 599, "TokenizersBackend")
    assert new.encode("a<|endoftext|>")[-1] == 599
    assert sorted(file.name for file in extended.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_byte_level_leaves_other_text_as_it_was(gpt2: Path, extended: Path) -> None:
    same_ids(gpt2, extended, [*english_lines(), *OTHER_NASTY, "\n".join(english_lines())])
    assert len(OTHER_NASTY) > 60


def test_byte_level_round_trips_and_is_shorter_on_japanese(gpt2: Path, extended: Path) -> None:
    old, new = load(gpt2), load(extended)
    for text in [*NASTY_STRINGS, *japanese_documents()]:
        assert new.decode(new.encode(text)) == text
    text = japanese_documents(31)[-1]
    assert 3 * len(new.encode(text)) < len(old.encode(text))


def test_byte_level_pieces_are_japanese_and_whole_ones_are_reached(extended: Path) -> None:
    new = load(extended)
    contents = [content for index, content in piece_bytes(new).items() if index >= 600]
    assert all(map(is_japanese, contents))
    texts = {index: content.decode(errors="replace") for index, content in piece_bytes(new).items() if index >= 600}
    whole = {index: text for index, text in texts.items() if "\ufffd" not in text}
    assert len(whole) > 170
    assert all(new.encode(text) == [index] for index, text in whole.items())
    assert any(text == "である。" for text in whole.values())


def test_old_japanese_pieces_are_used_in_their_old_places(gpt2: Path, extended: Path) -> None:
    old, new = load(gpt2), load(extended)
    assert len(old.encode("山")) == 1  # from the fixture's text
    assert new.encode("山") == old.encode("山")
    merges = json.loads((extended / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == len({tuple(merge) for merge in merges})
    assert {tuple(merge) for merge in json.loads(old.backend_tokenizer.to_str())["model"]["merges"]} <= set(
        map(tuple, merges)
    )


def test_same_texts_give_the_same_bytes(gpt2: Path, extended: Path, tmp_path: Path) -> None:
    extend(gpt2, iter(japanese_documents()), ExtendConfig(num_pieces=200), tmp_path / "tok")
    assert (tmp_path / "tok" / "tokenizer.json").read_bytes() == (extended / "tokenizer.json").read_bytes()


def test_without_joined_punctuation_words_are_cut_as_before(gpt2: Path, tmp_path: Path) -> None:
    extend(gpt2, japanese_documents(), ExtendConfig(num_pieces=150, join_punctuation=False), tmp_path / "tok")
    old, new = load(gpt2), load(tmp_path / "tok")
    before, after = (json.loads(one.backend_tokenizer.to_str())["pre_tokenizer"] for one in (old, new))
    assert before == after
    texts = [content.decode(errors="ignore") for index, content in piece_bytes(new).items() if index >= 600]
    assert not any(re.search(r"\w\W", text) for text in texts)
    assert "である" in texts


def test_pieces_are_no_longer_than_asked(gpt2: Path, tmp_path: Path) -> None:
    extend(gpt2, japanese_documents(), ExtendConfig(num_pieces=100, max_piece_characters=2), tmp_path / "tok")
    contents = piece_bytes(load(tmp_path / "tok"))
    assert {len(contents[index].decode(errors="ignore")) for index in range(600, 700)} == {0, 1, 2}


def test_a_pattern_and_added_tokens_beyond_the_vocabulary(gpt2: Path, tmp_path: Path) -> None:
    settings = {"model_max_length": 77, "padding_side": "left", "chat_template": "{{ messages }}"}
    write_qwen_like(tmp_path / "old", gpt2, **settings)
    old = load(tmp_path / "old")
    assert old.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "  "]) == [600, 601, 602]
    extend(tmp_path / "old", japanese_documents(), ExtendConfig(num_pieces=200), tmp_path / "new")
    new = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert new.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>", "  "]) == [600, 601, 602]
    assert sorted(new.get_vocab().values()) == list(range(803))
    assert {key: getattr(new, key) for key in settings} == settings
    same_ids(tmp_path / "old", tmp_path / "new", [*english_lines(), *OTHER_NASTY, "<|im_start|>a  b<|im_end|>"])
    assert new.decode(new.encode("山は  海である。12")) == "山は  海である。12"
    assert len(new.encode("山東は大空である。")) < len(old.encode("山東は大空である。")) / 2


def test_a_vocabulary_that_lacks_a_rare_byte(gpt2: Path, tmp_path: Path) -> None:
    """As SmolLM2's: words with that byte are not learned from."""
    shutil.copytree(gpt2, tmp_path / "old")
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    del vocabulary[CHARACTER_OF_BYTE[0xF0]]
    (tmp_path / "old" / "vocab.json").write_text(json.dumps(vocabulary))
    texts = [*japanese_documents(), "𠮷山𠮷川" * 100]
    extend(tmp_path / "old", texts, ExtendConfig(num_pieces=100), tmp_path / "new")
    new = load(tmp_path / "new")
    assert (len(new.get_vocab()), first_new_id(new)) == (699, 700)
    same_ids(tmp_path / "old", tmp_path / "new", english_lines())


def test_old_pieces_spell_the_new_ones(gpt2: Path, extended: Path) -> None:
    old, new = load(gpt2), load(extended)
    pieces = old_ids_of_new_pieces(old, new)
    assert (len(pieces), first_new_id(old)) == (200, 600)
    before, after = piece_bytes(old), piece_bytes(new)
    assert [b"".join(before[index] for index in ids) for ids in pieces] == [after[index] for index in range(600, 800)]
    index = new.convert_tokens_to_ids(new.tokenize("である"))[0]
    assert pieces[index - 600] == old.encode("である")


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["english only"], {}, "has no Japanese line"),
        ([], {}, "has no Japanese line"),
        (["山川山川"], {}, r"num_pieces: the text gives only \d+ new pieces, not 200"),
    ],
)
def test_too_little_text(gpt2: Path, tmp_path: Path, texts: list[str], settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        extend(gpt2, texts, ExtendConfig(num_pieces=200, **settings), tmp_path / "tok")
    assert list(tmp_path.iterdir()) == []


def test_a_used_folder_is_refused(gpt2: Path, extended: Path) -> None:
    with pytest.raises(InputError, match=r"output_dir: .* is there already and not empty"):
        extend(gpt2, japanese_documents(), ExtendConfig(num_pieces=200), extended)
    assert len(load(extended)) == 800


def test_other_kinds_are_refused(gpt2: Path, tmp_path: Path) -> None:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<unk>").save_pretrained(tmp_path / "unigram")
    with pytest.raises(InputError, match="no SentencePiece model beside it to extend; put the"):
        extend(tmp_path / "unigram", japanese_documents(), ExtendConfig(num_pieces=9), tmp_path / "tok")
    state = json.loads(load(gpt2).backend_tokenizer.to_str())
    state["pre_tokenizer"]["add_prefix_space"] = True
    backend = Tokenizer.from_str(json.dumps(state))
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(tmp_path / "prefix")
    with pytest.raises(InputError, match=r"join_punctuation: .* set it to false"):
        extend(tmp_path / "prefix", japanese_documents(), ExtendConfig(num_pieces=9), tmp_path / "tok")
    extend(tmp_path / "prefix", japanese_documents(), ExtendConfig(9, join_punctuation=False), tmp_path / "tok")
    same_ids(tmp_path / "prefix", tmp_path / "tok", english_lines(20))


def test_a_wrong_result_leaves_no_folder(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = extend_module.with_new_merges

    def wrong(*arguments) -> Tokenizer:
        backend = right(*arguments)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        return backend

    monkeypatch.setattr(extend_module, "with_new_merges", wrong)
    with pytest.raises(InputError, match=r"the tokenizer cannot be extended: .* would be"):
        extend(gpt2, japanese_documents(), ExtendConfig(num_pieces=200), tmp_path / "tok")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def sentencepiece_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Converted folders of 450 ids, trained on English with a little Japanese."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    texts = [*english_lines(), *["山の海の東の山"] * 20]
    result = {}
    for model_type in ("unigram", "bpe"):
        for preset in ("default", "published"):
            name = f"{model_type} {preset}"
            config = TokenizerConfig(450, preset, model_type, num_threads=1)  # type: ignore[arg-type]
            train(texts, config, folder / f"{name}.model")
            convert(folder / f"{name}.model", folder / name)
            result[name] = folder / name
    return result


@pytest.mark.parametrize("preset", ["default", "published"])
@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece(sentencepiece_folders: dict[str, Path], tmp_path: Path, model_type: str, preset: str) -> None:
    source = sentencepiece_folders[f"{model_type} {preset}"]
    extend(source, japanese_documents(), ExtendConfig(num_pieces=120), tmp_path / "tok")
    old, new = load(source), AutoTokenizer.from_pretrained(tmp_path / "tok")
    assert (len(old), len(new), sorted(new.get_vocab().values())) == (450, 570, list(range(570)))
    assert old.get_vocab().items() <= new.get_vocab().items()
    pieces = new.convert_ids_to_tokens(range(450, 570))
    assert all(JAPANESE.fullmatch(piece) for piece in pieces)
    assert len(set(pieces)) == 120
    same_ids(source, tmp_path / "tok", [*english_lines(), *OTHER_NASTY])
    lines = "\n".join(japanese_documents()).split("\n")
    assert verify(tmp_path / "tok", [*NASTY_STRINGS, *lines]) == len(NASTY_STRINGS) + len(lines)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tok" / "tokenizer.model"))
    before = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    assert [model.id_to_piece(i) for i in range(570)] == new.convert_ids_to_tokens(range(570))
    assert [model.get_score(i) for i in range(450)] == [before.get_score(i) for i in range(450)]
    assert 3 * sum(map(len, model.encode(lines))) < sum(map(len, before.encode(lines)))
    assert {model.unk_id(), model.pad_id(), model.bos_id(), model.eos_id()} == {0, 1, 2, 3}


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_characters_come_before_the_pieces_with_them(
    sentencepiece_folders: dict[str, Path], tmp_path: Path, model_type: str
) -> None:
    source = sentencepiece_folders[f"{model_type} default"]
    extend(source, japanese_documents(), ExtendConfig(num_pieces=60), tmp_path / "tok")
    new = load(tmp_path / "tok")
    known = set(load(source).get_vocab())
    for piece in new.convert_ids_to_tokens(range(450, 510)):
        assert len(piece) == 1 or set(piece) <= known
        known.add(piece)


def test_old_pieces_of_sentencepiece(sentencepiece_folders: dict[str, Path], tmp_path: Path) -> None:
    source = sentencepiece_folders["unigram published"]  # it writes ▁ before a text, which is no part of a piece
    extend(source, japanese_documents(), ExtendConfig(num_pieces=60), tmp_path / "tok")
    old, new = load(source), load(tmp_path / "tok")
    before, after = piece_bytes(old), piece_bytes(new)
    spelled = [b"".join(before[index] for index in ids) for ids in old_ids_of_new_pieces(old, new)]
    assert spelled == [after[index] for index in range(450, 510)]


def test_sentencepiece_without_joined_punctuation(sentencepiece_folders: dict[str, Path], tmp_path: Path) -> None:
    for number, joined in enumerate((True, False)):
        config = ExtendConfig(num_pieces=120, join_punctuation=joined)
        extend(sentencepiece_folders["unigram default"], japanese_documents(), config, tmp_path / str(number))
        pieces = load(tmp_path / str(number)).convert_ids_to_tokens(range(450, 570))
        assert any(re.search(r"\w。", piece) for piece in pieces) == joined


def test_added_words_and_other_tokenizers_beside_the_model_are_refused(
    sentencepiece_folders: dict[str, Path], tmp_path: Path
) -> None:
    source = sentencepiece_folders["unigram default"]
    shutil.copytree(source, tmp_path / "old")
    tokenizer = load(source)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "old")
    message = r"450 pieces, the tokenizer beside it 451 ids: it has words that were added later"
    with pytest.raises(InputError, match=message):
        extend(tmp_path / "old", japanese_documents(), ExtendConfig(num_pieces=60), tmp_path / "tok")
    shutil.copytree(source, tmp_path / "other")
    shutil.copy(sentencepiece_folders["bpe default"] / "tokenizer.model", tmp_path / "other" / "tokenizer.model")
    with pytest.raises(InputError, match="the model is BPE, the tokenizer beside it Unigram"):
        extend(tmp_path / "other", japanese_documents(), ExtendConfig(num_pieces=60), tmp_path / "tok")
    assert not (tmp_path / "tok").exists()


def test_sentencepiece_text_that_gives_too_few(sentencepiece_folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("unigram default", "bpe default"):
        with pytest.raises(InputError, match=r"num_pieces: the text gives only \d+ new pieces, not 5,000"):
            extend(sentencepiece_folders[name], japanese_documents(), ExtendConfig(num_pieces=5000), tmp_path / "tok")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_gpt2_on_aozora(real_data: Path, tmp_path: Path) -> None:
    """8,000 pieces: at least 2.5 times fewer tokens on works that were not learned from, English as it was."""
    source = real_data / "gpt2-tokenizer"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    with gzip.open(real_data / "aozora.jsonl.gz", "rt", encoding="utf-8") as file:
        documents = [json.loads(row)["text"] for row in file]
    held_out = documents[::20]
    learned_from = (text for index, text in enumerate(documents) if index % 20)
    extend(source, learned_from, ExtendConfig(num_pieces=8000), tmp_path / "tok")
    old, new = load(source), load(tmp_path / "tok")
    assert (len(old), len(new)) == (50_257, 58_257)
    before, after = (
        sum(len(encoding.ids) for encoding in one.backend_tokenizer.encode_batch_fast(held_out)) for one in (old, new)
    )
    assert before >= 2.5 * after
    same_ids(source, tmp_path / "tok", [(real_data / "english" / "the-verdict.txt").read_text(encoding="utf-8")])
    lines = (real_data / "english" / "wiki.txt").read_text(encoding="utf-8").split("\n")
    same_ids(source, tmp_path / "tok", [part for line in lines for part in JAPANESE.split(line)])
    assert sum(old.encode(line) != new.encode(line) for line in lines) <= 1  # one line has a Japanese title


def test_llm_jp(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "llm-jp-tokenizer"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    extend(source, japanese_documents(), ExtendConfig(num_pieces=50), tmp_path / "tok")
    old, new = load(source), load(tmp_path / "tok")
    assert (len(new), new.eos_token, new.eos_token_id) == (len(old) + 50, old.eos_token, old.eos_token_id)
    assert old.get_vocab().items() <= new.get_vocab().items()
    same_ids(source, tmp_path / "tok", [*english_lines(), *OTHER_NASTY])
    assert new.encode("日本")[-1] == new.eos_token_id  # its template, too
