"""Packed documents do not see each other; where they would, training is refused."""

import pytest
import torch

from jpllm.models.isolation import isolate_documents
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_presets_isolate_documents(preset):
    model = tiny_model(preset)
    isolate_documents(model)
    ids = torch.tensor([[5, 6, 7, 0, 8, 9]])
    other = torch.tensor([[1, 2, 3, 0, 8, 9]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    logits = [model(input_ids=i, position_ids=positions).logits for i in (ids, other)]
    assert torch.equal(logits[0][:, 3:], logits[1][:, 3:])
    assert not torch.equal(*(model(input_ids=i).logits[:, 3:] for i in (ids, other)))


def test_a_model_without_positions_is_refused():
    """Mamba has no attention mask at all: its state runs on from document to document."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4, initializer_range=0.5)
    with pytest.raises(InputError, match="isolate_documents: false"):
        isolate_documents(MambaForCausalLM(config))


def deep_model(dtype):
    """A model in which roundings add up: 24 layers whose weights are larger than usual."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=128, num_hidden_layers=24)
    config.initializer_range = 0.1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(dtype)


def test_roundings_of_16_bits_are_no_other_document():
    isolate_documents(deep_model(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_ignores_the_boundary_is_refused(monkeypatch, dtype):
    model = tiny_model("gpt2-tiny").to(dtype)
    forward = model.base_model.forward
    monkeypatch.setattr(
        model.base_model,
        "forward",
        lambda input_ids, **rest: forward(input_ids, **rest, attention_mask=torch.ones_like(input_ids)),
    )
    with pytest.raises(InputError, match="isolate_documents: with GPT2LMHeadModel"):
        isolate_documents(model)
