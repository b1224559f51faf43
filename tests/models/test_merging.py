"""Merging file by file: for each model type the sum is that of peft, in the files and number format of the base."""

import json

import pytest
import torch
from safetensors.torch import load_file

from jpllm.models import lora, merging
from jpllm.models.build import load_trained
from tests.models.published import IDS, KINDS, publish

peft = pytest.importorskip("peft", reason="peft is not installed")


def trained(folder, **settings):
    """The published model with LoRA whose matrices have large random values, and what learns whole too."""
    model = load_trained(folder, dtype="saved")
    lora.add_lora(model, 4, 8.0, 0.0, **settings)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def weights_in(folder):
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_is_the_one_with_lora(kind, tmp_path):
    base = publish(tmp_path / "base", kind, torch.float32)
    model = trained(base)
    merging.write_merged(model, base, tmp_path / "merged")
    with torch.no_grad():
        wanted, plain = model(IDS).logits, load_trained(base)(IDS).logits
        assert (wanted - plain).abs().max() > 0.01
        torch.testing.assert_close(load_trained(tmp_path / "merged")(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    before, after = weights_in(base), weights_in(tmp_path / "merged")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == len(lora.changes(model))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_rounded_to_a_neighbour_and_right_on_average(kind, dtype, tmp_path):
    """Compared with float64: products that are less than half a step of a weight are not lost."""
    base = publish(tmp_path / "base", kind, dtype)
    model = trained(base)
    for name, weight in model.named_parameters():
        if ".lora_B" in name:
            weight.data *= 1e-3
    merging.write_merged(model, base, tmp_path / "merged")
    merging.write_merged(model, base, tmp_path / "again")
    before, after, again = (weights_in(tmp_path / name) for name in ("base", "merged", "again"))
    assert all(torch.equal(after[name], again[name]) for name in after)
    moved, learned = [], []
    for name, change in lora.changes(model).items():
        layer = change.layer
        product = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * 2.0
        product = product.T if layer.fan_in_fan_out else product
        wanted = before[name].double() + product
        step = torch.finfo(dtype).eps * wanted.abs().clamp(min=torch.finfo(dtype).smallest_normal)
        assert after[name].dtype == dtype
        assert ((after[name].double() - wanted).abs() <= 1.01 * step).all()
        moved.append((after[name].double() - before[name].double()).flatten())
        learned.append(product.detach().flatten())
    moved, learned = torch.cat(moved), torch.cat(learned)
    assert (moved @ learned / (learned @ learned)).item() == pytest.approx(1, abs=0.05)


def test_files_keep_their_names_and_the_index_is_of_them(tmp_path):
    base = publish(tmp_path / "base", "qwen3", torch.bfloat16, max_shard_size="60KB")
    merging.write_merged(trained(base), base, tmp_path / "merged")
    names = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(names) > 2
    assert sorted(file.name for file in (tmp_path / "merged").glob("*.safetensors")) == names
    indices = [json.loads((d / "model.safetensors.index.json").read_text()) for d in (base, tmp_path / "merged")]
    assert indices[0]["weight_map"] == indices[1]["weight_map"]
    assert indices[0]["metadata"]["total_size"] == indices[1]["metadata"]["total_size"]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_another_number_format(tmp_path):
    base = publish(tmp_path / "base", "llama", torch.bfloat16)
    merging.write_merged(trained(base), base, tmp_path / "merged", "float32")
    assert {weight.dtype for weight in weights_in(tmp_path / "merged").values()} == {torch.float32}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("kind", ["gpt2", "llama"], ids=["tied", "untied"])
@pytest.mark.parametrize("part", ["embeddings", "head"])
def test_what_learned_as_a_whole(kind, part, tmp_path):
    base = publish(tmp_path / "base", kind, torch.float32)
    model = trained(base, full=[part])
    merging.write_merged(model, base, tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(load_trained(tmp_path / "merged")(IDS).logits, model(IDS).logits)
    before, after = weights_in(base), weights_in(tmp_path / "merged")
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    tables = {"gpt2": {"embeddings": "wte", "head": "wte"}, "llama": {"embeddings": "embed_tokens", "head": "lm_head"}}
    assert moved & {"wte", "embed_tokens", "lm_head"} == {tables[kind][part]}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3_moe"], ids=["tied", "untied", "in_memory"])
def test_embeddings_that_grew(kind, tmp_path):
    base = publish(tmp_path / "base", kind, torch.float32)
    model = load_trained(base)
    rows = model.config.vocab_size + 3
    model.resize_token_embeddings(rows, mean_resizing=False)
    targets = ["q_proj", "experts.down_proj"] if kind == "qwen3_moe" else []
    lora.add_lora(model, 4, 8.0, 0.0, targets=targets)
    merging.write_merged(model, base, tmp_path / "merged")
    merged = load_trained(tmp_path / "merged")
    assert merged.config.vocab_size == rows
    assert torch.equal(merged.get_input_embeddings().weight, model.get_input_embeddings().weight)
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, model.eval()(IDS).logits)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_experts_are_merged_as_their_files_have_them(kind, tmp_path, caplog):
    base = publish(tmp_path / "base", kind, torch.float32)
    with caplog.at_level("INFO"):
        model = trained(base, targets=["q_proj", "experts.gate_up_proj", "experts.down_proj"])
        merging.write_merged(model, base, tmp_path / "merged")
    assert "merged in memory as a whole: its files hold the weights in another form" in caplog.text
    assert "LoRA leaves out" not in caplog.text
    before, after = weights_in(base), weights_in(tmp_path / "merged")
    assert {name: weight.shape for name, weight in before.items()} == {n: weight.shape for n, weight in after.items()}
    with torch.no_grad():
        torch.testing.assert_close(
            load_trained(tmp_path / "merged")(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-4
        )


def test_experts_that_are_left_out_are_named(tmp_path, caplog):
    model = trained(publish(tmp_path / "base", "qwen3_moe", torch.float32))
    left = sum(weight.numel() for name, weight in model.named_parameters() if "experts." in name)
    assert left == 2 * 4 * 3 * 32 * 64
    assert f"LoRA leaves out {left:,} parameters in stacks of experts" in caplog.text
    assert "lora_targets with experts.gate_up_proj, experts.down_proj" in caplog.text


def test_a_model_of_pickles_is_merged_in_memory(tmp_path):
    base = publish(tmp_path / "base", "llama", torch.float32)
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    model = trained(base)
    merging.write_merged(model, base, tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(load_trained(tmp_path / "merged")(IDS).logits, model(IDS).logits)


def test_a_sum_that_overflows(tmp_path):
    from jpllm.runtime import InputError

    base = publish(tmp_path / "base", "llama", torch.float16)
    model = trained(base)
    change = next(iter(lora.changes(model).values()))
    change.layer.lora_B["default"].weight.data += 1e6
    with pytest.raises(InputError, match=r"the merged weight is too large for torch\.float16; save: adapter keeps it"):
        merging.write_merged(model, base, tmp_path / "merged")
