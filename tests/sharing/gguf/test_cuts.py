"""Cuts of byte-level tokenizers, compared by tokenizers that have merges across every place where a cut may be."""

import json

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from jpllm.runtime import InputError
from jpllm.sharing.export_proof import proof_texts
from jpllm.sharing.gguf import file as gguf_file
from jpllm.sharing.gguf import proof as gguf_proof
from jpllm.sharing.gguf.cuts import _CUTS, as_llama_cpp_reads, name_of_cuts
from tests.sharing.gguf.test_file import random_model

QWEN2 = (  # as the tokenizer.json of Qwen2 and Qwen3 writes it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MORE_TEXTS = [
    "I'M we'Ve don't DON'T they'll 1234567 3.14159 x1y22z333",
    "HelloWorld helloWORLD a/b/c\n/d/\r\n\r\n  x foo...bar!!!\n\n",
    "été Été straße   \n\n\ttabs\t\tx 日本語123テスト、。「」！？ｶﾅ",
]
TEXTS = [text for text in proof_texts() if "</s>" not in text] + MORE_TEXTS  # llama.cpp takes a piece "</s>" for an end


def split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def state_of(cut, ignore_merges=False, normalizer=None):
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = cut
    return {**json.loads(backend.to_str()), "normalizer": normalizer}


@pytest.fixture(scope="module")
def across_cuts():
    """The state of a tokenizer that was trained on whole texts."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=1,
        max_token_length=16,
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    return json.loads(backend.to_str())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("qwen2", "llama-bpe", "tekken") else [pytest.mark.slow])
        for name, *_ in _CUTS
    ],
)
def test_llama_cpp_cuts_alike(name, across_cuts, tmp_path):
    from transformers import PreTrainedTokenizerFast

    pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")
    steps, whole = next((steps, whole) for known, whole, steps in _CUTS if known == name)
    steps = [{"trim_offsets": True, **step} if step["type"] == "ByteLevel" else step for step in steps]
    state = {**across_cuts, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    state["model"] = {**state["model"], "ignore_merges": whole}
    ends = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **ends)
    assert name_of_cuts(state) == name
    model, file = random_model("llama-tiny", tokenizer), tmp_path / "a.gguf"
    gguf_file.write(model, tokenizer, tmp_path, file, "f32")
    found = gguf_proof._read_by_llama_cpp(file, tokenizer, len(tokenizer), [[5]], TEXTS)["ids"]
    compare = gguf_proof._comparison(tokenizer, tmp_path, "refuse")
    others = [text for text, ids in zip(TEXTS, found, strict=True) if compare(text, ids) != "equal"]
    if name in ("gpt-4o", "tekken"):
        assert 0 < len(others) < 15
        assert "か\u3099" in others
    else:
        assert others == []


def test_names():
    assert name_of_cuts(state_of(split(QWEN2))) == "qwen2"
    assert name_of_cuts(state_of(split(QWEN2), ignore_merges=True)) == "qwen2"
    llama = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    assert name_of_cuts(state_of(split(llama), ignore_merges=True)) == "llama-bpe"
    assert name_of_cuts(state_of(split(llama))) == "dbrx"
    with pytest.raises(InputError, match=r"by \['\[0-9\]\+', 'ByteLevel'\], which is none of gpt-2, smollm, llama-bpe"):
        name_of_cuts(state_of(split("[0-9]+")))
    with pytest.raises(InputError, match=r"by \[\], which is none of"):
        name_of_cuts(state_of(None))


def test_known_differences():
    qwen2 = state_of(split(QWEN2), normalizer={"type": "NFC"})
    assert as_llama_cpp_reads(qwen2) == ("marks", {**qwen2, "normalizer": None})
    assert as_llama_cpp_reads(state_of(split(QWEN2))) is None
    mistral = state_of(pre_tokenizers.Metaspace("▁", "first", split=False))
    assert as_llama_cpp_reads(mistral)[0] == "space"
    assert as_llama_cpp_reads(state_of(pre_tokenizers.Metaspace("▁", "never", split=False))) is None
