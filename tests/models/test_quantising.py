"""4-bit weights: what they take, that they are the same each time, and that LoRA learns beside them as it should."""

import copy
import os
import subprocess
import sys

import pytest
import torch

from jpllm.models import quantising
from jpllm.models.build import load_to_continue, load_trained
from jpllm.models.dtypes import bytes_per_parameter
from jpllm.models.lora import add_lora, changes
from jpllm.models.losses import use_chunked_loss
from jpllm.runtime import InputError
from tests.models.published import IDS, publish

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
pytest.importorskip("peft", reason="peft is not installed")


def quantised(folder, dtype="auto"):
    return load_trained(folder, dtype=dtype, quantization="nf4")


def unpacked(model):
    """A copy whose 4-bit layers are plain ones with the same weights, in float32."""
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            layer = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            layer.weight.data = weight.float()
            if module.bias is not None:
                layer.bias.data = module.bias.data.float()
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, layer)
    plain.is_loaded_in_4bit = False
    return plain


def gradients(model):
    add_lora(model, 4, 8.0, 0.0)
    generator = torch.Generator().manual_seed(1)
    learning = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for name in sorted(learning):
        learning[name].data += torch.randn(learning[name].shape, generator=generator) * 0.02
    model.train()
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in learning.items()}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_gradients_equal_those_beside_the_same_weights_unpacked(kind, tmp_path):
    model = quantised(publish(tmp_path, kind, torch.float32))
    plain = unpacked(model)
    wanted_loss, wanted = gradients(plain)
    loss, found = gradients(model)
    assert loss == pytest.approx(wanted_loss, abs=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_after_an_evaluation_is_that_before(dtype, tmp_path):
    """bitsandbytes would pack weights anew in an evaluation on some CPUs, and lose the gradient through them."""
    folder = publish(tmp_path, "llama", dtype)
    _, before = gradients(quantised(folder))
    model = quantised(folder)
    with torch.no_grad():
        model.eval()(IDS)
    _, after = gradients(model)
    for name, gradient in before.items():
        assert torch.equal(after[name], gradient), name


def test_the_same_bytes_each_time(tmp_path):
    folder = publish(tmp_path, "llama", torch.bfloat16)
    first, second = quantised(folder).state_dict(), quantised(folder).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sum("quant_state" in name for name in first) == 14


def test_bytes_of_a_weight(tmp_path):
    """Of layers that are large enough for the scales of scales to be as good as nothing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", hidden_size=512, intermediate_size=1024, num_hidden_layers=1, vocab_size=64)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = quantised(tmp_path)
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    count = sum(layer.in_features * layer.out_features for layer in layers)
    assert count == sum(map(quantising.num_elements, (layer.weight for layer in layers)))
    taken = sum(
        layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        for layer, state in ((layer, layer.weight.quant_state) for layer in layers)
    )
    assert taken / count == pytest.approx(bytes_per_parameter("nf4"), rel=1e-3)
    assert model.get_input_embeddings().weight.dtype == model.lm_head.weight.dtype == torch.bfloat16


def test_activation_checkpointing_and_the_chunked_loss_change_nothing(tmp_path, tokenizer_dir):
    folder = publish(tmp_path, "llama", torch.float32)
    wanted_loss, wanted = gradients(quantised(folder))
    model = quantised(folder)
    use_chunked_loss(model)
    model.activation_checkpointing_enable()
    loss, found = gradients(model)
    assert loss == pytest.approx(wanted_loss, abs=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_model_without_layers_that_can_be_4_bit(tmp_path):
    folder = publish(tmp_path, "falcon", torch.float32)
    with pytest.raises(InputError, match="quantization: bitsandbytes makes none of the layers of falcon 4-bit"):
        quantised(folder)


def test_experts_stay_as_they_are_and_are_named(tmp_path, caplog):
    quantised(publish(tmp_path, "mixtral", torch.bfloat16))
    assert "quantization: 24,576 parameters are 4-bit; 197,120 in layers of other kinds" in caplog.text


def test_weights_that_are_not_finite(tmp_path):
    from safetensors.torch import load_file, save_file

    file = publish(tmp_path, "llama", torch.bfloat16) / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.layers\.1\.mlp\.up_proj\.weight has values that are not finite"):
        quantised(tmp_path)


def test_no_code_is_taken_from_the_hub(tmp_path):
    """In a process of its own: importing bitsandbytes asks a package `kernels` for code, where there is one."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('asked')")
    code = "from jpllm.runtime import configure_logging; configure_logging(); import bitsandbytes, peft"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "kernels" in done.stderr) == (0, False), done.stderr


def test_without_the_package(tmp_path, monkeypatch):
    folder = publish(tmp_path, "llama", torch.float32)
    monkeypatch.setattr(quantising.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"quantization: needs the package bitsandbytes: pip install 'jpllm\[8bit\]'"):
        quantised(folder)


def test_a_model_of_conv1d_is_merged_the_right_way_round(tmp_path):
    """GPT-2's square layer, whose sum has one shape either way."""
    from safetensors.torch import load_file

    from jpllm.models import merging

    base = publish(tmp_path / "base", "gpt2", torch.float32)
    model = quantised(base)
    gradients(model)
    merging.write_merged(model, base, tmp_path / "merged")
    change = changes(model)["transformer.h.0.attn.c_proj.weight"]
    product = change.layer.lora_B["default"].weight @ change.layer.lora_A["default"].weight * 2.0
    name = "transformer.h.0.attn.c_proj.weight"
    before, after = (load_file(folder / "model.safetensors")[name] for folder in (base, tmp_path / "merged"))
    torch.testing.assert_close(after - before, product.T.detach(), rtol=1e-4, atol=1e-6)


def test_ready_to_be_trained(tmp_path, tokenizer_dir):
    from jpllm.tokenizer.load import load

    folder = publish(tmp_path, "llama", torch.bfloat16)
    with pytest.raises(InputError, match="the model has 100 embeddings, the tokenizer"):
        load_to_continue(folder, load(tokenizer_dir), 32, dtype="auto", quantization="nf4")
