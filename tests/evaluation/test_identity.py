"""Whatever changes what a model answers changes a sum, and its place does not."""

import pytest

from jpllm.evaluation.identity import SUMS, identity, measured_with
from jpllm.models.build import build_from_scratch, load_trained
from jpllm.models.presets import ModelConfig
from jpllm.tokenizer.load import load


@pytest.fixture(scope="module")
def made(tokenizer_dir, tmp_path_factory):
    tokenizer = load(tokenizer_dir)
    shape = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 64}
    build_from_scratch(ModelConfig(model="neox-tiny", **shape), tokenizer, seed=0).save_pretrained(
        folder := tmp_path_factory.mktemp("model")
    )
    return folder, tokenizer


def test_a_copy_is_the_same_model(made, tmp_path):
    folder, tokenizer = made
    load_trained(folder).save_pretrained(tmp_path)
    first, second = (identity("m", load_trained(place), tokenizer) for place in (folder, tmp_path))
    assert first == second
    assert set(first) == {"model", *SUMS}


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.config, "trained_sequence_length", 32),
        lambda model: model.config.rope_parameters.update(rope_theta=500.0),
        lambda model: setattr(model.generation_config, "eos_token_id", [2, 5]),
    ],
)
def test_settings_of_the_same_weights_are_another_model(made, change):
    folder, tokenizer = made
    model = load_trained(folder)
    before = identity("m", model, tokenizer)
    change(model)
    after = identity("m", model, tokenizer)
    assert [key for key in SUMS if before[key] != after[key]] == ["config_sha256"]


def test_measured_with():
    found = measured_with()
    assert set(found) == {"versions", "commit"}
    assert {"jpllm", "torch", "transformers"} < set(found["versions"])
