"""Corpora are packed and scored as the tokenizer of a model writes texts: with a BOS, an EOS, both or neither."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jpllm.data.blocks.dataset import IGNORED_LABEL, BlockDataset
from jpllm.data.corpus import encode_text
from jpllm.data.read.sources import SourceConfig
from jpllm.data.shards.pack import pack
from jpllm.data.shards.token_shards import TokenShards
from jpllm.evaluation import perplexity
from jpllm.evaluation.generate import encode_prompt
from jpllm.runtime import InputError
from jpllm.tokenizer.chat_template import set_template
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.encoder import corpus_encoder
from tests.models.test_build import tiny_model

TEXTS = ["春が来た。", "山は高い", "a b"]
BOS, EOS = 1, 2
TEMPLATES = {"none": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>"}
HABITS = {"none": (None, False), "bos": (BOS, False), "eos": (None, True), "both": (BOS, True)}


def make_tokenizer(template, **special):
    """One id for each character of TEXTS, behind <unk>, <s>, </s> and [CLS]."""
    characters = sorted(set("".join(TEXTS)))
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", "[CLS]", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special_tokens = [(name, vocabulary[name]) for name in ("<s>", "</s>", "[CLS]")]
    backend.post_processor = processors.TemplateProcessing(template, special_tokens=special_tokens)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(names | special))


@pytest.fixture(params=TEMPLATES)
def habit(request):
    return request.param


@pytest.fixture
def tokenizer(habit):
    return make_tokenizer(TEMPLATES[habit])


@pytest.fixture
def shards(tokenizer, tmp_path):
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return TokenShards(pack(SourceConfig(str(file)), corpus_encoder(tokenizer, tmp_path), tmp_path / "shards", 0))


def test_what_is_written_around_a_text(tokenizer, habit):
    found = document_tokens(tokenizer)
    assert (found.bos_token_id, found.has_eos) == HABITS[habit]


def test_packed_ids_are_the_tokenizers_with_one_eos(tokenizer, shards):
    expected = []
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        expected += ids if ids[-1] == EOS else [*ids, EOS]
    assert shards.tokens(0, shards.size.num_tokens).tolist() == expected
    assert expected.count(EOS) == len(TEXTS)


def test_shards_of_another_habit_are_others(tmp_path):
    file = tmp_path / "docs.txt"
    file.write_text(TEXTS[0])
    made = {
        name: pack(SourceConfig(str(file)), corpus_encoder(make_tokenizer(template), tmp_path), tmp_path / "shards", 0)
        for name, template in TEMPLATES.items()
    }
    assert len(set(made.values())) == 4
    assert "bos_token_id" not in json.loads((made["none"] / "meta.json").read_text())["identity"]  # as it always was


def test_blocks_begin_with_the_bos_and_predict_none(tokenizer, habit, shards):
    blocks = BlockDataset([shards], 4, num_positions=shards.size.num_tokens // 4, isolate_documents=True)
    ids = shards.tokens(0, shards.size.num_tokens)
    has_bos = HABITS[habit][0] is not None
    for position in range(blocks.num_positions):
        index = blocks.block_at(position)[1]
        item, plain = blocks[position], ids[4 * index : 4 * index + 4]
        assert item["input_ids"].tolist() == [BOS if has_bos else plain[0], *plain[1:]]
        targets = item["labels"][1:]
        assert [label for label in targets if label != IGNORED_LABEL] == [i for i in plain[1:] if i != BOS]
        starts = [at for at in range(4) if item["position_ids"][at] == 0]
        assert starts == sorted({0, *(at for at in range(4) if item["input_ids"][at] == (BOS if has_bos else EOS))})


@pytest.mark.parametrize("stride", [None, 3])
def test_bits_per_byte_equal_float64_with_the_bos(tokenizer, habit, stride, tmp_path):
    """Each token predicted by its own forward pass in float64, behind the BOS of its window where there is one."""
    model, encoder = tiny_model("llama-tiny"), corpus_encoder(tokenizer, tmp_path)
    text = encode_text("t", TEXTS, encoder)
    settings = {"eos_token_id": EOS, "context_length": 8, "batch_size": 2, "stride": stride}
    (found,) = perplexity.score(model, [text], **settings)
    exact, bos = model.double(), HABITS[habit][0]
    stream = [
        i for one in TEXTS for i in [*([] if bos is None else [bos]), *tokenizer.convert_tokens_to_ids([*one]), EOS]
    ]
    stream = stream if bos is not None else [EOS, *stream]
    expected = num_scored = 0
    for window in perplexity.windows(len(stream), 8, stride):
        for position in range(window.scored_from, window.stop):
            if stream[position] == bos:
                continue
            given = stream[window.start : position]
            if bos is not None:
                given[0] = bos
            with torch.no_grad():
                logits = exact(torch.tensor([given])).logits[0, -1]
            expected -= logits.log_softmax(0)[stream[position]].item()
            num_scored += 1
    assert num_scored == found.num_tokens == sum(map(len, TEXTS)) + len(TEXTS)
    assert found.bits_per_byte == pytest.approx(expected / np.log(2) / len("".join(TEXTS).encode()), rel=1e-6)


def test_without_the_bos_a_text_is_read_as_by_a_tokenizer_without(tmp_path):
    bare, plain = (
        encode_text("t", TEXTS, corpus_encoder(make_tokenizer(TEMPLATES[name]), tmp_path)) for name in ("both", "none")
    )
    bare = perplexity.without_bos(bare)
    assert bare.token_ids.tolist() == plain.token_ids.tolist()
    assert bare.bos_token_id is plain.bos_token_id is None


def test_prompts_and_templates_begin_as_documents_do(tokenizer, habit):
    begin = [BOS] if HABITS[habit][0] is not None else []
    assert encode_prompt(tokenizer, "春") == [*begin, *tokenizer.convert_tokens_to_ids(["春"])]
    assert encode_prompt(tokenizer, "") == (begin or [EOS])
    set_template(tokenizer, "chat")
    assert tokenizer.chat_template.startswith("{{- bos_token -}}") == bool(begin)


def test_a_bos_that_is_the_eos_stands_once_between_documents(tmp_path):
    tokenizer = make_tokenizer("</s> $A", bos_token="</s>")  # as OPT's
    encoder = corpus_encoder(tokenizer, tmp_path)
    assert document_tokens(tokenizer).bos_token_id == EOS
    assert encoder.bos_token_id is None
    assert encode_text("t", TEXTS, encoder).token_ids.tolist().count(EOS) == len(TEXTS)


@pytest.mark.parametrize("template", ["[CLS] $A [CLS]", "<s> [CLS] $A"])
def test_what_no_document_looks_like_is_refused(template):
    with pytest.raises(InputError, match=r"the EOS .* behind; set eos_token"):
        document_tokens(make_tokenizer(template))


def test_real_tokenizers(real_data):
    llm_jp = AutoTokenizer.from_pretrained(real_data / "llm-jp-tokenizer")
    found = document_tokens(llm_jp)
    assert (found.bos_token_id, found.has_eos) == (None, True)
