import numpy as np
import pytest

from jpllm.models.build import build_from_scratch
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError
from jpllm.sharing.export import save_model
from jpllm.sharing.export_proof import logits, proof_ids, proof_texts, prove
from jpllm.tokenizer.load import load

SHAPE = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64, "max_positions": 32}


@pytest.fixture(scope="module")
def exported(tokenizer_dir, tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("exported"), load(tokenizer_dir)
    model = build_from_scratch(ModelConfig(model="neox-tiny", **SHAPE), tokenizer, seed=0)
    save_model(model, tokenizer, tokenizer_dir, folder, None)
    return folder, tokenizer, model


def test_ids_are_the_same_each_time(exported):
    ids = proof_ids(exported[2])
    assert len(ids) == 32
    assert ids[:3] == [1, (7919 + 1) % 1200, (2 * 7919 + 1) % 1200]
    assert len(proof_texts()) > 400


def test_a_fresh_process_agrees_and_a_difference_is_found(exported):
    folder, tokenizer, model = exported
    ids = proof_ids(model)
    expected = logits(model, ids)
    proof = prove(folder, "text-generation", tokenizer, ids, expected, expected)
    assert (proof.num_texts, proof.largest_difference) == (len(proof_texts()), 0.0)
    other = expected.copy()
    other[0, -1, 0] = np.nextafter(other[0, -1, 0], np.float32(np.inf))  # one bit
    with pytest.raises(InputError, match="is not the one that was saved"):
        prove(folder, "text-generation", tokenizer, ids, expected, other)


@pytest.mark.slow
def test_another_tokenizer_and_a_broken_folder_are_found(exported, tmp_path):
    folder, tokenizer, model = exported
    ids = proof_ids(model)
    expected = logits(model, ids)
    other = load(folder)
    other.add_tokens(["if x"])  # in one of the strings
    with pytest.raises(InputError, match="the exported tokenizer gives other ids for"):
        prove(folder, "text-generation", other, ids, expected, expected)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="a fresh process with transformers cannot load it"):
        prove(tmp_path, "text-generation", tokenizer, ids, expected, expected)
