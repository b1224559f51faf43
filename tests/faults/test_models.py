"""Models as people have them: read where that is safe, else refused with the true reason, in bounded time."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from jpllm import cli
from jpllm.models.build import context_length, load_to_continue, load_trained, num_positions
from jpllm.models.classifier import build_classifier, layers_of
from jpllm.models.isolation import isolate_documents
from jpllm.models.trunk import gives_hidden_states
from jpllm.runtime import InputError
from jpllm.tokenizer.load import load
from jpllm.training.classifier import layers_to_keep
from tests.models.test_build import FakeTokenizer

ROOT = Path(__file__).resolve().parents[2]
WIDTH = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
USUAL = {**WIDTH, "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
DECODERS = {
    "gpt2": OLD,
    "gptj": {**OLD, "rotary_dim": 8},
    "codegen": {**OLD, "n_head": 4, "rotary_dim": 8},
    "gpt_neox": USUAL,
    "llama": USUAL,
    "qwen3": {**USUAL, "head_dim": 16},
    "gemma2": {**USUAL, "head_dim": 16},
    "phi": USUAL,
    "opt": {**WIDTH, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mpt": {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
    "falcon": WIDTH,
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "cohere": USUAL,
    "granite": {**USUAL, "logits_scaling": 2.0},
    "nanochat": USUAL,
}
ROBERTA = {**USUAL, "max_position_embeddings": 66, "pad_token_id": 1}
ENCODERS = {"bert": USUAL, "roberta": ROBERTA, "xlm-roberta": ROBERTA, "camembert": ROBERTA, "mpnet": ROBERTA}


def make(folder: Path, kind: str, **changes: object) -> Path:
    """A folder with a model of random weights, without a tokenizer."""
    table, auto = (DECODERS, AutoModelForCausalLM) if kind in DECODERS else (ENCODERS, AutoModelForMaskedLM)
    torch.manual_seed(0)
    auto.from_config(AutoConfig.for_model(kind, **table[kind] | changes)).save_pretrained(folder)
    return folder


def configure(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def weights(folder: Path, **new: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | new, file, metadata={"format": "pt"})


@pytest.fixture
def gpt2(tmp_path):
    return make(tmp_path / "gpt2", "gpt2")


@pytest.fixture(scope="module")
def with_tokenizer(tokenizer_dir, tmp_path_factory):
    """A GPT-2 beside the tokenizer that it is for."""
    folder, tokenizer = tmp_path_factory.mktemp("model") / "gpt2", load(tokenizer_dir)
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", **OLD | {"vocab_size": len(tokenizer)}, eos_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# Buffers are no weights.


@pytest.mark.parametrize("kind", ["gpt2", "gptj"])
def test_masks_and_angles_that_old_files_hold_are_no_weights(kind, tmp_path):
    folder = make(tmp_path / kind, kind)
    expected = load_trained(folder).state_dict()
    for layer in range(2):
        for name, value in {
            "bias": torch.tril(torch.ones(64, 64, dtype=torch.uint8))[None, None],
            "masked_bias": torch.tensor(-1e4),
            "rotary_emb.inv_freq": torch.ones(4),
        }.items():
            weights(folder, **{f"transformer.h.{layer}.attn.{name}": value})
    found = load_trained(folder).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["transformer.h.0.attn.bias", "transformer.h.0.attn.gate.weight"])
def test_a_weight_that_the_model_has_no_use_for_is_not_passed_over(name, tmp_path):
    folder = make(tmp_path / "gptj", "gptj")
    weights(folder, **{name: torch.ones(32)})
    with pytest.raises(InputError, match=rf"the weights do not fit the model: missing \[\], unexpected \['{name}'\]"):
        load_trained(folder)


# What can be used.


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_of_many_architectures_give_the_logits_of_transformers(kind, tmp_path):
    """OPT has no initializer_range, Bloom no positions, CodeGen no padding id, Mamba no heads."""
    folder = make(tmp_path / kind, kind)
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 23)[None]
    model = load_to_continue(folder, FakeTokenizer(60), 32)
    assert torch.equal(model(ids).logits, expected(ids).logits)
    try:
        isolate_documents(model)
    except InputError as error:
        assert "isolate_documents: false" in str(error)  # noqa: PT017  # either works


def test_any_length_fits_a_model_without_positions(tmp_path):
    for kind in ("bloom", "mamba"):
        model = load_trained(make(tmp_path / kind, kind))
        assert (num_positions(model), context_length(model)) == (None, 2048)
        assert context_length(load_to_continue(tmp_path / kind, FakeTokenizer(60), 4096)) == 4096
    assert num_positions(load_trained(make(tmp_path / "mpt", "mpt"))) == 64


@pytest.mark.parametrize(("kind", "positions"), [("bert", 64), *((k, 64) for k in ENCODERS if k != "bert")])
def test_positions_behind_the_padding_id_are_tokens(kind, positions, tmp_path):
    """RoBERTa's 514 positions are 512 tokens: the table begins behind the padding id."""
    model = build_classifier(make(tmp_path / kind, kind), ["a", "b"], seed=0)
    assert context_length(model) == positions
    whole = torch.full((1, positions), 7)
    assert model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits.shape == (1, 2)
    longer = torch.full((1, positions + 1), 7)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=longer, attention_mask=torch.ones_like(longer))


@pytest.mark.parametrize(("kind", "are_kept"), [("gpt2", True), ("llama", True), ("falcon", False), ("bloom", False)])
def test_layers_that_return_more_than_hidden_states_are_computed_each_time(kind, are_kept, tmp_path):
    model = build_classifier(make(tmp_path / kind, kind), ["a", "b"], seed=0)
    frozen = layers_of(model)[:1]
    assert gives_hidden_states(model, frozen[0]) == are_kept
    assert layers_to_keep(model, frozen, None, "DDP") == (frozen if are_kept else [])
    if not are_kept:
        with pytest.raises(InputError, match=r"keep_trunk_output: the layers of \w+ return more than hidden states"):
            layers_to_keep(model, frozen, True, "DDP")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flex_attention"])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_that_is_not_installed_is_pytorchs(key, name, gpt2, caplog):
    configure(gpt2, **{key: name})
    assert load_trained(gpt2).config._attn_implementation == "sdpa"
    assert f"{name} is left out" in caplog.text


def test_a_bin_file_is_read_where_no_safetensors_file_is_and_can_be_converted(with_tokenizer, tmp_path, caplog, capsys):
    folder = shutil.copytree(with_tokenizer, tmp_path / "bin")
    state = load_file(folder / "model.safetensors")
    torch.save(state | {"transformer.wte.weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert load_trained(folder).num_parameters() > 0  # the safetensors file goes before
    assert "pytorch_model.bin" not in caplog.text
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(load_trained(folder).transformer.wte.weight.cpu(), state["transformer.wte.weight"])
    assert f"jpllm export {folder} --to DIR --allow_missing writes them as safetensors" in caplog.text
    assert cli.main(["export", str(folder), "--to", str(tmp_path / "out"), "--allow_missing"]) == 0, capsys.readouterr()
    converted = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(converted["transformer.wte.weight"], state["transformer.wte.weight"])


# What is refused, and why.

STRANGE_CONFIGURATIONS = {
    "remote code": ({"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}, r"Python code beside it \(auto_map\)"),
    "unknown kind": ({"model_type": "gpt22"}, r"model_type 'gpt22' is unknown to transformers .*did you mean 'gpt2'"),
    "no kind": ({"model_type": None}, "it has no model_type"),
    "no name": ({"model_type": ["gpt2"]}, r"model_type \['gpt2'\] is unknown"),
    "kernel": ({"_attn_implementation": "org/kernel"}, "'org/kernel' is code on the Hub, which is never run"),
    "kernel inside": ({"text_config": {"attn_implementation": "org/k@v1"}}, "'org/k@v1' is code on the Hub"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\).*original model"),
    "AWQ": ({"quantization_config": {"quant_method": "awq"}}, r"quantised \(awq\)"),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantised \(bitsandbytes\)"),
    "compressed": ({"compression_config": {"format": "int-quantized"}}, r"quantised \(compression_config\)"),
    "T5": ({"model_type": "t5"}, "t5 has an encoder and a decoder, which cannot predict the next token"),
    "BART": ({"model_type": "bart"}, "bart has an encoder and a decoder"),
    "images": ({"model_type": "vit"}, "vit is no language model"),
    "BERT": (
        {"model_type": "bert", "architectures": ["BertModel"]},
        "a masked language model, which cannot predict the next token",
    ),
    "fewer layers": ({"n_layer": 1}, r"the weights do not fit the model: missing \[\], unexpected \['transformer.h.1"),
    "more layers": ({"n_layer": 3}, r"the weights do not fit the model: missing \['transformer.h.2"),
    "other ids": ({"vocab_size": 65}, r"transformer.wte.weight has the shape \[64, 32\], and .* gives \[65, 32\]"),
    "3 million layers": ({"n_layer": 3_000_000}, "n_layer: 3,000,000 are more than any model has"),
    "4,000 layers": ({"n_layer": 4000}, "describes 4,000 layers, and the files hold 28 tensors"),
    "a trillion ids": ({"vocab_size": 10**12}, "describes 32,000,000,027,520 parameters, and the files hold"),
    "a trillion positions": ({"n_positions": 10**12}, "they are not of one model"),
    "a billion labels": ({"num_labels": 10**9}, "num_labels: 1,000,000,000 are more"),
    "no heads": ({"n_head": 0}, "no model can be built of it: ZeroDivisionError"),
    "a text for a number": ({"n_embd": "wide"}, "Validation error for field 'n_embd'"),
    "unknown activation": ({"activation_function": "nope"}, "no model can be built of it: KeyError: 'nope'"),
}


@pytest.mark.parametrize("case", STRANGE_CONFIGURATIONS)
def test_configurations_are_refused_with_the_true_reason_and_soon(case, gpt2, monkeypatch):
    changes, reason = STRANGE_CONFIGURATIONS[case]
    (gpt2 / "x.py").write_text("raise SystemExit('code of a stranger was run')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    configure(gpt2, **changes)
    started = time.monotonic()
    with pytest.raises(InputError, match=reason):
        load_trained(gpt2)
    assert time.monotonic() - started < 5


def test_code_beside_a_known_architecture_is_not_run(gpt2, caplog):
    (gpt2 / "x.py").write_text("raise SystemExit('code of a stranger was run')")
    configure(gpt2, auto_map={"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"})
    model = load_trained(gpt2)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert "the Python code beside the model is not run" in caplog.text
    assert not hasattr(model.config, "auto_map")


def pointer(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def cut(folder):
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def cut_in_the_header(folder):
    os.truncate(folder / "model.safetensors", 40)


def page(folder):
    (folder / "model.safetensors").write_text("<html>404 not found, and more of it</html>")


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def missing_shard(folder):
    names = {
        name: f"model-{1 + index % 2}.safetensors" for index, name in enumerate(load_file(folder / "model.safetensors"))
    }
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def shard_elsewhere(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))


def not_a_number(folder):
    weights(folder, **{"transformer.h.1.mlp.c_fc.bias": torch.full((128,), float("nan"))})


def infinite(folder):
    weights(folder, **{"transformer.wte.weight": torch.full((64, 32), float("inf"))})


def packed(folder):
    weights(folder, **{"transformer.h.0.mlp.c_fc.qweight": torch.ones(4, 4, dtype=torch.int32)})


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def payload(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Payload()}, folder / "pytorch_model.bin")


def old_payload(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(), protocol=2))


def tensorflow(folder):
    (folder / "model.safetensors").rename(folder / "tf_model.h5")


def adapter(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name"}')


def configuration_of_a_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def deep(folder):
    (folder / "config.json").write_text('{"a": ' * 100_000)


def not_json(folder):
    (folder / "config.json").write_text("{")


DAMAGES = {
    pointer: "a pointer of Git LFS, not the weights themselves; fetch them with: git lfs pull",
    cut: "the file is cut: .* bytes of weights, where its header says",
    cut_in_the_header: "the file is cut within its header, after 40 bytes",
    page: "no safetensors file, though its name says so",
    empty: "the file is empty",
    without_weights: "it holds no weights: no model.safetensors",
    missing_shard: "1 of 2 files of the weights are missing, first model-2.safetensors",
    shard_elsewhere: r"'\.\./\.\./etc/passwd' is no file of this folder",
    not_a_number: "transformer.h.1.mlp.c_fc.bias has values that are not finite",
    infinite: "transformer.wte.weight has values that are not finite",
    packed: r"quantised \(transformer.h.0.mlp.c_fc.qweight, I32\); name the original model",
    payload: "holds more than tensors",
    old_payload: "holds more than tensors",
    tensorflow: "it holds no weights: no model.safetensors; tf_model.h5 is in a format that is not read",
    adapter: "adapter_config.json says that it holds a LoRA adapter",
    configuration_of_a_pipe: "it holds no config.json",
    deep: "no JSON that can be read",
    not_json: "no JSON that can be read",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_refused_with_the_true_reason(damage, gpt2, monkeypatch):
    monkeypatch.chdir(gpt2)
    damage(gpt2)
    with pytest.raises(InputError, match=DAMAGES[damage]):
        load_trained(gpt2)
    assert not (gpt2 / "harmed").exists()


def test_folders_that_are_no_models_are_named_as_what_they_are(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "config.json").write_text("{}")
    (tmp_path / "small.gguf").touch()
    for path, reason in {
        tmp_path / "run": f"it holds no config.json; name {tmp_path / 'run' / 'model'}",
        tmp_path: "it holds no config.json; small.gguf is for llama.cpp",
        tmp_path / "small.gguf": "a file; name the folder",
        tmp_path / "none": "no such folder",
    }.items():
        with pytest.raises(InputError, match=reason):
            load_trained(path)


GENERATE = ["generate", "--prompt", "猫"]
PLAN = ["plan", "--recipe", "cpt", "--sources", "x.txt", "--tokens", "1000", "--output_dir", "runs/x"]


@pytest.mark.parametrize(
    ("verb", "changes", "reason"),
    [
        (GENERATE, {"quantization_config": {"quant_method": "gptq"}}, "name the original model"),
        (PLAN, {"quantization_config": {"quant_method": "gptq"}}, "name the original model"),
        (GENERATE, {"vocab_size": 1201}, "transformer.wte.weight has the shape [1200, 32]"),
        (PLAN, {"model_type": "t5"}, "t5 has an encoder and a decoder"),
        (PLAN, {"n_layer": 3_000_000}, "3,000,000 are more than any model has"),
    ],
)
def test_commands_end_with_one_line(verb, changes, reason, with_tokenizer, tmp_path, capsys):
    folder = shutil.copytree(with_tokenizer, tmp_path / "model")
    configure(folder, **changes)
    assert cli.main([*verb, "--model", str(folder)]) == 2
    assert reason in capsys.readouterr().err


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(with_tokenizer, tmp_path, capsys):
    folder = shutil.copytree(with_tokenizer, tmp_path / "model")
    configure(folder, vocab_size=64)
    weights(folder, **{"transformer.wte.weight": torch.zeros(64, 32)})
    assert cli.main(["generate", "--model", str(folder), "--prompt", "猫"]) == 2
    assert "the model has 64 embeddings, the tokenizer 1,200 ids" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("quantization_config", {"quant_method": "gptq"}), ("n_layer", 3_000_000)])
def test_every_command_comes_through_the_same_door(key, value, with_tokenizer, tmp_path):
    """As typed, each in a process of its own: one line, and exit code 2."""
    folder, texts = shutil.copytree(with_tokenizer, tmp_path / "model"), tmp_path / "a.txt"
    configure(folder, **{key: value})
    texts.write_text("吾輩は猫である。\n" * 50, encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    examples = ({"text": f"{n} 匹の猫", "label": "ab"[n % 2], "prompt": f"{n}?", "target": "猫"} for n in range(40))
    rows.write_text("".join(json.dumps(example) + "\n" for example in examples))
    model = ["--model", str(folder)]
    epochs = ["--epochs", "1"]
    recipes = {
        "cpt": ["--sources", str(texts), "--shards_dir", str(tmp_path / "shards"), *epochs],
        "sft": ["--sources", str(rows), *epochs],
        "classify": ["--train_file", str(rows), *epochs],
        "evaluate": ["--texts", str(texts)],
    }
    output = ["--output_dir", str(tmp_path / "run")]
    commands = [[f"recipes/{name}.py", *model, *more, *output] for name, more in recipes.items()]
    commands += [["-m", "jpllm.cli", *words] for words in (["generate", *model, "--prompt", "猫"], ["chat", *model])]
    commands += [["-m", "jpllm.cli", *PLAN, *model]]
    commands += [["-m", "jpllm.cli", "export", str(folder), "--to", str(tmp_path / "out"), "--allow_missing"]]
    reason = "name the original model" if key == "quantization_config" else "3,000,000 are more than any model has"
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, input="", capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), (command, done.stderr)
        assert reason in done.stderr, (command, done.stderr)
    assert not (tmp_path / "out").exists()
