import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from jpllm.models.build import build_from_scratch, load_trained
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.sharing.export import generation_config, refuse_unwanted, save_model, set_dtype
from jpllm.tokenizer.load import load

SAMPLING = {"max_new_tokens": 20, "temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1}
SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}


@pytest.fixture
def tokenizer(tokenizer_dir):
    return load(tokenizer_dir)


@pytest.fixture
def model(tokenizer):
    return build_from_scratch(ModelConfig(model="llama-tiny", **SHAPE), tokenizer, seed=0)


def test_what_is_written(model, tokenizer, tokenizer_dir, tmp_path):
    save_model(model, tokenizer, tokenizer_dir, tmp_path, SAMPLING)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    ]
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "name_or_path"} & set(settings)
    assert load(tmp_path)("吾輩は猫。")["input_ids"] == tokenizer("吾輩は猫。")["input_ids"]
    own = load_trained(tmp_path).state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    found = json.loads((tmp_path / "generation_config.json").read_text())
    expected = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "do_sample": True, "top_k": 0}
    assert {**expected, **SAMPLING}.items() <= found.items()


def test_generation_settings(model, tokenizer):
    greedy = generation_config(model, tokenizer, {**SAMPLING, "temperature": 0, "no_repeat_ngram_size": 3})
    assert (greedy.do_sample, greedy.temperature, greedy.no_repeat_ngram_size) == (None, None, 3)
    model.generation_config.eos_token_id = [3, 7]  # as a publisher may have it
    model.generation_config.top_k = 5
    kept = generation_config(model, tokenizer, None)
    assert (kept.eos_token_id, kept.pad_token_id, kept.top_k) == ([3, 7], 1, 5)
    assert generation_config(model, tokenizer, SAMPLING).eos_token_id == [3, 7]


def test_another_dtype_leaves_what_is_computed_when_loading(model):
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    angles = {name: tensor.clone() for name, tensor in model.named_buffers()}
    assert angles
    set_dtype(model, torch.bfloat16)
    set_dtype(model, torch.float32)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name].bfloat16().float())
    assert all(torch.equal(tensor, angles[name]) for name, tensor in model.named_buffers())


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as found:
        found.writestr("data.pkl", pickle.dumps({}))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training_args.bin", b"anything"),
        ("a.txt", archive()),
        *((f"protocol{n}.json", pickle.dumps({"a": [1]}, protocol=n)) for n in range(2, 6)),
    ],
)
def test_pickles_are_refused(name, content, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    refuse_unwanted(tmp_path, [])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: a pickle"):
        refuse_unwanted(tmp_path, [])


def test_paths_of_this_machine_are_refused(tmp_path):
    private = tmp_path / "somebody"
    (tmp_path / "README.md").write_text(f"see {private}/x")
    (tmp_path / "more.md").write_text("https://huggingface.co/datasets/a")
    refuse_unwanted(tmp_path, [Path("/"), Path("/data"), Path("/datasets"), tmp_path / "other", tmp_path / "some"])
    with pytest.raises(InputError, match=r"README.md: it names a folder of this machine"):
        refuse_unwanted(tmp_path, [private])
