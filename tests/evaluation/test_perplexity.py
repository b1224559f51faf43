import math
import subprocess
from functools import partial

import numpy as np
import pytest
import torch

from jpllm.data.corpus import EncodedText, choose_documents, encode_text
from jpllm.evaluation import perplexity
from jpllm.evaluation.perplexity import BosEffect, TextScore, Window, windows
from tests.models.test_build import tiny_model

EOS = 0


def test_every_id_is_scored_once_with_context():
    assert list(windows(10, context_length=4)) == [Window(0, 4, 1), Window(3, 7, 4), Window(6, 10, 7)]
    assert list(windows(6, context_length=4, stride=1)) == [
        Window(0, 2, 1),
        Window(0, 3, 2),
        Window(0, 4, 3),
        Window(1, 5, 4),
        Window(2, 6, 5),
    ]
    for num_ids in range(2, 30):
        for stride in (None, 1, 3, 7):
            scored = [n for w in windows(num_ids, 8, stride) for n in range(w.scored_from, w.stop)]
            assert scored == list(range(1, num_ids))
            assert all(w.stop - w.start <= 8 for w in windows(num_ids, 8, stride))
    with pytest.raises(ValueError, match="stride 4"):
        list(windows(10, context_length=4, stride=4))


@pytest.mark.parametrize("architecture", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize("stride", [None, 5])
def test_score_equals_token_by_token_float64(architecture, stride):
    """Each token predicted by its own forward pass in float64 on exactly the context that its window gives it."""
    model = tiny_model(architecture)
    rng = np.random.default_rng(0)
    texts = [EncodedText("a", ["ab"], rng.integers(1, 50, 45)), EncodedText("b", ["日本"], rng.integers(1, 50, 3))]
    scores = perplexity.score(model, texts, eos_token_id=EOS, context_length=16, batch_size=3, stride=stride)
    exact = model.double()
    for text, result in zip(texts, scores, strict=True):
        ids = [EOS, *text.token_ids.tolist()]
        expected = 0.0
        for window in windows(len(ids), 16, stride):
            for position in range(window.scored_from, window.stop):
                with torch.no_grad():
                    logits = exact(torch.tensor([ids[window.start : position]])).logits[0, -1]
                expected -= logits.log_softmax(0)[ids[position]].item()
        assert result.nll_nats == pytest.approx(expected, rel=1e-6)
        assert result.num_tokens == len(text.token_ids)


BOS = 49
DOCUMENTS = [[5, 6, 7, 8] * 6, [9], [10, 11] * 9]  # ids of three documents; some are longer than a window


def behind(begin, documents=DOCUMENTS):
    """A text of documents that each end with an EOS, behind the ids `begin`."""
    ids = np.array([index for document in documents for index in (*begin, *document, EOS)])
    return EncodedText("t", ["日本"], ids, bos_token_id=begin[0] if begin else None)


def read_ids(model):
    """The windows that a model reads, as a list that grows."""
    read = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    return read


@pytest.mark.parametrize("stride", [None, 5])
def test_each_window_begins_with_the_bos(stride):
    """And the rest of it is what stands before the scored ids."""
    model, text = tiny_model("llama-tiny"), behind([BOS])
    read = read_ids(model)
    perplexity.score(model, [text], eos_token_id=EOS, context_length=16, batch_size=3, stride=stride)
    expected = [[BOS, *text.token_ids[w.start + 1 : w.stop]] for w in windows(len(text.token_ids), 16, stride)]
    assert [ids[: len(wanted)] for ids, wanted in zip(read, expected, strict=True)] == expected
    assert expected[1][1] not in (BOS, EOS)  # this window begins inside a document


@pytest.mark.parametrize("stride", [None, 5])
def test_bits_per_byte_behind_the_bos_are_those_of_float64(stride):
    """Each id but the BOS is scored once, by a forward pass of its own behind the BOS and the ids of its window."""
    model, text = tiny_model("llama-tiny"), behind([BOS])
    (found,) = perplexity.score(model, [text], eos_token_id=EOS, context_length=16, batch_size=3, stride=stride)
    exact, ids, nats, scored = model.double(), text.token_ids.tolist(), 0.0, []
    for window in windows(len(ids), 16, stride):
        for place in range(window.scored_from, window.stop):
            if ids[place] != BOS:
                with torch.no_grad():
                    given = torch.tensor([[BOS, *ids[window.start + 1 : place]]])
                    nats -= exact(given).logits[0, -1].log_softmax(0)[ids[place]].item()
                scored.append(ids[place])
    assert scored == [index for document in DOCUMENTS for index in (*document, EOS)]
    assert found.num_tokens == len(scored) == 46
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / len("日本".encode()), rel=1e-6)


def test_a_document_alone_needs_the_nats_of_its_ids_behind_the_bos():
    """Without any window of ours: what `model(tokenizer(text).input_ids)` says, and the EOS behind it."""
    model, text = tiny_model("llama-tiny"), behind([BOS], [[5, 6, 7, 8]])
    (found,) = perplexity.score(model, [text], eos_token_id=EOS, context_length=16, batch_size=1)
    ids = torch.tensor([[BOS, 5, 6, 7, 8, EOS]])
    with torch.no_grad():
        loss = model.double()(input_ids=ids, labels=ids).loss.item()
    assert found.nll_nats == pytest.approx(5 * loss, rel=1e-6)


def test_a_bos_that_is_the_eos_begins_each_window():
    model, text = tiny_model("llama-tiny"), EncodedText("t", ["日本"], behind([]).token_ids, bos_token_id=EOS)
    read = read_ids(model)
    (found,) = perplexity.score(model, [text], eos_token_id=EOS, context_length=16, batch_size=8)
    assert {ids[0] for ids in read} == {EOS}
    assert found.num_tokens == 46  # the EOS of each document among them


def test_a_text_with_another_bos():
    assert behind([BOS]).with_bos(None).token_ids.tolist() == behind([]).token_ids.tolist()
    assert behind([]).with_bos(BOS).token_ids.tolist() == behind([BOS]).token_ids.tolist()
    assert behind([48]).with_bos(BOS).token_ids.tolist() == behind([BOS]).token_ids.tolist()
    assert behind([BOS]).with_bos(EOS).token_ids.tolist() == behind([]).token_ids.tolist()
    assert behind([BOS]).with_bos(None).bos_token_id is None
    assert perplexity.unigram_bits_per_byte(behind([BOS])) == perplexity.unigram_bits_per_byte(behind([]))


def test_bos_effect_is_told_from_one_per_cent_on():
    model, texts = tiny_model("llama-tiny"), [behind([BOS]), behind([BOS], [[3, 4, 5]])]
    score = partial(perplexity.score, model, eos_token_id=EOS, context_length=16, batch_size=8)
    effect = perplexity.bos_effect(score, texts, BOS)
    assert effect.with_bos == perplexity.total(score(texts)).bits_per_byte
    without = score([behind([]), behind([], [[3, 4, 5]])])
    assert effect.without_bos == perplexity.total(without).bits_per_byte
    assert effect.num_bytes == 12
    told = [BosEffect(1, 2.0, without).is_worth_telling for without in (1.97, 1.99, 2.0, 2.019, 2.021)]
    assert told == [True, False, False, False, True]
    assert str(BosEffect(1, 1.0, 30.0)).startswith("bits per byte 1.0000 with BOS, 30.0000 without: the model depends")
    assert "better without the BOS" in str(BosEffect(1, 2.0, 1.0))


def test_batch_size_and_number_of_processes_do_not_matter(monkeypatch):
    model = tiny_model("gpt2-tiny")
    texts = [EncodedText("a", ["x"], np.random.default_rng(1).integers(1, 50, 200))]
    settings = {"eos_token_id": EOS, "context_length": 16}
    (whole,) = perplexity.score(model, texts, batch_size=100, **settings)
    (single,) = perplexity.score(model, texts, batch_size=1, **settings)
    assert single.nll_nats == pytest.approx(whole.nll_nats, rel=1e-6)
    parts = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: parts.append(tensor.clone()))
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(rank))
    for rank in range(3):
        perplexity.score(model, texts, batch_size=4, rank=rank, num_ranks=3, **settings)
    assert sum(parts).item() == pytest.approx(whole.nll_nats, rel=1e-6)
    assert calls == [0, 0, 1, 1, 2, 2]  # four batches: two processes have nothing to count in their second call


def test_units_from_known_probabilities():
    """1,000 tokens of probability 1/2 each on a text of 500 bytes and 250 characters."""
    score = TextScore("coin", 1000, 500, 250, nll_nats=1000 * math.log(2))
    assert score.loss == pytest.approx(math.log(2))
    assert score.perplexity == pytest.approx(2)
    assert score.bits_per_byte == pytest.approx(2)
    assert score.bits_per_character == pytest.approx(4)


def test_total_is_one_text():
    total = perplexity.total([TextScore("a", 1, 2, 3, 4.0), TextScore("b", 10, 20, 30, 40.0)])
    assert total == TextScore("total", 11, 22, 33, 44.0)


def test_bits_of_a_text_split_in_two_add_up():
    """Split behind an EOS that ends a window: the second part begins as a text of its own does."""
    model = tiny_model("gpt2-tiny")
    rng = np.random.default_rng(2)
    halves = [np.append(rng.integers(1, 50, 44), EOS), rng.integers(1, 50, 20)]
    texts = [EncodedText("a", ["あ"], halves[0]), EncodedText("b", ["いう"], halves[1])]
    texts.append(EncodedText("both", ["あ", "いう"], np.concatenate(halves)))
    a, b, both = perplexity.score(model, texts, eos_token_id=EOS, context_length=16, batch_size=4)
    bits = [score.bits_per_byte * score.num_bytes for score in (a, b, both)]
    assert bits[0] + bits[1] == pytest.approx(bits[2], rel=1e-6)
    assert perplexity.total([a, b]).bits_per_byte == pytest.approx(both.bits_per_byte, rel=1e-6)


def test_unigram_baseline_from_known_frequencies():
    """Token 1 with probability 1/2, tokens 2 and EOS with 1/4: 1.5 bits a token, 8 tokens on 6 bytes."""
    text = EncodedText("t", ["日本"], np.array([1, 2, 1, EOS, 1, 2, 1, EOS]))
    assert perplexity.unigram_bits_per_byte(text) == pytest.approx(1.5 * 8 / 6)
    assert perplexity.unigram_bits_per_byte(EncodedText("t", ["日"], np.array([7, 7]))) == 0


def test_training_mode_is_restored():
    model = tiny_model("gpt2-tiny").train()
    perplexity.score(model, [EncodedText("a", ["x"], np.array([1]))], eos_token_id=0, context_length=4, batch_size=1)
    assert model.training


def test_xz_equals_the_command(tmp_path):
    texts = ["吾輩は猫である。" * 50, "名前はまだ無い。" * 30]
    file = tmp_path / "text"
    file.write_text("\n".join(texts), encoding="utf-8")
    try:
        compressed = subprocess.run(["xz", "-9", "--stdout", file], capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no xz command")
    # The command and Python's lzma may choose another integrity check: 4 against 8 bytes at two places.
    assert perplexity.xz_bits_per_byte(texts) == pytest.approx(8 * len(compressed) / file.stat().st_size, rel=0.05)


def test_encoded_text_counts_the_text_as_given(encoder):
    text = encode_text("t", ["ａ！", "が"], encoder)
    assert (text.num_bytes, text.num_characters) == (9, 3)
    assert text.token_ids.tolist() == [*(b + 1 for b in "ａ！".encode()), 0, *(b + 1 for b in "が".encode()), 0]


def test_choose_documents_keeps_order_and_the_limit():
    documents = [f"{n:03d}" * 10 for n in range(50)] + ["", "  "]
    chosen = choose_documents(iter(documents), max_bytes=100)
    assert len(chosen) == 3
    assert chosen == sorted(chosen)
    assert choose_documents(reversed(documents), 100) == chosen[::-1]  # which ones does not depend on their order
    assert len(choose_documents(documents, 1)) == 1
