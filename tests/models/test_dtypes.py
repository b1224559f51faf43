"""What weights are held in: read off files rather than configurations, and loaded straight into that."""

import json

import pytest
import torch

from jpllm.models.build import load_trained
from jpllm.models.dtypes import bytes_per_parameter, frozen_dtype, held_dtype
from jpllm.models.pretrained import read_config, saved_dtype
from tests.models.published import IDS, publish


@pytest.mark.parametrize(
    ("saved", "device_type", "has_bf16", "expected"),
    [
        ("bfloat16", "cuda", True, "bfloat16"),
        ("bfloat16", "cuda", False, "float16"),
        ("bfloat16", "cpu", True, "bfloat16"),
        ("bfloat16", "xla", True, "bfloat16"),
        ("float16", "cuda", False, "float16"),
        ("float16", "cpu", True, "float32"),
        ("float32", "cuda", True, "float32"),
        ("float64", "cpu", True, "float32"),
    ],
)
def test_frozen_weights(saved, device_type, has_bf16, expected):
    assert frozen_dtype(saved, device_type, has_bf16) == expected


def test_weights_that_learn_are_float32_unless_asked_for():
    assert held_dtype("auto", "bfloat16", learns=True) == "float32"
    assert held_dtype("bfloat16", "float32", learns=True) == "bfloat16"


def test_bytes():
    assert [bytes_per_parameter(name) for name in ("float32", "bfloat16", "float16")] == [4, 2, 2]
    assert bytes_per_parameter("nf4") == pytest.approx(0.5 + 1 / 64 + 4 / (64 * 256))


@pytest.mark.parametrize("named", ["float32", "bfloat16", None])
def test_files_count_and_not_what_the_configuration_says(named, tmp_path):
    folder = publish(tmp_path, "llama", torch.bfloat16)
    config = json.loads((folder / "config.json").read_text()) | {"dtype": named}
    (folder / "config.json").write_text(json.dumps(config))
    assert saved_dtype(folder, read_config(folder)) == "bfloat16"
    for dtype, expected in (("auto", torch.bfloat16), ("saved", torch.bfloat16), ("float32", torch.float32)):
        model = load_trained(folder, dtype=dtype)
        assert {weight.dtype for weight in model.parameters()} == {expected}
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_same_numbers(tmp_path):
    folder = publish(tmp_path, "llama", torch.float16)
    saved, widened = load_trained(folder, dtype="saved"), load_trained(folder, dtype="auto")  # on a CPU
    assert saved.dtype == torch.float16
    if not torch.cuda.is_available():
        assert widened.dtype == torch.float32
    for first, second in zip(saved.parameters(), widened.parameters(), strict=True):
        assert torch.equal(first.float(), second.float())


def test_computing_in_float32_with_weights_of_16_bits(tmp_path):
    from jpllm.models.evaluating import in_float32

    folder = publish(tmp_path, "gemma2", torch.bfloat16)
    held, wide = load_trained(folder, dtype="bfloat16"), load_trained(folder, dtype="float32")
    with torch.no_grad():
        rough, exact = held(IDS).logits, wide(IDS).logits
        with in_float32(held, torch.device("cpu")):
            torch.testing.assert_close(held(IDS).logits, exact)
        assert (rough.float() - exact).abs().max() > 1e-4
        assert torch.equal(held(IDS).logits, rough)  # as it was
    assert {weight.dtype for weight in held.parameters()} == {torch.bfloat16}
