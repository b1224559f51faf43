"""Growing embeddings: old rows to the bit, new ones against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jpllm.models.build import load_trained
from jpllm.models.resize import grow_embeddings
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model

OLD_IDS = [[1], [2, 3], [4, 5, 6, 7], [8, 8, 9]]
ARCHITECTURES = [
    ("gpt2-tiny", None),
    ("gpt2-tiny", False),
    ("neox-tiny", None),
    ("llama-tiny", None),
    ("llama-tiny", True),
]


def model_of(preset: str, tied: bool | None, **settings: object):
    return tiny_model(preset, tie_embeddings=tied, **settings)


def rows(layer: torch.nn.Module) -> np.ndarray:
    return layer.weight.detach().numpy().copy()


def expected_means(old: np.ndarray) -> np.ndarray:
    return np.array([old.astype(np.float64)[ids].sum(axis=0) / len(ids) for ids in OLD_IDS]).astype(np.float32)


@pytest.mark.parametrize(("preset", "tied"), ARCHITECTURES)
def test_old_rows_stay_and_new_ones_are_means(preset: str, tied: bool | None, tmp_path) -> None:
    model = model_of(preset, tied)
    was_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    before = [rows(model.get_input_embeddings()), rows(model.get_output_embeddings())]
    others = {
        name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.shape[0] != 50 or tensor.ndim != 2
    }
    grow_embeddings(model, OLD_IDS, first_new_id=50)
    after = [rows(model.get_input_embeddings()), rows(model.get_output_embeddings())]
    for old, new in zip(before, after, strict=True):
        assert new.shape == (54, 32)
        assert np.array_equal(new[:50], old)
        np.testing.assert_array_equal(new[50:], expected_means(old))
    assert model.config.vocab_size == 54
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == was_tied
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())
    model.save_pretrained(tmp_path)
    loaded = load_trained(tmp_path).cpu()
    ids = torch.arange(40, 54)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded(ids).logits.shape == (1, 14, 54)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().num_embeddings == 54


@pytest.mark.parametrize(("preset", "tied"), ARCHITECTURES)
@pytest.mark.parametrize(("num_rows", "expected_rows"), [(52, 54), (54, 54), (64, 64)])
def test_rows_of_padding_are_used_first(preset, tied, num_rows: int, expected_rows: int) -> None:
    model = model_of(preset, tied, vocab_size=num_rows)
    before = [rows(model.get_input_embeddings()), rows(model.get_output_embeddings())]
    grow_embeddings(model, OLD_IDS, first_new_id=50)
    after = [rows(model.get_input_embeddings()), rows(model.get_output_embeddings())]
    for old, new in zip(before, after, strict=True):
        assert len(new) == model.config.vocab_size == expected_rows
        assert np.array_equal(new[:50], old[:50])
        np.testing.assert_array_equal(new[50:54], expected_means(old))
        assert np.array_equal(new[54:], old[54:])


def test_logits_of_old_ids_do_not_change() -> None:
    model = model_of("neox-tiny", None)
    ids = torch.arange(20)[None]
    before = model(ids).logits
    grow_embeddings(model, OLD_IDS, first_new_id=50)
    torch.testing.assert_close(model(ids).logits[..., :50], before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("preset", "tied"), ARCHITECTURES)
def test_random_rows_depend_on_the_seed_alone(preset: str, tied: bool | None) -> None:
    found = []
    for seed in (0, 0, 1):
        model = model_of(preset, tied, vocab_size=52)
        old = rows(model.get_input_embeddings())
        state = torch.get_rng_state()
        grow_embeddings(model, [[0]] * 500, first_new_id=50, method="random", seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert np.array_equal(rows(model.get_input_embeddings())[:50], old[:50])
        found.append([rows(model.get_input_embeddings())[50:], rows(model.get_output_embeddings())[50:]])
        torch.rand(3)
    assert all(np.array_equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    assert not np.array_equal(found[0][0], found[2][0])
    assert found[0][0].std() == pytest.approx(model.config.initializer_range, rel=0.02)


def test_output_bias() -> None:
    model = model_of("llama-tiny", None)
    head = torch.nn.Linear(32, 50, bias=True)
    model.set_output_embeddings(head)
    bias = head.bias.detach().numpy().copy()
    grow_embeddings(model, OLD_IDS, first_new_id=50)
    grown = model.get_output_embeddings().bias.detach().numpy()
    assert np.array_equal(grown[:50], bias)
    np.testing.assert_array_equal(grown[50:], expected_means(bias))
    grow_embeddings(model, [[0]], first_new_id=54, method="random")
    assert model.get_output_embeddings().bias[54] == 0


def test_bfloat16_rows_are_rounded_once() -> None:
    model = model_of("neox-tiny", None).to(torch.bfloat16)
    old = model.get_input_embeddings().weight.detach().clone()
    grow_embeddings(model, OLD_IDS, first_new_id=50)
    new = model.get_input_embeddings().weight.detach()
    assert new.dtype == torch.bfloat16
    assert torch.equal(new[:50], old)
    assert torch.equal(new[50:], torch.from_numpy(expected_means(old.float().numpy())).to(torch.bfloat16))


def test_no_new_rows_and_a_model_that_is_too_small() -> None:
    model = model_of("gpt2-tiny", None)
    before = rows(model.get_input_embeddings())
    grow_embeddings(model, [], first_new_id=50)
    assert np.array_equal(rows(model.get_input_embeddings()), before)
    with pytest.raises(InputError, match="the model has 50 embedding rows, the tokenizer 51 ids"):
        grow_embeddings(model, OLD_IDS, first_new_id=51)
