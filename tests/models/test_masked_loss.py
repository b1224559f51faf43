"""The loss of a masked language model is the mean over what is to be predicted, and nothing else."""

import pytest
import torch

from jpllm.models.build import load_trained
from jpllm.models.losses import IGNORED_LABEL, use_masked_loss
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model


def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (3, 16), generator=generator)
    labels = torch.where(torch.rand(3, 16, generator=generator) < 0.3, ids, IGNORED_LABEL)
    return ids, labels


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("num_items", [None, 40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_those_of_float64(everywhere, num_items, smoothing):
    ids, labels = batch()
    exact = tiny_model("bert-tiny").double()
    chosen = labels != IGNORED_LABEL
    log_probabilities = exact(ids).logits[chosen].log_softmax(-1)
    wanted = log_probabilities.gather(-1, labels[chosen][:, None])[:, 0]
    mixed = (1 - smoothing) * wanted + smoothing * log_probabilities.mean(-1)
    expected = -mixed.sum() / (num_items or chosen.sum())
    expected.backward()

    model = tiny_model("bert-tiny").train()  # it has no dropout
    use_masked_loss(model, smoothing, everywhere)
    loss = model(input_ids=ids, labels=labels, num_items_in_batch=num_items).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for mine, reference in zip(model.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)
    if not smoothing:
        plain = tiny_model("bert-tiny")(input_ids=ids, labels=labels).loss.item()  # of transformers: the mean
        assert loss.item() * (num_items or chosen.sum().item()) == pytest.approx(plain * chosen.sum().item(), rel=1e-5)


def test_without_labels_nothing_changes():
    ids, _ = batch()
    model = tiny_model("bert-tiny")
    expected = model(input_ids=ids).logits
    use_masked_loss(model)
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_a_batch_with_nothing_to_predict_has_no_loss():
    ids, labels = batch()
    model = tiny_model("bert-tiny")
    use_masked_loss(model)
    loss = model(input_ids=ids, labels=torch.full_like(labels, IGNORED_LABEL)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_masked_model_is_no_causal_one(tmp_path):
    model = tiny_model("bert-tiny")
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a masked language model, which cannot predict the next token"):
        load_trained(tmp_path)
    ids, _ = batch()
    assert torch.equal(load_trained(tmp_path, type(model))(ids).logits.cpu(), model(ids).logits)


def test_an_encoder_ties_its_embeddings():
    ((key, message),) = ModelConfig(model="bert-tiny", tie_embeddings=False).check()
    assert (key, message) == ("tie_embeddings", "a BERT has one matrix for both; remove it")
