"""The loss in chunks is PyTorch's cross-entropy, and so are its gradients."""

import pytest
import torch
from torch.nn import functional

from jpllm.models import losses
from jpllm.models.logits import LogitFunction
from jpllm.models.losses import causal_loss, use_chunked_loss
from tests.models.test_build import tiny_model

VOCABULARY, WIDTH = 37, 12


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Three rows to a chunk, so that the last chunk is not full."""
    monkeypatch.setattr(losses, "CHUNK_LOGITS_CPU", 3 * VOCABULARY)


def inputs(dtype=torch.float32, spread: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(2, 9, WIDTH, generator=generator) * spread).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (2, 9), generator=generator)
    labels[0, 3:6] = labels[1, 0] = -100
    return hidden, weight, labels


def reference(hidden, weight, labels, divisor=None, label_smoothing=0.0):
    """Loss and gradients by PyTorch in float64."""
    hidden, weight = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    logits = functional.linear(hidden[:, :-1], weight).flatten(0, 1)
    loss = functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum", label_smoothing=label_smoothing)
    loss = loss / (divisor or (labels[:, 1:] != -100).sum())
    return loss, *torch.autograd.grad(loss, [hidden, weight])


@pytest.mark.parametrize("divisor", [None, 40, torch.tensor(40)])
def test_loss_and_gradients_are_those_of_float64(divisor):
    hidden, weight, labels = inputs()
    loss = causal_loss(hidden, weight, labels, divisor)
    loss.backward()
    expected, hidden_gradient, weight_gradient = reference(hidden, weight, labels, divisor)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad.double(), hidden_gradient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight.grad.double(), weight_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("num_left", [0, 1, 5])
def test_few_labels_as_in_instruction_tuning(num_left):
    hidden, weight, labels = inputs()
    labels.flatten()[num_left + 1 :] = -100  # the first one of a row is predicted by nothing
    causal_loss(hidden, weight, labels, 7).backward()
    _, hidden_gradient, weight_gradient = reference(hidden, weight, labels, 7)
    torch.testing.assert_close(hidden.grad.double(), hidden_gradient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight.grad.double(), weight_gradient, rtol=1e-5, atol=1e-7)


def test_label_smoothing_is_that_of_pytorch():
    hidden, weight, labels = inputs()
    loss = causal_loss(hidden, weight, labels, None, label_smoothing=0.2)
    loss.backward()
    expected, hidden_gradient, weight_gradient = reference(hidden, weight, labels, label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(hidden.grad.double(), hidden_gradient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(weight.grad.double(), weight_gradient, rtol=1e-5, atol=1e-7)


def test_a_target_of_vanishing_probability_has_a_finite_loss():
    hidden, weight, labels = inputs(spread=200)
    loss = causal_loss(hidden, weight, labels, None)
    assert loss.item() == pytest.approx(reference(hidden, weight, labels)[0].item(), rel=1e-6)
    assert loss.item() > 200  # probabilities of float32 end at exp(-104)


@pytest.mark.parametrize(("scale", "cap"), [(0.25, None), (1.0, 5.0), (0.5, 3.0), (-2.0, 7.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_scaled_and_capped_logits_with_a_bias_have_the_gradients_of_float64(scale, cap, smoothing):
    hidden, weight, labels = inputs()
    bias = torch.linspace(-2, 2, VOCABULARY).requires_grad_()
    causal_loss(hidden, weight, labels, None, smoothing, bias, LogitFunction(scale, cap)).backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    logits = functional.linear(exact[0][:, :-1], exact[1], exact[2]).flatten(0, 1) * scale
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    loss = functional.cross_entropy(logits, labels[:, 1:].flatten(), label_smoothing=smoothing)
    again = causal_loss(hidden, weight, labels, None, smoothing, bias, LogitFunction(scale, cap))
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    for found, expected in zip((hidden, weight, bias), exact, strict=True):
        torch.testing.assert_close(found.grad.double(), expected.grad, rtol=1e-5, atol=1e-7)


def test_autocast_computes_the_products_in_bf16_and_the_gradient_of_the_weights_in_float32():
    hidden, weight, labels = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        loss = causal_loss(hidden, weight, labels, None)
    loss.backward()
    expected, hidden_gradient, weight_gradient = reference(hidden, weight, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)
    assert loss.item() != pytest.approx(expected.item(), rel=1e-6)
    assert weight.grad.dtype == hidden.grad.dtype == torch.float32
    torch.testing.assert_close(hidden.grad.double(), hidden_gradient, rtol=0.05, atol=5e-3)
    torch.testing.assert_close(weight.grad.double(), weight_gradient, rtol=0.05, atol=5e-3)


def test_a_frozen_output_layer_gets_no_gradient_and_the_rest_does():
    hidden, weight, labels = inputs()
    causal_loss(hidden, weight.detach(), labels, None).backward()
    torch.testing.assert_close(hidden.grad.double(), reference(hidden, weight, labels)[1], rtol=1e-5, atol=1e-7)
    assert weight.grad is None


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_a_model_learns_the_same_with_and_without_chunks(preset):
    whole, chunked = tiny_model(preset).train(), tiny_model(preset).train()
    use_chunked_loss(chunked)
    ids = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, 0] = -100
    outputs = [model(input_ids=ids, labels=labels, num_items_in_batch=54) for model in (whole, chunked)]
    assert outputs[1].loss.item() == pytest.approx(outputs[0].loss.item(), rel=1e-6)
    assert outputs[1].logits is None
    for output in outputs:
        output.loss.backward()
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7, msg=name)
    assert torch.equal(whole(input_ids=ids).logits, chunked(input_ids=ids).logits)


def test_output_layer_is_read_in_its_own_forward_pass_only():
    """ZeRO-3 and FSDP2 take the weight of a module away outside of it."""
    model = tiny_model("llama-tiny")
    ids = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(0))
    expected = model(input_ids=ids, labels=ids).loss.item()
    use_chunked_loss(model)
    head = model.get_output_embeddings()
    whole, nothing = head.weight.data, torch.empty(0)
    head.weight.data = nothing
    head.register_forward_pre_hook(lambda *_: setattr(head.weight, "data", whole))
    head.register_forward_hook(lambda *_: setattr(head.weight, "data", nothing))
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids).loss.item() == pytest.approx(expected, rel=1e-6)
