"""What a model makes of the products of its output layer is found, whatever its configuration calls it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jpllm.models.logits import LogitFunction, logit_function
from jpllm.models.losses import use_chunked_loss
from jpllm.runtime import InputError
from tests.models.test_build import tiny_model

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, "head_dim": 16,
    "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
FALCON_H1 = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1}
FUNCTIONS = {
    "llama": ({}, LogitFunction()),
    "gemma2": ({"final_logit_softcapping": 30.0}, LogitFunction(1.0, 30.0)),
    "gemma3_text": ({"final_logit_softcapping": None}, LogitFunction()),
    "recurrent_gemma": ({"logits_soft_cap": 12.0, "lru_width": 32, "num_hidden_layers": 3}, LogitFunction(1.0, 12.0)),
    "cohere": ({"logit_scale": 0.0625}, LogitFunction(0.0625)),
    "granite": ({"logits_scaling": 8.0}, LogitFunction(0.125)),
    "nanochat": ({"final_logit_softcapping": 15.0}, LogitFunction(1.0, 15.0)),
    "minicpm3": ({"dim_model_base": 8, "q_lora_rank": 8, "kv_lora_rank": 8}, LogitFunction(0.25)),
    "falcon_h1": ({"lm_head_multiplier": 0.3, **FALCON_H1}, LogitFunction(0.3)),
    "phi": ({}, LogitFunction()),
    "opt": ({"ffn_dim": 64, "word_embed_proj_dim": 32}, LogitFunction()),
    "gptj": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}, LogitFunction()),
    "olmo3": ({}, LogitFunction()),
}


def model_of(kind: str, **keys):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | keys))).train()


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_loss_in_chunks_and_its_gradients_are_the_models_own(kind):
    """Weights are large, so that caps bend the logits; a bias is not 0."""
    keys, function = FUNCTIONS[kind]
    whole, chunked = model_of(kind, **keys), model_of(kind, **keys)
    for model in (whole, chunked):
        model.loss_type = "ForCausalLM"
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
            if model.get_output_embeddings().bias is not None:
                model.get_output_embeddings().bias.copy_(torch.linspace(-1, 1, 50))
    assert logit_function(chunked) == function
    use_chunked_loss(chunked)
    ids = torch.randint(2, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    for model in (whole.eval(), chunked.eval()):
        model(input_ids=ids, labels=ids).loss.backward()
    assert chunked(input_ids=ids, labels=ids).loss.item() == pytest.approx(
        whole(input_ids=ids, labels=ids).loss.item(), rel=1e-5
    )
    for (name, one), other in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_a_cap_is_seen_where_all_logits_are_0():
    model = model_of("gemma2", final_logit_softcapping=30.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert logit_function(model) == LogitFunction(1.0, 30.0)


def test_half_precision_has_the_same_function():
    assert logit_function(model_of("granite", logits_scaling=8.0).bfloat16()) == LogitFunction(0.125)
    assert logit_function(model_of("gemma2", final_logit_softcapping=30.0).half()) == LogitFunction(1.0, 30.0)


def with_logits(change):
    """Return a model that makes something else of its logits than to scale and cap them."""
    model = tiny_model("llama-tiny")
    own = model.forward

    def forward(*arguments, **kwargs):
        output = own(*arguments, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    return model


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (torch.relu, "does more with its logits than to scale and cap"),
        (lambda logits: logits + 1, "does more with its logits than to scale and cap"),
        (
            lambda logits: logits.index_fill(-1, torch.tensor([7]), -1e9),
            "does more with its logits than to scale and cap",
        ),
        (lambda logits: logits[..., :-3], "does not have one logit for each row of its output layer"),
    ],
)
def test_logits_that_are_something_else_are_refused(change, reason):
    with pytest.raises(InputError, match=f"chunked_loss: LlamaForCausalLM {reason}.*; set chunked_loss: false"):
        use_chunked_loss(with_logits(change))


def test_an_output_layer_behind_another_one_is_refused():
    keys = {key: value for key, value in SIZES.items() if key not in ("num_key_value_heads", "head_dim")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("modernbert-decoder", **keys))
    with pytest.raises(InputError, match="reads something else than the hidden states of its last layer"):
        use_chunked_loss(model)


def test_the_loss_of_routers_is_not_left_out_in_silence():
    with pytest.raises(InputError, match="output_router_logits"):
        use_chunked_loss(model_of("mixtral", output_router_logits=True, num_local_experts=2))
