"""Weights of fewer bits: which type each tensor gets, the bytes, and what it costs."""

import numpy as np
import pytest

from jpllm.runtime import InputError
from jpllm.sharing.gguf import file as gguf_file
from jpllm.sharing.gguf import proof as gguf_proof
from jpllm.sharing.gguf import quantize
from jpllm.sharing.gguf.proof import Tolerance
from tests.sharing.gguf.families import family_model
from tests.tokenizer.byte_level import byte_level_tokenizer

gguf = pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")


def kinds(names, shape=(64, 256), has_output=True, num_layers=16):
    return [quantize.tensor_type(name, shape, "q4_k_m", num_layers, has_output).name for name in names]


def test_q4_k_m_has_more_bits_where_llama_quantize_has():
    """The first and last eighth of the layers, and every third one between."""
    down = kinds([f"blk.{layer}.ffn_down.weight" for layer in range(16)])
    assert [layer for layer, kind in enumerate(down) if kind == "Q6_K"] == [0, 1, 4, 7, 10, 13, 14, 15]
    assert set(down) == {"Q4_K", "Q6_K"}
    assert kinds(["blk.3.attn_v.weight", "blk.4.attn_v.weight", "blk.4.attn_q.weight"]) == ["Q4_K", "Q6_K", "Q4_K"]
    assert kinds(["blk.0.attn_qkv.weight", "output.weight", "token_embd.weight"]) == ["Q5_K", "Q6_K", "Q4_K"]
    assert kinds(["token_embd.weight"], has_output=False) == ["Q6_K"]
    assert kinds(["blk.0.attn_norm.weight"], shape=(256,)) == ["F32"]
    assert kinds(["position_embd.weight"]) == ["F32"]


def test_rows_that_blocks_do_not_divide():
    names = ["blk.5.ffn_up.weight", "output.weight"]
    assert kinds(names, shape=(64, 96)) == ["Q5_0", "Q8_0"]
    assert kinds(names, shape=(64, 40)) == ["F16", "F16"]
    assert quantize.tensor_type("blk.5.ffn_up.weight", (64, 40), "q8_0", 16, True).name == "F16"


@pytest.mark.parametrize(
    ("kind", "largest"), [("BF16", 0.01), ("Q8_0", 0.02), ("Q6_K", 0.1), ("Q5_K", 0.2), ("Q4_K", 0.3)]
)
def test_rounding(kind, largest):
    """Read back by the package gguf."""
    array = np.random.default_rng(0).normal(size=(6, 512)).astype(np.float32)
    found = quantize.rounded(array, gguf.GGMLQuantizationType[kind])
    assert (
        found.nbytes
        == array.size
        // gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0]
        * (gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1])
    )
    difference = np.abs(gguf.dequantize(found, gguf.GGMLQuantizationType[kind]) - array).max()
    assert 0 < difference < largest


@pytest.mark.parametrize(("precision", "most"), [("q8_0", 0.02), ("q4_k_m", 0.2)])
def test_the_cost_is_measured(precision, most, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_proof, "proof_texts", lambda: ["むかし、あるところに。"])
    tokenizer = byte_level_tokenizer()
    model = family_model("qwen3", tokenizer, hidden_size=256, intermediate_size=256, head_dim=32)
    with_less_spread(model)
    file = tmp_path / "a.gguf"
    texts = ["吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"] * 10
    found = gguf_file.write_and_prove(model, tokenizer, tmp_path, file, precision, Tolerance(), texts)
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
    assert found.divergence_nats < gguf_proof.MAX_DIVERGENCE_NATS
    assert found.loss.num_tokens == 64
    assert 1e-7 < found.loss.divergence_nats < most
    assert found.loss.num_bytes == file.stat().st_size
    assert 0.3 < found.loss.num_bytes / found.loss.num_bytes_before < 0.65
    # the bits per byte of the unrounded file are those of the model
    assert found.loss.before == pytest.approx(bits_per_byte(model, tokenizer, "\n".join(texts)), rel=1e-3)
    assert abs(found.loss.after - found.loss.before) < most
    assert "Rounding makes the file 0." in gguf_proof.describe("a.gguf", found)


def with_less_spread(model):
    """Weights of a usual size: the wide ones of other tests leave nothing when they are rounded to four bits."""
    import torch

    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def bits_per_byte(model, tokenizer, text):
    """Of 64 tokens that stand evenly in the text, each behind 48 others; float64."""
    import torch

    ids = tokenizer(text)["input_ids"]
    starts = sorted({int(start) for start in np.linspace(0, len(ids) - 49, 64)})
    bits = []
    for start in starts:
        with torch.no_grad():
            logits = model(torch.tensor([ids[start : start + 48]])).logits[0, -1].double()
        bits.append(-logits.log_softmax(-1)[ids[start + 48]].item() / np.log(2))
    return sum(bits) / len(bits) * len(ids) / len(text.encode())


def test_rounding_that_leaves_no_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_proof, "proof_texts", lambda: ["むかし、あるところに。"] * 9)
    monkeypatch.setattr(gguf_proof, "MAX_LOSS_NATS", 1e-9)
    tokenizer = byte_level_tokenizer()
    with pytest.raises(InputError, match=r"gguf: rounding the weights leaves no model: .* choose --gguf f16"):
        gguf_file.write_and_prove(
            family_model("qwen3", tokenizer), tokenizer, tmp_path, tmp_path / "a.gguf", "q8_0", Tolerance()
        )


def test_without_the_function_of_ggml(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "_ggml_quantize_chunk", lambda: None)
    quantize.refuse_unavailable("q8_0")
    with pytest.raises(InputError, match=r"llama-quantize NAME-f16\.gguf NAME-q4_k_m\.gguf Q4_K_M"):
        quantize.refuse_unavailable("q4_k_m")
