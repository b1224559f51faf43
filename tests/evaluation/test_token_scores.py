"""The loss of answers: that of float64, whatever the batch size and the padding side."""

import numpy as np
import pytest
import torch

from jpllm.data.conversations.blocks import padded
from jpllm.data.conversations.layouts import Conversation
from jpllm.data.conversations.rows import Row
from jpllm.evaluation import token_scores
from tests.models.test_build import tiny_model

PAD = 49


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    found = []
    for size, num_given in ((9, 4), (5, 2), (12, 3)):
        learned = np.arange(size) >= num_given
        found.append(Row(Conversation("", []), rng.integers(1, PAD, size).astype(np.int32), learned))
    return found


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_score_is_that_of_float64(rows, preset, side, batch_size):
    model = tiny_model(preset)
    exact = tiny_model(preset).double()
    total, num_right = 0.0, 0
    for row in rows:
        logits = exact(torch.from_numpy(row.ids.astype(np.int64))[None]).logits[0, :-1]
        wanted = torch.from_numpy(row.ids[1:].astype(np.int64))
        chosen = torch.from_numpy(row.learned[1:])
        total += torch.nn.functional.cross_entropy(logits[chosen], wanted[chosen], reduction="sum").item()
        num_right += (logits.argmax(-1) == wanted)[chosen].sum().item()
    score = token_scores.score_rows(model, rows, pad_token_id=PAD, padding_side=side, batch_size=batch_size)
    assert (score.num_tokens, score.num_correct) == (5 + 3 + 9, num_right)
    assert score.loss == pytest.approx(total / 17, abs=1e-6)


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_logits_do_not_depend_on_the_padding_side(rows, preset):
    model = tiny_model(preset)
    items = [{"input_ids": row.ids, "labels": row.labels} for row in rows]
    logits = {}
    for side in ("left", "right"):
        batch = {name: torch.from_numpy(values) for name, values in padded(items, PAD, side).items()}
        mask, _ = batch["attention_mask"].bool(), batch.pop("labels")
        with torch.no_grad():
            logits[side] = model(**batch).logits[mask]
    torch.testing.assert_close(logits["left"], logits["right"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("answer", "wanted", "right"),
    [
        ("１２個です。", "12個です。", True),
        (" 12 個です。\n", "12個です。", True),
        ("13個です。", "12個です。", False),
        ("計算すると7+5=12となり、答えは12個です。", "式は7+5=12です。答えは12個です。", True),
        ("式は7+5=12です。答えは13個です。", "式は7+5=12です。答えは12個です。", False),
        ("12個です。", "式は7+5=12です。答えは12個です。", False),
    ],
)
def test_right_answers(answer, wanted, right):
    assert token_scores.is_right(answer, wanted) == right
