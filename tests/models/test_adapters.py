"""Folders with adapters: what peft writes is read as peft reads it, and what does not fit or is more is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from jpllm.models import adapters, lora
from jpllm.models.build import load_trained
from jpllm.models.merging import merge_adapter
from jpllm.runtime import InputError
from tests.models.published import IDS, publish

peft = pytest.importorskip("peft", reason="peft is not installed")


def strangers(tmp_path, kind="llama", **settings):
    """Somebody's adapter, with random matrices; returns its folder and the logits that peft gives with it."""
    from transformers import AutoModelForCausalLM

    base = publish(tmp_path / "base", kind, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **settings))
        for name, weight in model.named_parameters():
            if "modules_to_save.default" in name:
                weight.data += torch.randn(weight.shape) * 0.1
    model.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        return tmp_path / "adapter", model.eval()(IDS).logits


SETTINGS = {
    "two layers": {"target_modules": ["q_proj", "v_proj"], "r": 4, "lora_alpha": 3},
    "all": {"target_modules": "all-linear", "r": 2, "lora_alpha": 7, "use_rslora": True},
    "pattern": {"target_modules": r".*\.layers\.1\..*(up|down)_proj", "r": 2},
    "ranks": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 6},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 5},
    },
    "head": {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "norm"]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_strangers_adapter(settings, tmp_path):
    folder, wanted = strangers(tmp_path, **settings)
    model = load_trained(folder)
    assert not [name for name, weight in model.named_parameters() if weight.requires_grad]
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, wanted)
        plain = load_trained(tmp_path / "base")(IDS).logits
        assert (plain - wanted).abs().max() > 1e-3
        merge_adapter(folder, None, tmp_path / "merged")
        torch.testing.assert_close(load_trained(tmp_path / "merged")(IDS).logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen3_moe"])
def test_of_other_kinds(kind, tmp_path):
    names = {"gpt2": ["c_attn", "c_proj"], "gpt_neox": ["dense"], "qwen3_moe": ["q_proj"]}[kind]
    more = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]} if kind == "qwen3_moe" else {}
    folder, wanted = strangers(tmp_path, kind, target_modules=names, **more)
    with torch.no_grad():
        torch.testing.assert_close(load_trained(folder)(IDS).logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "full"), [("gpt2", ["embeddings"]), ("llama", ["embeddings", "head"])])
def test_our_own_with_whole_parts_is_merged(kind, full, tmp_path):
    base = publish(tmp_path / "base", kind, torch.float32)
    model = load_trained(base)
    lora.add_lora(model, 4, 8.0, 0.0, full=full)
    with torch.no_grad():
        for weight in lora.whole_parts(model).values():
            weight += 0.1 * torch.randn_like(weight)
    adapters.save(model, tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", str(base), tmp_path / "merged")
    with torch.no_grad():
        wanted = model.eval()(IDS).logits
        assert (load_trained(base)(IDS).logits - wanted).abs().max() > 0.1
        torch.testing.assert_close(load_trained(tmp_path / "merged")(IDS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_our_own_with_embeddings_that_grew(tmp_path):
    base = publish(tmp_path / "base", "gpt2", torch.float32)
    model = load_trained(base)
    model.resize_token_embeddings(105, mean_resizing=False)
    lora.add_lora(model, 4, 8.0, 0.0, full=["embeddings"])
    adapters.save(model, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(load_trained(tmp_path / "adapter")(IDS).logits, model.eval()(IDS).logits)


def test_another_base_model(tmp_path):
    folder, wanted = strangers(tmp_path, target_modules=["q_proj"])
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"base: no such folder"):
        load_trained(folder)
    with torch.no_grad():
        torch.testing.assert_close(load_trained(folder, base_model=str(tmp_path / "moved"))(IDS).logits, wanted)
    other = publish(tmp_path / "other", "gpt2", torch.float32)
    with pytest.raises(
        InputError, match=r"the base model \(gpt2\) has no such layer: they do not belong to each other"
    ):
        load_trained(folder, base_model=str(other))


def test_where_the_tokenizer_lies(tmp_path):
    folder, _ = strangers(tmp_path, target_modules=["q_proj"])
    assert adapters.tokenizer_source(folder) == str(tmp_path / "base")
    assert adapters.tokenizer_source(folder, "owner/name") == "owner/name"
    (folder / "tokenizer.json").write_text("{}")
    assert adapters.tokenizer_source(folder) == str(folder)
    with pytest.raises(InputError, match=r"base_model: .* is no folder with an adapter"):
        adapters.tokenizer_source(tmp_path / "base", "owner/name")


def edited(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora: true: only plain LoRA is read; merge the adapter with peft"),
        ({"peft_type": "PREFIX_TUNING"}, 'peft_type: "PREFIX_TUNING": only plain LoRA is read'),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "modeling_x"}}, 'auto_mapping: "modeling_x": it'),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights: "pissa"'),
        ({"bias": "all"}, 'bias: "all"'),
        ({"r": 0}, "r: 0 is none that an adapter can have"),
        ({"r": 10**9}, "r: 1000000000 is none"),
        ({"lora_alpha": "8"}, "lora_alpha: '8' is none"),
        ({"lora_alpha": float("nan")}, "lora_alpha: nan is none"),
        ({"alpha_pattern": {"(q_proj)+$": 5}}, "alpha_pattern: only names are read, no patterns"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters: .*is no linear layer of llama"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path; give the key base_model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "/nowhere/at/all: no such folder"),
    ],
)
def test_settings_that_are_refused(changes, message, tmp_path):
    folder, _ = strangers(tmp_path, target_modules=["q_proj"])
    edited(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_trained(folder)


def test_a_pattern_of_a_stranger_is_never_tried(tmp_path):
    """Which layers have matrices is read from the file; this pattern would take for ever."""
    folder, wanted = strangers(tmp_path, target_modules=["q_proj"])
    edited(folder, target_modules="(a|a?)+" * 20 + "$", layers_pattern="(x+x+)+y", exclude_modules="(.*)*q_proj")
    with torch.no_grad():
        torch.testing.assert_close(load_trained(folder)(IDS).logits, wanted)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            torch.zeros(8, 63),
            "the layer is 64 × 64: they do not belong",
        ),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", None, "they do not belong to each other"),
        ("model.layers.0.self_attn.q_proj.lora_B.weight", None, "they do not belong to each other"),
        ("model.layers.9.self_attn.q_proj.lora_A.weight", torch.zeros(8, 64), r"has no such layer"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", torch.full((8, 64), torch.inf), "values that are not finite"),
        ("model.norm.weight", torch.zeros(63), "does not fit its base model: of another shape"),
        ("model.unknown.weight", torch.zeros(64), "does not fit its base model: unexpected"),
    ],
)
def test_weights_that_are_refused(name, tensor, message, tmp_path):
    folder, _ = strangers(tmp_path, target_modules=["q_proj"])
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    if tensor is None:
        del weights[f"base_model.model.{name}"]
    else:
        weights[f"base_model.model.{name}"] = tensor
    save_file(weights, file)
    with pytest.raises(InputError, match=message):
        load_trained(folder)


def test_other_files_are_refused(tmp_path):
    folder, _ = strangers(tmp_path, target_modules=["q_proj"])
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"holds no adapter_model\.safetensors; other formats of weights are not read"):
        load_trained(folder)
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"adapter_config\.json: no JSON object"):
        load_trained(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json: it cannot be read as JSON"):
        load_trained(folder)


def test_a_head_that_learned_apart_from_tied_embeddings(tmp_path):
    folder, _ = strangers(tmp_path, "gpt2", target_modules=["c_attn"], modules_to_save=["lm_head"])
    with pytest.raises(InputError, match="learned apart from the matrix that embeddings and output layer"):
        load_trained(folder)
