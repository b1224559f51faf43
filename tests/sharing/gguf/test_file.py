"""Files that llama.cpp itself reads."""

import random
from itertools import chain

import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.sharing.export_proof import proof_texts
from jpllm.sharing.gguf import file as gguf_file
from jpllm.sharing.gguf import proof as gguf_proof
from jpllm.sharing.gguf.proof import Tolerance
from jpllm.tokenizer.convert import convert
from jpllm.tokenizer.extend.extend import extend
from jpllm.tokenizer.extend.merges import ExtendConfig
from jpllm.tokenizer.load import load
from jpllm.tokenizer.train import RESERVED_LITERALS, TokenizerConfig, train_and_export
from tests.tokenizer.byte_level import byte_level_tokenizer

pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}


def random_model(preset, tokenizer):
    """All weights random: what is one or zero in a new model would hide a mistake."""
    model = build_from_scratch(ModelConfig(model=preset, **SHAPE), tokenizer, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def bpe():
    return byte_level_tokenizer()


@pytest.mark.parametrize(
    ("preset", "precision", "largest"),
    [
        ("llama-tiny", "f32", 1e-4),
        ("gpt2-tiny", "f32", 2e-3),  # llama.cpp looks GELU up in a table of half precision
        ("neox-tiny", "f32", 2e-3),
        ("llama-tiny", "f16", 2e-2),
    ],
)
def test_byte_level_bpe_gives_equal_ids_and_predictions(preset, precision, largest, bpe, tmp_path):
    model, file = random_model(preset, bpe), tmp_path / "a.gguf"
    gguf_file.write(model, bpe, tmp_path, file, precision)
    proof = gguf_proof.prove(file, model, bpe, tmp_path, Tolerance(), ["もう 1 つの文。"])
    assert (proof.num_texts, proof.num_with_unknown) == (len(proof_texts()) + 1, 0)
    assert proof.divergence_nats < gguf_proof.MAX_DIVERGENCE_NATS
    assert proof.largest_difference < largest
    assert f"equal ids on {proof.num_texts} texts. The" in gguf_proof.describe("a.gguf", proof)


def test_characters_without_a_piece_are_refused_unless_allowed(tokenizer_dir, tmp_path):
    tokenizer, file = load(tokenizer_dir), tmp_path / "a.gguf"
    model = random_model("llama-tiny", tokenizer)
    gguf_file.write(model, tokenizer, tokenizer_dir, file, "f32")
    with pytest.raises(InputError) as error:
        gguf_proof.prove(file, model, tokenizer, tokenizer_dir, Tolerance())
    assert "llama.cpp has no byte fallback for this kind" in str(error.value)
    assert "the first text in which that happens is '\\r\\n'" in str(error.value)
    assert "`jpllm tokenizer train --model_type bpe --normalization identity` survives whole" in str(error.value)
    proof = gguf_proof.prove(file, model, tokenizer, tokenizer_dir, Tolerance(unknown="unk"), ["５ＡＢ（ｶﾞ）", "鬱𠮷👍"])
    assert proof.num_with_unknown > 30
    assert proof.num_texts == len(proof_texts()) + 2
    assert "become `<unk>`" in gguf_proof.describe("a.gguf", proof)


@pytest.fixture(scope="module")
def whole_dir(corpus_file, tmp_path_factory):
    """Made as the message advises, of texts full of what looks like control strings."""
    folder = tmp_path_factory.mktemp("whole") / "tok"
    look_alikes = ["<s> a</s>b <unk><pad> <0x0A><0xE3> <span>x</span> <u>k</u>"] * 500
    texts = chain(read_documents(SourceConfig(str(corpus_file))), look_alikes)
    train_and_export(texts, TokenizerConfig(vocab_size=1500, model_type="bpe", normalization="identity"), folder)
    return folder


@pytest.mark.parametrize("is_extended", [False, True])
def test_our_bpe_gives_equal_ids_three_ways(is_extended, whole_dir, corpus_file, tmp_path):
    """SentencePiece, our tokenizer and llama.cpp; and nothing of a text is lost."""
    folder, file = whole_dir, tmp_path / "a.gguf"
    documents = list(read_documents(SourceConfig(str(corpus_file))))
    if is_extended:
        folder = tmp_path / "longer"
        extend(whole_dir, documents, ExtendConfig(num_pieces=100), folder)
    generator = random.Random(0)
    alphabet = "山川アは。、<>/s0x12Ａ１ｶﾞ\u3000 ▁\n\t\r𠮷鬱👍abcunkpE3A"
    drawn = ["".join(generator.choices(alphabet, k=generator.randrange(60))) for _ in range(500)]
    texts = [*proof_texts(), "It's 3.14 — “naïve”, isn't it?\n", "鬱𩸽と𠮷を👩🏽\u200d🚀", *documents[:50], *drawn]
    tokenizer, reference = load(folder), SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    model = random_model("llama-tiny", tokenizer)
    gguf_file.write(model, tokenizer, folder, file, "f32")
    theirs = gguf_proof._read_by_llama_cpp(file, tokenizer, len(tokenizer), [[5]], texts)["ids"]
    assert theirs == reference.encode(texts)
    assert theirs == tokenizer(texts, verbose=False)["input_ids"]
    assert [tokenizer.decode(ids) for ids in theirs] == [text.replace("▁", " ") for text in texts]
    assert min(chain.from_iterable(theirs)) > 3  # no control id, whatever was typed
    assert max(chain.from_iterable(theirs)) >= 1500 * is_extended


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("unigram", {"normalization_rule_name": "nfkc"}, None),
        ("bpe", {"normalization_rule_name": "identity", "byte_fallback": True}, None),
        ("unigram", {"normalization_rule_name": "nfkc", "remove_extra_whitespaces": True}, "removes extra spaces"),
    ],
)
def test_sentencepiece_models_of_other_makers(kind, settings, message, corpus_file, tmp_path):
    lines = [line for text in read_documents(SourceConfig(str(corpus_file))) for line in text.splitlines()]
    keys = {"remove_extra_whitespaces": False, "add_dummy_prefix": False, **settings}
    characters = "".join(sorted(set(RESERVED_LITERALS) - {" "} | {"▁"}))
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(tmp_path / "m"),
        model_type=kind,
        vocab_size=1800,
        required_chars=characters,
        minloglevel=2,
        **keys,
    )
    convert(tmp_path / "m.model", tmp_path / "tok")
    tokenizer, file = load(tmp_path / "tok"), tmp_path / "a.gguf"
    model = random_model("llama-tiny", tokenizer)
    if message:
        with pytest.raises(InputError, match=message):
            gguf_file.write(model, tokenizer, tmp_path / "tok", file, "f32")
        assert not file.exists()
    else:
        gguf_file.write(model, tokenizer, tmp_path / "tok", file, "f32")
        proof = gguf_proof.prove(file, model, tokenizer, tmp_path / "tok", Tolerance(), lines[:100])
        assert (proof.num_texts, proof.num_with_unknown) == (len(proof_texts()) + 100, 0)


def test_a_mistake_is_found(bpe, tmp_path):
    """Another model, and another tokenizer, than those of the file."""
    model, file = random_model("llama-tiny", bpe), tmp_path / "a.gguf"
    gguf_file.write(model, bpe, tmp_path, file, "f32")
    with torch.no_grad():
        model.lm_head.weight[5] += 1.0
    with pytest.raises(InputError, match=r"llama\.cpp predicts something else than the model"):
        gguf_proof.prove(file, model, bpe, tmp_path, Tolerance())
    other = byte_level_tokenizer(vocab_size=599)
    with pytest.raises(InputError, match="the tokenizer does not survive it: '"):
        gguf_proof.prove(file, model, other, tmp_path, Tolerance(unknown="unk"))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"llama\.cpp cannot read the file"):
        gguf_proof.prove(file, model, bpe, tmp_path, Tolerance())


def test_what_does_not_survive_is_not_written(bpe, tmp_path, monkeypatch):
    model = random_model("llama-tiny", bpe)
    model.config.hidden_act = "relu"
    with pytest.raises(InputError, match=r"gguf: the model does not survive it: llama\.cpp computes .* hidden_act"):
        gguf_file.write(model, bpe, tmp_path, tmp_path / "a.gguf", "f32")
    monkeypatch.setattr(gguf_file, "_PACKAGES", ("no_such_package",))
    with pytest.raises(InputError, match=r"pip install 'jpllm\[gguf\]'"):
        gguf_file.write(model, bpe, tmp_path, tmp_path / "a.gguf", "f32")
    assert list(tmp_path.iterdir()) == []
