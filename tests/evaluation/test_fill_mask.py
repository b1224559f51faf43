"""Scores of hidden words against an independent computation, and the gaps of prompts."""

import numpy as np
import pytest
import torch

from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.data.blocks.masking import Masking
from jpllm.data.corpus import EncodedText
from jpllm.evaluation import fill_mask as filling
from jpllm.evaluation.fill_mask import fill_mask, refuse_unfillable_prompts
from jpllm.evaluation.token_scores import TokenScore
from jpllm.runtime import InputError
from jpllm.tokenizer.load import load
from jpllm.tokenizer.special_tokens import ensure_mask_token
from tests.models.test_build import tiny_model

MASK = 49
MASKING = Masking({index: chr(0x4E00 + index).encode() for index in range(1, MASK)}, 50, MASK)
TEXTS = [
    EncodedText(name, [""], np.random.default_rng(seed).integers(1, MASK, num_tokens), group)
    for seed, (name, num_tokens, group) in enumerate([("a", 150, "old"), ("b", 40, None)])
]


def score(batch_size: int, **settings) -> list[TokenScore]:
    model = tiny_model("bert-tiny", dropout=0.1).train()
    scores = filling.score(model, TEXTS, masking=MASKING, context_length=32, batch_size=batch_size, **settings)
    assert model.training
    return scores


def test_scores_equal_one_block_at_a_time_in_float64():
    exact = tiny_model("bert-tiny").double()
    for text, found in zip(TEXTS, score(batch_size=4), strict=True):
        counts = np.zeros(3)
        for ids, labels in filling.hidden_blocks(text.token_ids, MASKING, 32):
            chosen = torch.from_numpy(labels != IGNORED_LABEL)
            with torch.no_grad():
                log_probabilities = exact(torch.from_numpy(ids)[None]).logits[0, chosen].log_softmax(-1)
            wanted = torch.from_numpy(labels)[chosen]
            nll_nats = -log_probabilities.gather(-1, wanted[:, None]).sum()
            counts += [len(wanted), (log_probabilities.argmax(-1) == wanted).sum(), nll_nats]
        assert (found.num_tokens, found.num_correct) == (counts[0], counts[1])
        assert found.nll_nats == pytest.approx(counts[2], rel=1e-6)
        assert found.num_tokens == pytest.approx(0.15 * len(text.token_ids), rel=0.35)


def test_the_same_masks_every_time_and_for_any_batch():
    assert score(4) == score(4)
    one = score(1)
    assert [s.num_tokens for s in one] == [s.num_tokens for s in score(4)]
    assert filling.total(one).loss == pytest.approx(filling.total(score(4)).loss, rel=1e-6)


def test_ranks_share_the_batches(monkeypatch):
    """The sums of two ranks, which call the model equally often, are the whole."""
    whole = score(2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: None)
    halves = [score(2, rank=rank, num_ranks=2) for rank in range(2)]
    for expected, *parts in zip(whole, *halves, strict=True):
        assert sum(part.num_tokens for part in parts) == expected.num_tokens
        assert sum(part.nll_nats for part in parts) == pytest.approx(expected.nll_nats, rel=1e-9)


def test_fill_mask(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    ensure_mask_token(tokenizer)
    model = tiny_model("bert-tiny", len(tokenizer))
    with torch.no_grad():
        model.cls.predictions.bias[tokenizer.convert_tokens_to_ids("日")] = 50.0
    first, second = fill_mask(model, tokenizer, ["今日は[MASK]。", "[MASK]と[MASK]"])
    assert first.startswith("日 100.0%, ")
    assert len(first.split(", ")) == 5
    assert [gap[:8] for gap in second.split(" | ")] == ["日 100.0%"[:8]] * 2


def test_prompts_that_cannot_be_filled(tokenizer_dir):
    tokenizer = load(tokenizer_dir)
    ensure_mask_token(tokenizer)
    model = tiny_model("bert-tiny", len(tokenizer))
    with pytest.raises(InputError, match=r"the prompt '吾輩は猫である' has no gap to fill in; write \[MASK\]"):
        refuse_unfillable_prompts(model, tokenizer, ["[MASK]", "吾輩は猫である"])
    with pytest.raises(InputError, match=r"has \d+ tokens; the model reads at most 128"):
        refuse_unfillable_prompts(model, tokenizer, ["[MASK]" * 129])
