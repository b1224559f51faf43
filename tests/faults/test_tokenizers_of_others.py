"""Tokenizers and texts of other people: models with unusual pieces, folders without a model, tiny or old texts."""

import io
import json

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jpllm import cli
from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo.builtin import documents
from tests.tokenizer.test_convert import NO_PREFIX, japanese_lines

SYMBOLS = ["[INST]", "[/INST]", *(f"[control_{number}]" for number in range(50))]


def write_model(file, **settings):
    """A SentencePiece model that is trained without any of the characters of `<s>`."""
    content = io.BytesIO()
    settings = {"vocab_size": 400, "num_threads": 1, "minloglevel": 2, **settings}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(japanese_lines()), model_writer=content, **settings)
    file.write_bytes(content.getvalue())


def convert(folder):
    return cli.main(["tokenizer", "convert", "--input", str(folder / "a.model"), "--output_dir", str(folder / "tok")])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"byte_fallback": True, "vocab_size": 600},
        {"normalization_rule_name": "identity", "control_symbols": ["<mask>"]},
        {"model_type": "bpe", "user_defined_symbols": SYMBOLS, **NO_PREFIX},
        {"user_defined_symbols": SYMBOLS, "byte_fallback": True, "vocab_size": 700},
    ],
)
def test_a_model_is_converted(tmp_path, settings):
    write_model(tmp_path / "a.model", **settings)
    assert convert(tmp_path) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tok")
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "a.model"))
    for text in ("<s>", "山</s>川", "<0x0A>", "[INST]山[/INST]川", "[INST]", "a [control_7][control_7]", "<mask>"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == reference.encode(text), text


def test_a_model_that_cannot_be_converted_has_one_short_message(tmp_path, capsys):
    write_model(tmp_path / "a.model", model_type="bpe", user_defined_symbols=SYMBOLS)
    assert convert(tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its user-defined symbol '[INST]' and 51 others would not follow the space" in line
    assert "has a tokenizer.json, name that folder as the tokenizer" in line
    assert len(line) < 500 + len(str(tmp_path))
    assert not (tmp_path / "tok").exists()


def test_a_folder_without_its_model_cannot_be_extended(tmp_path, capsys):
    """As Gemma's: BPE over characters with pieces for bytes, which a tokenizer.json alone holds."""
    pieces = ["<eos>", "<unk>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)), *"abc"]
    bpe = models.BPE({piece: n for n, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    backend = Tokenizer(bpe)
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>").save_pretrained(tmp_path / "gemma")
    (tmp_path / "text.txt").write_text("吾輩は猫である。" * 100, encoding="utf-8")
    argv = ["--tokenizer", str(tmp_path / "gemma"), "--input", str(tmp_path / "text.txt")]
    assert cli.main(["tokenizer", "extend", *argv, "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "put the tokenizer.model that it was published with into a folder with its other files" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("vocab_size", [300, 1000])
@pytest.mark.parametrize("text", ["ねこ", "吾輩は猫である。名前はまだ無い。" * 9])
def test_advice_on_the_vocabulary_can_be_followed(tmp_path, capsys, model_type, vocab_size, text):
    """Of a text with too few pieces for the least vocabulary no smaller one is advised."""
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    argv = ["tokenizer", "train", "--input", str(tmp_path / "text.txt"), "--model_type", model_type, "--vocab_size"]
    assert cli.main([*argv, str(vocab_size), "--output_dir", str(tmp_path / "tok")]) == 2
    error = capsys.readouterr().err
    if "write" in error:
        advised = error.split("write ")[1].split()[0]
        assert cli.main([*argv, advised, "--output_dir", str(tmp_path / "tok")]) == 0
    else:
        assert "below the least (300); train on more text" in error


@pytest.mark.parametrize("name", ["old.txt", "old.jsonl"])
def test_text_in_iso_2022_jp_is_recognised(tmp_path, capsys, name):
    """Its bytes are all ASCII, so that it would be read as UTF-8: `吾輩` as `ESC $B8cGZ ESC (B`."""
    old = "\n".join("吾輩は猫である。" for _ in range(30)).encode("iso2022_jp")
    file = tmp_path / name
    if name.endswith("txt"):
        file.write_bytes(old)
    else:
        write_jsonl([{"text": old.decode("ascii")}, {"text": "ｱｲｳ".encode("iso2022_jp_ext").decode("ascii")}], file)
    argv = ["tokenizer", "train", "--input", str(file), "--output_dir", str(tmp_path / "tok")]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert "ISO-2022-JP text: convert the file: iconv -f ISO-2022-JP -t UTF-8" in error
    assert not (tmp_path / "tok").exists()


def test_escape_sequences_of_a_terminal_are_no_iso_2022_jp(tmp_path):
    from jpllm.data.documents import read_documents
    from jpllm.data.read.sources import SourceConfig

    file = tmp_path / "log.jsonl"
    rows = [{"text": f"\x1b[1;31m{text}\x1b[0m\x1b(B"} for text in documents(seed=0, num_bytes=2000)]
    write_jsonl(rows, file)
    assert list(read_documents(SourceConfig(str(file)))) == [json.loads(json.dumps(row))["text"] for row in rows]
