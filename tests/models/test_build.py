from types import SimpleNamespace

import pytest
import torch

from jpllm.evaluation.generate import SamplingConfig, answer, refuse_long_prompts
from jpllm.models.build import (
    build_from_scratch,
    context_length,
    describe,
    load_to_continue,
    load_trained,
    record_trained_length,
    set_context_length,
    transformers_config,
)
from jpllm.models.presets import PRESETS, ModelConfig
from jpllm.runtime import InputError
from jpllm.tokenizer.encoder import corpus_encoder


class FakeTokenizer(SimpleNamespace):
    """The few facts that a model takes from a tokenizer."""

    def __init__(self, size: int) -> None:
        super().__init__(size=size, bos_token_id=None, eos_token_id=0, pad_token_id=1)

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self.size)}


def tiny_model(preset: str, num_ids: int = 50, **settings: object):
    """A model of tens of thousands of parameters in evaluation mode."""
    config = ModelConfig(model=preset, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, **settings)
    return build_from_scratch(config, FakeTokenizer(num_ids), seed=0).eval()


def memoryless_model(num_ids: int):
    """A tiny Llama whose next token depends on the latest one alone; its output layer is 0."""
    model = tiny_model("llama-tiny", num_ids=num_ids)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
    return model


def parameters_on_meta(vocab_size: int, **settings: object) -> int:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        config = transformers_config(ModelConfig(**settings), FakeTokenizer(vocab_size))
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())


@pytest.mark.parametrize(
    ("vocab_size", "settings", "expected"),
    [
        (32_000, {"model": "neox-1b"}, 778_263_552),
        (32_000, {"model": "neox-1b", "tie_embeddings": True}, 729_111_552),
        (50_257, {"model": "gpt2-small"}, 124_439_808),
        (32_000, {"model": "neox-160m"}, 2 * 32_000 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768),
        (32_000, {"model": "llama-160m"}, 2 * 32_000 * 768 + 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768),
    ],
)
def test_parameter_counts(vocab_size, settings, expected):
    assert parameters_on_meta(vocab_size, **settings) == expected


def test_published_neox_shape():
    config = transformers_config(ModelConfig(model="neox-1b"), FakeTokenizer(32_000))
    assert config.model_type == "gpt_neox"
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1536, 24, 16)
    assert (config.intermediate_size, config.max_position_embeddings, config.hidden_act) == (6144, 1024, "gelu")
    assert config.tie_word_embeddings is False


@pytest.mark.parametrize("preset", ["gpt2-tiny", "neox-tiny", "llama-tiny"])
def test_special_ids_vocabulary_and_attention(preset):
    model = tiny_model(preset)
    assert (model.config.vocab_size, model.config.eos_token_id, model.config.pad_token_id) == (50, 0, 1)
    assert model.config.bos_token_id == 0  # the tokenizer has none: a document begins after an EOS
    assert model.config._attn_implementation == "sdpa"
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == PRESETS[preset].tie_embeddings
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = tiny_model("neox-tiny")
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = tiny_model("neox-tiny")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_dropout_reaches_the_model():
    assert tiny_model("gpt2-tiny", dropout=0.1).config.resid_pdrop == 0.1
    assert tiny_model("neox-tiny", dropout=0.1).config.hidden_dropout == 0.1


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"model": "gpt2-smal"}, "model", "unknown preset 'gpt2-smal'; did you mean 'gpt2-small'?"),
        ({"num_heads": 3}, "num_heads", "3 heads do not divide hidden_size 256"),
        ({"hidden_size": 60, "num_heads": 4}, "num_heads", "a head is 15 wide"),
        ({"dropout": 0.1}, "dropout", "Llama has no residual dropout"),
    ],
)
def test_impossible_shapes(settings, key, message):
    ((found_key, found_message),) = ModelConfig(**settings).check()
    assert found_key == key
    assert message in found_message


def test_vocabulary_larger_than_the_model():
    with pytest.raises(InputError, match=r"vocab_size: the tokenizer has 50 ids, the model only 40"):
        tiny_model("gpt2-tiny", 50, vocab_size=40)
    assert tiny_model("gpt2-tiny", 50, vocab_size=64).config.vocab_size == 64


def test_trained_length_is_recorded(tmp_path):
    model = tiny_model("gpt2-tiny")
    assert context_length(model) == 128
    record_trained_length(model, 100)
    model.save_pretrained(tmp_path)
    assert context_length(load_trained(tmp_path)) == 100
    record_trained_length(model, 128)
    message = "sequence_length: 129 tokens are more than the model's 128 positions"
    with pytest.raises(InputError, match=message):
        record_trained_length(model, 129)


@pytest.mark.parametrize(("num_tokens", "warns"), [(128, True), (100, False), (50, False)])
def test_a_model_may_read_beyond_its_trained_length(num_tokens, warns, caplog):
    model = tiny_model("gpt2-tiny")
    record_trained_length(model, 100)
    set_context_length(model, num_tokens)
    assert context_length(model) == num_tokens
    assert ("the model was trained on 100 tokens at once" in caplog.text) == warns
    with pytest.raises(InputError, match="context_length: 129 tokens are more than the model's 128 positions"):
        set_context_length(model, 129)


def test_describe_prints_the_true_count():
    model = tiny_model("gpt2-tiny")
    expected = 50 * 32 + 128 * 32 + 2 * (4 * 32**2 + 4 * 32 + 2 * 32 * 64 + 64 + 32 + 4 * 32) + 2 * 32
    assert f"gpt2: {expected:,} parameters (1,600 in the input embedding)" in describe(model)


def test_load_trained_refuses_what_is_not_whole(tmp_path):
    model = tiny_model("neox-tiny")
    model.save_pretrained(tmp_path / "model")
    loaded = load_trained(tmp_path / "model")
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids).logits.cpu(), model(ids).logits)
    with pytest.raises(InputError, match=r"no model folder: it holds no config\.json"):
        load_trained(tmp_path)

    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "model" / "model.safetensors")
    head = next(key for key in weights if "embed_out" in key or "lm_head" in key)
    del weights[head]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"the weights do not fit the model: missing"):
        load_trained(tmp_path / "model")


def tokenizer_with(**added: bool):
    """Return a tokenizer of the words a to h (ids 0 to 7), behind them added words, which are special tokens or not."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate("abcdefgh")}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([AddedToken(word, special=is_special) for word, is_special in added.items()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="a", eos_token="b")


def test_a_special_token_beyond_the_embeddings_is_allowed_with_a_warning_and_refused_in_prompts(caplog, tmp_path):
    tiny_model("llama-tiny", num_ids=8).save_pretrained(tmp_path)
    tokenizer = tokenizer_with(PICTURE=True)
    model = load_to_continue(tmp_path, tokenizer, 16)
    assert "the model has no embedding for the special token 'PICTURE': no text of a corpus has any" in caplog.text
    encoder = corpus_encoder(tokenizer, tmp_path)
    assert [int(index) for index in encoder.encode(["c PICTURE d"])[0]] == [2, 0, 3]
    refuse_long_prompts(model, tokenizer, ["c d"])
    with pytest.raises(InputError, match="a prompt has the special token 'PICTURE', which the model has no embedding"):
        refuse_long_prompts(model, tokenizer, ["c PICTURE d"])
    with pytest.raises(InputError, match="a prompt has the special token 'PICTURE', which the model has no embedding"):
        answer(model, tokenizer, [2, 8], SamplingConfig(max_new_tokens=2))


@pytest.mark.parametrize(
    "load_it", [lambda *given: load_to_continue(*given, 16), lambda *given: load_trained(given[0], None, given[1])]
)
def test_a_word_beyond_the_embeddings_that_a_text_can_have_is_refused(load_it, tmp_path):
    tiny_model("llama-tiny", num_ids=8).save_pretrained(tmp_path)
    reason = r"the model has 8 embeddings, the tokenizer 10 ids, and a text can have 'word' \(9\)"
    with pytest.raises(InputError, match=reason):
        load_it(tmp_path, tokenizer_with(PICTURE=True, word=False))


def test_an_eos_beyond_the_embeddings_is_refused(tmp_path):
    tiny_model("llama-tiny", num_ids=8).save_pretrained(tmp_path)
    tokenizer = tokenizer_with(END=True)
    tokenizer.eos_token = "END"
    with pytest.raises(InputError, match=r"a text can have 'END' \(8\)"):
        load_to_continue(tmp_path, tokenizer, 16)
