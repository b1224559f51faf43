import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import normalizers, pre_tokenizers, processors

from jpllm.data.documents import read_documents
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError
from jpllm.sharing.gguf.vocabulary import vocabulary
from jpllm.tokenizer.load import load
from jpllm.tokenizer.train import TokenizerConfig, train_and_export
from tests.tokenizer.byte_level import byte_level_tokenizer

DIGITS = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def test_unigram(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    tokenizer.chat_template = "x"
    found = vocabulary(tokenizer, tokenizer_dir, 1203)
    reference = SentencePieceProcessor(model_file=str(tokenizer_dir / "tokenizer.model"))
    assert found.model == "t5"
    assert found.pieces[:1200] == [reference.id_to_piece(index) for index in range(1200)]
    assert found.pieces[1200:] == ["[PAD1200]", "[PAD1201]", "[PAD1202]"]
    assert found.scores[:1200] == [reference.get_score(index) for index in range(1200)]
    assert [found.kinds[reference.piece_to_id(piece)] for piece in ("<unk>", "</s>", "<0x0A>", "の")] == [2, 3, 6, 1]
    assert found.kinds[1200:] == [5, 5, 5]
    charsmap = found.settings.pop("precompiled_charsmap")
    assert len(charsmap) > 100_000  # nfkc
    assert found.settings == {
        **{"unknown_token_id": 0, "padding_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
        **{"add_space_prefix": False, "remove_extra_whitespaces": False},
        **{"add_bos_token": False, "add_eos_token": False, "chat_template": "x"},
    }


@pytest.mark.parametrize(("cut", "name"), [(None, "gpt-2"), (DIGITS, "smollm")])
def test_byte_level_bpe(cut, name, tmp_path):
    tokenizer = byte_level_tokenizer(cut)
    found = vocabulary(tokenizer, tmp_path, len(tokenizer))
    assert (found.model, found.settings["pre"], found.scores) == ("gpt2", name, None)
    assert found.pieces == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert found.kinds == [3] + [1] * (len(tokenizer) - 1)
    assert len(found.merges) == len(tokenizer) - 257
    first, second = found.merges[0].split(" ")
    assert found.pieces[257] == first + second


def test_special_tokens_around_a_text(tmp_path):
    tokenizer = byte_level_tokenizer()
    end = ("<|endoftext|>", 0)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <|endoftext|>", special_tokens=[end])
    settings = vocabulary(tokenizer, tmp_path, 600).settings
    assert (settings["add_bos_token"], settings["add_eos_token"]) == (False, True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<|endoftext|> $A", special_tokens=[end])
    settings = vocabulary(tokenizer, tmp_path, 600).settings
    assert (settings["add_bos_token"], settings["add_eos_token"]) == (True, False)
    template = "<|endoftext|> <|endoftext|> $A"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[end])
    with pytest.raises(InputError, match="puts special tokens around a text"):
        vocabulary(tokenizer, tmp_path, 600)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: byte_level_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)),
            r"\['ByteLevel'\], which is none of gpt-2, smollm",
        ),
        (lambda: byte_level_tokenizer(normalizer=normalizers.NFKC()), r"rewrites texts before it cuts them \(NFKC\)"),
    ],
)
def test_byte_level_bpe_of_another_kind(make, message, tmp_path):
    with pytest.raises(InputError, match=message):
        vocabulary(make(), tmp_path, 600)


def test_sentencepiece_bpe(corpus_file, tmp_path):
    settings = TokenizerConfig(model_type="bpe", normalization="identity", vocab_size=1200)
    train_and_export(read_documents(SourceConfig(str(corpus_file))), settings, tmp_path / "tok")
    found = vocabulary(load(tmp_path / "tok"), tmp_path / "tok", 1201)
    reference = SentencePieceProcessor(model_file=str(tmp_path / "tok" / "tokenizer.model"))
    assert (found.model, found.merges) == ("llama", None)
    assert found.pieces == [*(reference.id_to_piece(index) for index in range(1200)), "[PAD1200]"]
    assert found.scores[:1200] == [reference.get_score(index) for index in range(1200)]
    kinds = {"<unk>": 2, "</s>": 3, "\n": 4, "<0x0A>": 6, "の": 1}
    assert {piece: found.kinds[reference.piece_to_id(piece)] for piece in kinds} == kinds
    assert "precompiled_charsmap" not in found.settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"normalization": "nfkc"}, "rewrites texts by the rule nfkc"),
        ({"normalization": "identity", "preset": "published"}, "removes extra spaces"),
    ],
)
def test_sentencepiece_bpe_that_changes_texts(settings, message, corpus_file, tmp_path):
    texts = read_documents(SourceConfig(str(corpus_file)))
    train_and_export(texts, TokenizerConfig(model_type="bpe", vocab_size=1200, **settings), tmp_path / "tok")
    advice = "jpllm tokenizer train --model_type bpe --normalization identity"
    with pytest.raises(InputError, match=f"{message}.*`{advice}`"):
        vocabulary(load(tmp_path / "tok"), tmp_path / "tok", 1200)


def test_no_sentencepiece_model(tokenizer_dir, tmp_path):
    with pytest.raises(
        InputError, match="neither BPE with bytes nor one with a SentencePiece model beside it, but Unigram"
    ):
        vocabulary(load(tokenizer_dir), tmp_path, 1200)
