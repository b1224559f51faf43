"""LoRA: nothing changes before training, only its matrices learn, and the merged model is the same and a plain one."""

import pytest
import torch
from safetensors.torch import save_file

from jpllm.models import adapters
from jpllm.models.build import load_trained
from jpllm.models.lora import add_lora, has_lora
from jpllm.models.merging import write_merged
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model

pytest.importorskip("peft", reason="peft is not installed")
IDS = torch.arange(12).reshape(2, 6)
PRESETS = ["gpt2-tiny", "neox-tiny", "llama-tiny"]


def with_lora(preset, rank=4, seed=0):
    model = tiny_model(preset)
    add_lora(model, rank, alpha=8.0, dropout=0.0, seed=seed)
    return model


def train(model):
    """A few large steps, so that the matrices differ from their beginning."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_only_its_matrices_learn(preset):
    plain, model = tiny_model(preset), with_lora(preset)
    assert has_lora(model)
    assert not has_lora(plain)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, plain(IDS).logits)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning
    assert all(".lora_A." in name or ".lora_B." in name for name in learning)
    layers = {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[-1] for name in learning}
    expected = {
        "gpt2-tiny": {"c_attn", "c_proj", "c_fc"},
        "neox-tiny": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
        "llama-tiny": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    }
    assert layers == expected[preset]


@pytest.mark.parametrize("preset", PRESETS)
def test_merged_is_the_same_and_plain(preset, tmp_path):
    tiny_model(preset).save_pretrained(tmp_path / "base")
    model = with_lora(preset)
    train(model)
    with torch.no_grad():
        wanted = model(IDS).logits
        assert (wanted - tiny_model(preset)(IDS).logits).abs().max() > 0.1
    merged = tmp_path / "merged"
    write_merged(model, tmp_path / "base", merged)
    assert sorted(file.name for file in merged.iterdir() if "adapter" in file.name) == []
    with torch.no_grad():
        torch.testing.assert_close(load_trained(merged)(IDS).logits.cpu(), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(IDS).logits, wanted)  # the one that was trained is as it was
    assert has_lora(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_matrices_of_a_checkpoint(preset, tmp_path):
    model = with_lora(preset)
    train(model)
    adapters.save(model, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()  # a checkpoint is small
    again = with_lora(preset, seed=1)
    adapters.restore(tmp_path, again)
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=0, atol=0)
    save_file({"x": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="the LoRA matrices of another model or rank"):
        adapters.restore(tmp_path, again)


def test_without_the_package(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"lora_rank: needs the package peft: pip install 'jpllm\[lora\]'"):
        with_lora("gpt2-tiny")
