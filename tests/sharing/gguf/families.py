"""Tiny models of the families that llama.cpp computes, with random weights wide enough that any mistake shows."""

import torch

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
LOCAL_AND_GLOBAL = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": LINEAR}
CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
# Name → type of model and settings; heads are 32 wide where the family can have them wider than hidden_size / heads.
FAMILIES = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-longer": ("qwen2", {"rope_parameters": LINEAR}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma": ("gemma", {"head_dim": 32}),
    "gemma-2": ("gemma2", {"head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 8, **CAPS}),
    "gemma-3": (
        "gemma3_text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 20,
            "sliding_window": 8,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": LOCAL_AND_GLOBAL,
        },
    ),
}


def family_model(name, tokenizer, **more):
    """A model of the family; `more` replaces settings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = FAMILIES[name]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    config = AutoConfig.for_model(model_type, **{**SHAPE, "vocab_size": len(tokenizer), **ends, **settings, **more})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model
