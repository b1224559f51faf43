"""The files for published models on a CPU: the same keys, with a small random model of the same family."""

import json

import pytest
import torch

from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo.builtin import instructions
from tests.configs import published_shapes
from tests.configs.test_configs import ROOT
from tests.recipes.test_pretrain_scratch import call_recipe

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FILES = {
    "cpt/qwen3_0.6b_8gb": "Qwen/Qwen3-0.6B-Base",
    "cpt/llm_jp_3_1.8b_lora_12gb": "llm-jp/llm-jp-3-1.8b",
    "cpt/qwen3_4b_qlora_12gb": "Qwen/Qwen3-4B-Base",
    "sft/gemma3_1b_8gb": "google/gemma-3-1b-pt",
    "sft/llm_jp_3_3.7b_qlora_12gb": "llm-jp/llm-jp-3-3.7b",
    "sft/qwen3_8b_qlora_16gb": "Qwen/Qwen3-8B",
}


@pytest.fixture
def publish(tokenizer_dir, tmp_path):
    """Returns a function that saves a small random model of the kind of a published one, with a tokenizer."""

    def save_small(name):
        from transformers import AutoConfig, AutoModelForCausalLM

        from jpllm.tokenizer.load import load

        tokenizer = load(tokenizer_dir)
        tokenizer.chat_template = TEMPLATE
        shape = published_shapes.CONFIGS[name]
        config = AutoConfig.for_model(shape["model_type"], **SMALL, vocab_size=len(tokenizer))
        config.tie_word_embeddings = shape.get("tie_word_embeddings", True)
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save_small


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_published_file_trains_a_small_model_of_its_family(name, publish, corpus_file, monkeypatch, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed")
    if "qlora" in name:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    recipe = name.partition("/")[0]
    smaller = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 2, "save_steps": 0, "eval_steps": 20}
    smaller |= {"logging_steps": 5, "optimizer": "adamw", "max_new_tokens": 4, "warmup_steps": 0}
    if recipe == "cpt":
        replayed = f"{{path: {corpus_file}, name: old}}"
        data = {"sources": corpus_file, "replay_sources": f"[{replayed}]", "shards_dir": tmp_path / "shards"}
        data |= {"tokens": 5000, "sequence_length": 64, "held_out_bytes": 4000}
    else:
        write_jsonl(instructions(seed=1, count=60), tmp_path / "rows.jsonl")
        data = {"sources": tmp_path / "rows.jsonl", "epochs": 1, "sequence_length": 160, "held_out_rows": 10}
        data |= {"answered_rows": 2}
    given = smaller | data | {"model": publish(FILES[name]), "output_dir": tmp_path / "run"}
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    script, file = ROOT / "recipes" / f"{recipe}.py", ROOT / "recipes" / "configs" / f"{name}.yaml"
    call_recipe(monkeypatch, script, ["--config", str(file), *words])
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] < losses[0]
    assert ("unquantized_loss" in found) == ("qlora" in name)
    expected = found.get("unquantized_loss", found["loss"])
    if recipe == "cpt" and "lora" not in name:
        assert found["reloaded_loss"] == pytest.approx(expected, abs=1e-3)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
