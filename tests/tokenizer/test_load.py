"""Loading, encoding a corpus without control ids, and fingerprints."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jpllm.runtime import InputError
from jpllm.tokenizer import encoder as encoder_module
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import fingerprint, load
from jpllm.tokenizer.proof import NASTY_STRINGS
from jpllm.tokenizer.train import TokenizerConfig, train

LOG = "jpllm.tokenizer.encoder"


def japanese_text(num_lines: int = 600) -> str:
    generator = random.Random(0)
    words = ["".join(generator.choices("山川空海人東西南北花鳥風月春夏秋冬大小新古", k=2)) for _ in range(300)]
    return "\n".join("　" + "は".join(generator.choices(words, k=4)) + "である。" for _ in range(num_lines))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("load")
    train([japanese_text()], TokenizerConfig(vocab_size=600, num_threads=1), directory / "a.model")
    convert(directory / "a.model", directory / "tok")
    return directory / "tok"


@pytest.fixture
def folder_without_model(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "tok", ignore=shutil.ignore_patterns("*.model"))
    return tmp_path / "tok"


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    """GPT-2's two files for an alphabet of four characters."""
    vocabulary = {"a": 0, "b": 1, "ab": 2, "<": 3, "|": 4, ">": 5, "e": 6, "n": 7, "<|endoftext|>": 8}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    return tmp_path


def write_unigram_with_a_likely_special_token(folder: Path) -> None:
    """As in llm-jp's: the vocabulary alone would choose the special token for text that spells it."""
    vocabulary = [("<unk>", 0.0), ("<EOD>", -1.0), *((character, -5.0) for character in "<EOD>山")]
    backend = Tokenizer(models.Unigram(list(dict(vocabulary).items()), 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<EOD>")
    tokenizer.save_pretrained(folder)


def test_load_gives_the_tokenizer_of_a_folder(folder: Path) -> None:
    for path in (folder, str(folder)):
        tokenizer = load(path)
        assert (tokenizer.is_fast, tokenizer.eos_token_id, len(tokenizer)) == (True, 3, 600)


@pytest.mark.parametrize("beside", [None, "config.json"])
def test_a_bare_model_is_refused_with_the_command_to_convert_it(folder: Path, tmp_path: Path, beside) -> None:
    model_file = tmp_path / "my.model"
    shutil.copy(folder / "tokenizer.model", model_file)
    if beside:
        (tmp_path / beside).write_text('{"model_type": "llama"}')
    for path in (tmp_path, model_file):
        with pytest.raises(InputError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert f"jpllm tokenizer convert --input {model_file} --output_dir DIR" in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/else", "/nowhere", "a/b/c", "../nowhere"])
def test_a_missing_folder_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"{name}: no (such folder|tokenizer can be loaded from it)"):
        load(name)
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_a_missing_folder_in_one_that_exists_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="runs/tok: no such folder"):
        load("runs/tok")


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}'])
def test_a_broken_tokenizer_json_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="no tokenizer can be loaded from it"):
        load(tmp_path)


def test_an_empty_folder_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tokenizer can be loaded from it"):
        load(tmp_path)


def test_a_tokenizer_without_eos_is_refused(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no EOS token; set eos_token in"):
        load(tmp_path)


def test_gpt2_files_alone_are_gpt2(gpt2_folder: Path) -> None:
    tokenizer = load(gpt2_folder)
    assert tokenizer.eos_token_id == 8
    assert tokenizer.encode("abba<|endoftext|>", add_special_tokens=False) == [2, 1, 0, 8]


def test_sentencepiece_encodes_where_it_is_proven(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOG)
    encoder = corpus_encoder(load(folder), folder).encode
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = [*NASTY_STRINGS, japanese_text()]
    arrays = encoder(texts)
    assert [array.tolist() for array in arrays] == [reference.encode(text) for text in texts]
    assert {array.dtype for array in arrays} == {np.dtype("int32")}
    assert "encoding with SentencePiece" in caplog.text


def test_tokenizers_encodes_the_same_without_the_model(folder_without_model: Path, folder: Path, caplog) -> None:
    caplog.set_level(logging.INFO, LOG)
    encoder = corpus_encoder(load(folder_without_model), folder_without_model).encode
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = ["山は</s>", "<pad><s>\n\t<0x0A>", "", "𠮷", *japanese_text().split("\n")]
    arrays = encoder(texts)
    assert [array.tolist() for array in arrays] == [reference.encode(text) for text in texts]
    assert {array.dtype for array in arrays} == {np.dtype("int32")}
    assert "holds no SentencePiece model" in caplog.text


def test_no_documents_give_no_arrays(folder: Path, folder_without_model: Path) -> None:
    for path in (folder, folder_without_model):
        assert corpus_encoder(load(path), path).encode([]) == []


def test_another_model_in_the_folder_is_noticed_and_not_used(folder: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(folder, tmp_path / "tok")
    train([japanese_text()], TokenizerConfig(vocab_size=500, num_threads=1), tmp_path / "tok" / "tokenizer.model")
    encoder = corpus_encoder(load(folder), tmp_path / "tok").encode
    expected = load(folder).encode("山は海である。")
    assert encoder(["山は海である。"])[0].tolist() == expected
    assert "encoding with tokenizers, several times slower" in caplog.text


def test_a_difference_in_the_first_documents_is_noticed(folder: Path, caplog, monkeypatch) -> None:
    """Nothing but the documents tells the two apart: the nasty strings are none here."""
    monkeypatch.setattr(encoder_module, "NASTY_STRINGS", ())
    tokenizer = load(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = [[piece, score - 50.0 * (len(piece) > 1)] for piece, score in state["model"]["vocab"]]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="</s>")
    encoder = corpus_encoder(other, folder).encode
    text = japanese_text(3)
    first = encoder([text])[0].tolist()
    assert first == other.encode(text, split_special_tokens=True)
    assert first != tokenizer.encode(text)
    assert encoder([text])[0].tolist() == first
    assert caplog.text.count("encoding with tokenizers, several times slower") == 1


def test_added_words_are_not_lost_to_the_model(folder: Path, caplog) -> None:
    tokenizer = load(folder)
    tokenizer.add_tokens(["山山山"])
    assert corpus_encoder(tokenizer, folder).encode(["山山山"])[0].tolist() == [600]
    assert "has words that the model lacks: '山山山'" in caplog.text


def test_typed_special_tokens_of_a_unigram_vocabulary_stay_text(tmp_path: Path) -> None:
    write_unigram_with_a_likely_special_token(tmp_path)
    tokenizer = load(tmp_path)
    assert tokenizer.encode("山<EOD>", split_special_tokens=True) == [7, 1]  # what the encoder must not do
    assert corpus_encoder(tokenizer, tmp_path).encode(["山<EOD>", "<EOD"])[0].tolist() == [7, 2, 3, 4, 5, 6]


def test_typed_special_tokens_of_gpt2_stay_text(gpt2_folder: Path) -> None:
    ids = corpus_encoder(load(gpt2_folder), gpt2_folder).encode(["ab<|en|>"])[0].tolist()
    assert ids == [2, 3, 4, 6, 7, 4, 5]
    ids = corpus_encoder(load(gpt2_folder), gpt2_folder).encode(["ab<|endoftext|>"])[0].tolist()
    assert 8 not in ids
    assert ids[:5] == [2, 3, 4, 6, 7]


def test_no_eos_is_appended_by_a_post_processor(real_data: Path) -> None:
    path = real_data / "llm-jp-tokenizer"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    tokenizer = load(path)
    assert tokenizer.encode("日本")[-1] == tokenizer.eos_token_id == 7
    texts = ["日本", "", "日本<EOD|LLM-jp></s|LLM-jp>"]
    with_model = [array.tolist() for array in corpus_encoder(tokenizer, path).encode(texts)]
    with_tokenizers = [array.tolist() for array in encoder_module._backend_encode(tokenizer)(texts)]
    (model_file,) = path.glob("*.model")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    assert with_model == with_tokenizers == [reference.encode(text) for text in texts]
    assert all(min(ids, default=8) > 7 for ids in with_model)


def test_model_of_llm_jp_is_proven(real_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = real_data / "llm-jp-tokenizer"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    caplog.set_level(logging.INFO, LOG)
    corpus_encoder(load(path), path).encode([japanese_text(20)])
    assert "encoding with SentencePiece" in caplog.text


def test_gpt2_as_published(real_data: Path) -> None:
    path = real_data / "gpt2-tokenizer"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    tokenizer = load(path)
    assert tokenizer.encode("hello world<|endoftext|>") == [31373, 995, 50256]
    ids = corpus_encoder(tokenizer, path).encode(["hello world<|endoftext|>"])[0].tolist()
    assert ids[:2] == [31373, 995]
    assert 50256 not in ids
    assert tokenizer.decode(ids) == "hello world<|endoftext|>"


@pytest.mark.parametrize("has_model", [True, False])
def test_lone_surrogates_are_left_out(folder: Path, folder_without_model: Path, has_model: bool) -> None:
    path = folder if has_model else folder_without_model
    encode = corpus_encoder(load(path), path).encode
    for texts in (["\ud83d山\ude00"], ["山"]):
        assert encode(texts)[0].tolist() == load(folder).encode("山")


def test_fingerprint_is_stable(folder: Path, tmp_path: Path) -> None:
    tokenizer = load(folder)
    expected = fingerprint(tokenizer)
    assert len(expected) == 64
    assert int(expected, 16)
    tokenizer(["山", "山は海"], truncation=True, max_length=2, padding=True)
    assert fingerprint(tokenizer) == expected
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(load(tmp_path)) == expected
    program = f"from jpllm.tokenizer.load import fingerprint, load; print(fingerprint(load({str(folder)!r})))"
    environment = {
        "PYTHONPATH": str(Path(encoder_module.__file__).parents[2]),
        "PYTHONHASHSEED": "7",
        "PATH": os.environ.get("PATH", ""),
    }
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert output.strip() == expected


def test_fingerprint_changes_with_a_score_and_with_a_special_token(folder: Path, tmp_path: Path) -> None:
    tokenizer = load(folder)
    seen = {fingerprint(tokenizer)}
    tokenizer.eos_token = "<pad>"
    seen.add(fingerprint(tokenizer))
    shutil.copytree(folder, tmp_path / "tok")
    state = json.loads((tmp_path / "tok" / "tokenizer.json").read_text(encoding="utf-8"))
    state["model"]["vocab"][400][1] -= 0.25
    (tmp_path / "tok" / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    seen.add(fingerprint(load(tmp_path / "tok")))
    assert len(seen) == 3


def test_modules_import_nothing_heavy() -> None:
    program = (
        "import sys, jpllm.tokenizer.train, jpllm.tokenizer.convert, jpllm.tokenizer.load; "
        "print(sorted({'numpy', 'sentencepiece', 'tokenizers', 'torch', 'transformers'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": str(Path(encoder_module.__file__).parents[2])}
    output = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True)
    assert output.stdout.decode().strip() == "[]"
