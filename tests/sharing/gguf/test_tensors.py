"""Weights in a GGUF file, read back by others: by transformers, and tensor by tensor by the package gguf."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jpllm.sharing.gguf import architectures
from jpllm.sharing.gguf import tensors as gguf_tensors
from tests.models.test_build import tiny_model

gguf = pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 49]])


def model_with_biases(preset, **settings):
    """All weights random: what is one or zero in a new model would hide a mistake."""
    model = tiny_model(preset, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def write(model, file, precision="f32"):
    writer = architectures.new_writer(model, str(file))
    gguf_tensors.add_tensors(writer, model, precision)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("preset", ["llama-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("tie", [True, False])
def test_transformers_reads_the_same_model(preset, tie, tmp_path):
    model = model_with_biases(preset, tie_embeddings=tie)
    names = write(model, tmp_path / "a.gguf")
    assert ("output.weight" in names) != tie
    found = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="a.gguf", config=model.config, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tie", [True, False])
def test_neox_by_head_becomes_neox_by_kind(tie, tmp_path):
    """Expected layouts written out head by head, two heads of 16."""
    model = model_with_biases("neox-tiny", tie_embeddings=tie)
    found = write(model, tmp_path / "a.gguf")
    attention = model.gpt_neox.layers[1].attention
    parts = attention.query_key_value.weight.detach().numpy().reshape(2, 48, 32)
    wanted = np.concatenate([parts[head, kind : kind + 16] for kind in (0, 16, 32) for head in (0, 1)])
    np.testing.assert_array_equal(found["blk.1.attn_qkv.weight"].data, wanted)
    bias = attention.query_key_value.bias.detach().numpy().reshape(2, 48)
    wanted = np.concatenate([bias[head, kind : kind + 16] for kind in (0, 16, 32) for head in (0, 1)])
    np.testing.assert_array_equal(found["blk.1.attn_qkv.bias"].data, wanted)
    np.testing.assert_array_equal(found["output.weight"].data, model.lm_head.weight.detach().numpy())
    assert len(found) == 2 + 12 * 2 + 2


def test_half_precision_is_for_matrices(tmp_path):
    model = model_with_biases("gpt2-tiny")
    found = write(model, tmp_path / "a.gguf", "f16")
    kinds = {name: tensor.data.dtype for name, tensor in found.items()}
    assert kinds["token_embd.weight"] == kinds["blk.0.ffn_up.weight"] == np.float16
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.ffn_up.bias"] == kinds["position_embd.weight"] == np.float32
    own = model.transformer.h[0].mlp.c_fc.weight.detach().T.half().numpy()
    np.testing.assert_array_equal(found["blk.0.ffn_up.weight"].data, own)


@pytest.mark.parametrize("preset", ["llama-tiny", "gpt2-tiny", "neox-tiny"])
def test_our_presets_survive(preset):
    assert list(architectures.problems(tiny_model(preset).config, type(tiny_model(preset)).__name__)) == []


@pytest.mark.parametrize(
    ("preset", "change", "message"),
    [
        ("bert-tiny", {}, "BertForMaskedLM is not an architecture that is converted here"),
        (
            "gpt2-tiny",
            {"activation_function": "relu"},
            "with activation_function gelu_pytorch_tanh; the model has relu",
        ),
        ("neox-tiny", {"attention_bias": False}, "with attention_bias True; the model has False"),
        ("llama-tiny", {"hidden_act": "relu"}, "with hidden_act silu; the model has relu"),
        ("llama-tiny", {"rope_parameters": {"rope_type": "yarn"}}, "its rotary positions are scaled"),
    ],
)
def test_what_does_not_survive(preset, change, message):
    model = tiny_model(preset)
    for key, value in change.items():
        setattr(model.config, key, value)
    (found,) = architectures.problems(model.config, type(model).__name__)
    assert message in found
