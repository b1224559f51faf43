"""Every family as llama.cpp reads it, and the mistakes that would ruin a model without an error."""

import pytest

from jpllm.runtime import InputError
from jpllm.sharing.gguf import architectures, tensors
from jpllm.sharing.gguf import file as gguf_file
from jpllm.sharing.gguf import proof as gguf_proof
from jpllm.sharing.gguf.proof import Tolerance
from tests.sharing.gguf.families import FAMILIES, LINEAR, LOCAL_AND_GLOBAL, SHAPE, family_model
from tests.tokenizer.byte_level import byte_level_tokenizer

pytest.importorskip("gguf", reason="pip install 'jpllm[gguf]'")
pytest.importorskip("xllamacpp", reason="pip install 'jpllm[gguf]'")


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """The ids of these tokenizers are compared in other tests."""
    monkeypatch.setattr(gguf_proof, "proof_texts", lambda: ["むかし、あるところに。"])


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_are_equal(name, tokenizer, tmp_path):
    model, file = family_model(name, tokenizer), tmp_path / "a.gguf"
    gguf_file.write(model, tokenizer, tmp_path, file, "f32")
    found = gguf_proof.prove(file, model, tokenizer, tmp_path, Tolerance())
    assert found.divergence_nats < 1e-6
    # llama.cpp looks GELU up in a table of half precision
    assert found.largest_difference < (5e-3 if "gemma" in name else 5e-5)


def no_permutation(monkeypatch, model):
    monkeypatch.setattr(tensors, "_laid_out", lambda name, tensor, config: tensor)


def no_query_factor(monkeypatch, model):
    monkeypatch.setattr(tensors, "_query_factor", lambda name, config: 1.0)


def no_rotary_factors(monkeypatch, model):
    monkeypatch.setattr(tensors, "_rotary_factors", lambda model: model.base_model.rotary_emb.inv_freq * 0 + 1)


def changed(key, value):
    def change(monkeypatch, model):
        # only in the file: the model has made its layers already
        monkeypatch.setattr(model.config, key, value)

    return change


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("llama", no_permutation),
        ("gemma", no_permutation),  # norms without the one that is added
        ("llama-3.1", no_rotary_factors),
        ("gemma-2", no_query_factor),
        ("gemma-3", no_query_factor),
        ("gemma-2", changed("layer_types", ["full_attention", "sliding_attention"] * 2)),
        ("gemma-2", changed("sliding_window", 9)),
        ("gemma-2", changed("attn_logit_softcapping", 4.0)),
        ("gemma-2", changed("final_logit_softcapping", 6.0)),
        ("gemma-3", changed("rope_parameters", {**LOCAL_AND_GLOBAL, "sliding_attention": {"rope_theta": 200.0}})),
        ("qwen2-longer", changed("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0})),
        ("qwen3", changed("rms_norm_eps", 1e-2)),
    ],
)
def test_mistakes_are_found(name, mistake, tokenizer, tmp_path, monkeypatch):
    model, file = family_model(name, tokenizer), tmp_path / "a.gguf"
    with monkeypatch.context() as patch:
        mistake(patch, model)
        gguf_file.write(model, tokenizer, tmp_path, file, "f32")
    with pytest.raises(InputError, match=r"llama\.cpp predicts something else than the model"):
        gguf_proof.prove(file, model, tokenizer, tmp_path, Tolerance())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("qwen3", {"attention_bias": True}, "llama.cpp computes qwen3 with attention_bias False; the model has True"),
        ("qwen2", {"head_dim": 32}, "its heads are 32 wide, not 16"),
        ("gemma", {"tie_word_embeddings": False}, "computes gemma with tie_word_embeddings True; the model has False"),
        ("gemma-2", {"final_logit_softcapping": None}, "computes gemma2 with final_logit_softcapping; the model has"),
        ("gemma-3", {"use_bidirectional_attention": True}, "with use_bidirectional_attention False; the model has"),
        (
            "qwen3",
            {"rope_parameters": {**LINEAR, "rope_type": "yarn"}},
            "its rotary positions are scaled (yarn), which is not converted here for qwen3",
        ),
        (
            "gemma-3",
            {"rope_parameters": {"sliding_attention": LINEAR, "full_attention": LINEAR}},
            "its rotary positions of sliding_attention are scaled (linear)",
        ),
    ],
)
def test_what_llama_cpp_cannot_compute(name, settings, message):
    from transformers import AutoConfig

    model_type, usual = FAMILIES[name]
    config = AutoConfig.for_model(model_type, **{**SHAPE, **usual, **settings})
    (found,) = architectures.problems(config, "AnyForCausalLM")
    assert message in found


def test_a_text_is_at_most_as_long_as_a_window_that_llama_cpp_does_not_compute(tokenizer):
    model = family_model("mistral", tokenizer, sliding_window=48)
    assert architectures.longest_text(model) == 48
    assert architectures.longest_text(family_model("gemma-2", tokenizer)) == 128
