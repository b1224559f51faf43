"""Small models of many types with random weights, saved as somebody would publish them."""

import torch

IDS = torch.arange(12).reshape(2, 6) + 1
_SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_SHAPE |= {"vocab_size": 100, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GROUPED = _SHAPE | {"num_key_value_heads": 2, "head_dim": 16}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64, "bos_token_id": 1}
_GPT |= {"eos_token_id": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
KINDS: dict[str, dict] = {
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "gpt_neox": _SHAPE,
    "opt": _SHAPE | {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "falcon": _SHAPE,
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "qwen3": _GROUPED,
    "gemma": _GROUPED,
    "gemma2": _GROUPED,
    "gemma3_text": _GROUPED,
    "cohere": _GROUPED,
    "granite": _GROUPED,
    "phi3": _GROUPED,
    "olmo3": _GROUPED,
    "qwen3_5_text": _GROUPED
    | {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
    | {"linear_key_head_dim": 16, "linear_value_head_dim": 16},
    "qwen3_moe": _GROUPED
    | {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
    "mixtral": _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
}


def publish(folder, kind, dtype, **settings):
    """Save a random model of that kind in a number format; returns the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind]), dtype=dtype)
    model.save_pretrained(folder, **settings)
    return folder
