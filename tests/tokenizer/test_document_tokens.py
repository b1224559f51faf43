"""What tokenizers write around a text, and that documents are packed and read as a model knows them."""

import json
import logging

import pytest
from tokenizers import processors

from jpllm.data.corpus import encode_text
from jpllm.data.read.jsonl import write_jsonl
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.available import shards_of
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards, read_meta
from jpllm.evaluation.generate import encode_prompt
from jpllm.runtime import InputError
from jpllm.tokenizer.document_tokens import DocumentTokens, document_bos, document_tokens
from jpllm.tokenizer.encoder import corpus_encoder
from jpllm.tokenizer.load import load
from tests.tokenizer.byte_level import byte_level_tokenizer

TEXTS = ["山田さんは山へ行った。", "2つめの文書\nは二行。", "a", "ＡＢＣ 終わり。"]
SINGLE = {"none": "$A", "BOS": "<s> $A", "EOS": "$A </s>", "BOS and EOS": "<s> $A </s>"}


def write_around(tokenizer, single, tokens=("<s>", "</s>")):
    """Let the tokenizer write special tokens around each text, as most of those of language models do."""
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    template = processors.TemplateProcessing(single, f"{single} {single.replace('$A', '$B')}", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE as GPT-2, Llama 3, Qwen or OPT have one, with a BOS and an EOS of its own."""

    def make(single="$A", tokens=("<s>", "</s>"), **names):
        tokenizer = byte_level_tokenizer(vocab_size=400)
        tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"} | names)
        tokenizer.add_tokens(["<x>", "<y>"], special_tokens=True)
        return write_around(tokenizer, single, tokens)

    return make


@pytest.fixture(params=SINGLE)
def habit(request):
    return request.param


@pytest.fixture(params=["sentencepiece", "byte level"])
def folder(request, habit, tokenizer_dir, byte_level, tmp_path):
    """The folder of a tokenizer with this habit; one has a SentencePiece model, which encodes the corpus."""
    target = tmp_path / "tokenizer"
    if request.param == "sentencepiece":
        write_around(load(tokenizer_dir), SINGLE[habit]).save_pretrained(target)
        (target / "tokenizer.model").write_bytes((tokenizer_dir / "tokenizer.model").read_bytes())
    else:
        byte_level(SINGLE[habit]).save_pretrained(target)
    return target


def with_one_eos(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    return ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def test_packed_documents_are_the_ids_of_the_tokenizer_with_one_eos(folder, habit, tmp_path):
    tokenizer = load(folder)
    found = document_tokens(tokenizer)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert found == DocumentTokens((bos,) if "BOS" in habit else (), (eos,) if "EOS" in habit else ())
    assert found.habit == habit

    write_jsonl(({"text": text} for text in TEXTS), tmp_path / "docs.jsonl")
    encoder = corpus_encoder(tokenizer, folder)
    shards = TokenShards(pack(SourceConfig(str(tmp_path / "docs.jsonl")), encoder, tmp_path / "shards", 0.0))
    expected = [index for text in TEXTS for index in with_one_eos(tokenizer, text)]
    assert shards.tokens(0, shards.size.num_tokens).tolist() == expected
    assert expected.count(eos) == len(TEXTS)
    assert expected.count(bos) == (len(TEXTS) if "BOS" in habit else 0)
    text = encode_text("t", TEXTS, encoder)
    assert text.token_ids.tolist() == expected
    assert text.is_given.tolist() == [index == bos for index in expected]
    assert shards.bos_token_id == text.bos_token_id == encoder.bos_token_id == (bos if "BOS" in habit else None)


def test_prompts_begin_as_documents_do(folder, habit):
    tokenizer = load(folder)
    plain = tokenizer("山田さん", add_special_tokens=False)["input_ids"]
    begin = [tokenizer.bos_token_id] if "BOS" in habit else []
    assert encode_prompt(tokenizer, "山田さん") == begin + plain
    assert encode_prompt(tokenizer, "") == begin or [tokenizer.eos_token_id]


def test_a_bos_is_in_the_facts_and_shards_without_one_stay_as_they_were(byte_level, tmp_path):
    """The same tokenizer but for what it writes has other shards; those of a habit without BOS have no new fact."""
    write_jsonl(({"text": text} for text in TEXTS), tmp_path / "docs.jsonl")
    source = SourceConfig(str(tmp_path / "docs.jsonl"))
    folders, fingerprints = {}, {}
    for habit, single in SINGLE.items():
        byte_level(single).save_pretrained(tmp_path / habit)
        encoder = corpus_encoder(load(tmp_path / habit), tmp_path / habit)
        folders[habit], fingerprints[habit] = pack(source, encoder, tmp_path / "shards", 0.0), encoder.fingerprint
    assert len(set(folders.values())) == len(set(fingerprints.values())) == 4
    facts = {habit: read_meta(folder)["identity"] for habit, folder in folders.items()}
    assert {habit: one.get("bos_token_id", "no such fact") for habit, one in facts.items()} == {
        "none": "no such fact", "BOS": 400, "EOS": "no such fact", "BOS and EOS": 400,
    }  # fmt: skip


def test_shards_without_bos_of_an_earlier_version_are_not_those_of_today(encoder, tmp_path):
    """An earlier version packed documents of a tokenizer with BOS without it, under the same fingerprint."""
    from jpllm.data.corpus import DataConfig

    write_jsonl(({"text": text} for text in TEXTS), tmp_path / "docs.jsonl")
    source = SourceConfig(str(tmp_path / "docs.jsonl"))
    data = DataConfig([source], shards_dir=tmp_path / "shards")
    earlier = pack(source, encoder, data.shards_dir)
    assert shards_of(source, data, encoder.fingerprint, bos_token_id=7) is None
    encoder.bos_token_id = 7
    today = pack(source, encoder, data.shards_dir)
    assert today != earlier
    assert shards_of(source, data, encoder.fingerprint, bos_token_id=7).directory == today


def test_the_form_of_a_post_processor_does_not_matter(byte_level):
    """Llama 3's sequence, RoBERTa's own kind, GPT-2's and Qwen's, which writes nothing."""
    llama3 = byte_level("<s> $A")
    template = llama3.backend_tokenizer.post_processor
    llama3.backend_tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    assert document_tokens(llama3) == DocumentTokens((400,), ())
    roberta = byte_level()
    roberta.backend_tokenizer.post_processor = processors.RobertaProcessing(("</s>", 401), ("<s>", 400))
    assert document_tokens(roberta) == DocumentTokens((400,), (401,))
    qwen = byte_level()
    qwen.backend_tokenizer.post_processor = processors.ByteLevel()
    assert document_tokens(qwen).habit == document_tokens(byte_level_tokenizer()).habit == "none"


def test_real_tokenizers(real_data):
    """llm-jp's ver2.2 has a BOS and does not write it, but appends its EOS."""
    assert document_tokens(load(real_data / "llm-jp-tokenizer")) == DocumentTokens((), (7,))
    assert document_tokens(load(real_data / "gpt2-tokenizer")).habit == "none"


def test_a_key_that_has_no_effect_is_told(byte_level, tmp_path, caplog):
    """`add_bos_token` beside a tokenizer.json: what transformers reads counts, and a contradiction is a warning."""
    for name, single in (("without", "$A"), ("with", "<s> $A")):
        byte_level(single).save_pretrained(tmp_path / name)
        file = tmp_path / name / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": True}))
    with caplog.at_level(logging.WARNING, "jpllm"):
        assert corpus_encoder(load(tmp_path / "with"), tmp_path / "with").bos_token_id == 400
        assert caplog.records == []
        assert corpus_encoder(load(tmp_path / "without"), tmp_path / "without").bos_token_id is None
    assert "without: add_bos_token in tokenizer_config.json is true, but the tokenizer writes no BOS" in caplog.text
    assert "trained with <s> in front of each text" in caplog.text


def test_a_bos_that_is_the_eos_stands_between_documents_once(byte_level, tmp_path):
    """OPT writes its EOS in front of a text: the one that ends a document is also the beginning of the next."""
    tokenizer = byte_level("</s> $A", ("</s>",), bos_token="</s>")
    tokenizer.save_pretrained(tmp_path / "opt")
    encoder = corpus_encoder(load(tmp_path / "opt"), tmp_path / "opt")
    eos = tokenizer.eos_token_id
    assert (encoder.bos_token_id, encoder.eos_token_id) == (eos, eos)
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    text = encode_text("t", TEXTS, encoder)
    assert text.token_ids.tolist() == [index for ids in plain for index in (*ids, eos)]
    assert not text.is_given.any()


@pytest.mark.parametrize(
    ("single", "words"),
    [
        ("<x> <y> $A", "it writes <x> <y> in front of a text and nothing behind it"),
        ("<x> $A <y>", "it writes <x> in front of a text and <y> behind it"),
    ],
)
def test_what_no_document_can_have_around_it_is_refused(byte_level, single, words):
    """Two tokens in front, and [CLS] … [SEP] beside another EOS."""
    tokenizer = byte_level(single, ("<x>", "<y>"))
    with pytest.raises(InputError, match=words):
        document_bos(tokenizer)


def test_bert_with_its_separator_as_eos_has_both(byte_level):
    tokenizer = byte_level("<x> $A <y>", ("<x>", "<y>"), eos_token="<y>")
    assert document_bos(tokenizer) == tokenizer.convert_tokens_to_ids("<x>")
