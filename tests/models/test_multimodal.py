"""Of a multimodal folder the language model is taken, and saved so that transformers loads it alone."""

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

from jpllm.models.build import load_to_continue, load_trained
from jpllm.models.losses import use_chunked_loss
from jpllm.planning.recipes import _trained_config
from jpllm.runtime import InputError
from tests.models.test_build import FakeTokenizer

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "head_dim": 16,
}  # fmt: skip
PICTURES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_PICTURES = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
LINEAR_LAYERS = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
SHUFFLED = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5}
KINDS = {
    "gemma3": (TEXT, PICTURES, "Gemma3ForCausalLM"),
    "mistral3": ({"model_type": "mistral", **TEXT}, {"model_type": "pixtral", **PICTURES}, "MistralForCausalLM"),
    "qwen3_5": (TEXT | LINEAR_LAYERS, QWEN_PICTURES, "Qwen3_5ForCausalLM"),
    "llama4": (
        {"num_local_experts": 2, "intermediate_size_mlp": 64, **TEXT}, PICTURES | SHUFFLED, "Llama4ForCausalLM"
    ),
}  # fmt: skip


def make(folder, kind: str, text: dict, pictures: dict, **keys):
    """Return a multimodal model with random weights, which is also saved."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, text_config=text, vision_config=pictures, **keys)
    model = AutoModelForMultimodalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_language_model_has_the_logits_of_the_whole_and_loads_alone(kind, tmp_path, caplog):
    text, pictures, name = KINDS[kind]
    whole = make(tmp_path / "whole", kind, text, pictures)
    model = load_trained(tmp_path / "whole")
    assert type(model).__name__ == name
    said = re.search(
        r"is taken, (\w+) with ([\d,]+) parameters; ([\d,]+) of pictures or sounds are left out", caplog.text
    )
    assert said[1] == name
    assert int(said[2].replace(",", "")) == model.num_parameters()
    assert int(said[3].replace(",", "")) == whole.num_parameters() - model.num_parameters() > 0
    ids = torch.arange(1, 9)[None]
    expected = whole(input_ids=ids).logits
    assert torch.equal(model(input_ids=ids).logits, expected)
    model.save_pretrained(tmp_path / "text")
    alone, info = AutoModelForCausalLM.from_pretrained(tmp_path / "text", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(alone).__name__ == name
    assert torch.equal(alone.eval()(input_ids=ids).logits, expected)


def test_special_ids_of_the_whole_are_those_of_the_language_model(tmp_path):
    make(tmp_path / "whole", "gemma3", TEXT, PICTURES, eos_token_id=[1, 5])
    model = load_trained(tmp_path / "whole")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [1, 5]
    model.save_pretrained(tmp_path / "text")
    assert AutoConfig.from_pretrained(tmp_path / "text").eos_token_id == [1, 5]


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_tied_head_stays_tied_and_a_free_one_free(is_tied, tmp_path):
    text, pictures, _ = KINDS["mistral3"]
    make(tmp_path / "whole", "mistral3", text, pictures, tie_word_embeddings=is_tied)
    model = load_trained(tmp_path / "whole")
    assert model.config.tie_word_embeddings is is_tied
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is is_tied


def test_the_language_model_is_trained_and_planned(tmp_path):
    make(tmp_path / "whole", "gemma3", TEXT, PICTURES)
    model = load_to_continue(tmp_path / "whole", FakeTokenizer(64), 16)
    use_chunked_loss(model.train())
    ids = torch.arange(1, 9)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert _trained_config(str(tmp_path / "whole"), is_classifier=False).model_type == "gemma3_text"


def test_a_part_that_transformers_has_no_model_for_is_refused(tmp_path):
    make(tmp_path, "qwen3_vl", TEXT, QWEN_PICTURES | {"deepstack_visual_indexes": [0]})
    with pytest.raises(InputError, match="qwen3_vl is multimodal, and transformers has no model for its text part"):
        load_trained(tmp_path)
