"""Shapes of published models that shipped files name, as their configurations on the Hub have them.

Sources: the config.json and the parameter count on the page of each model at https://huggingface.co/NAME (llm-jp-3 from
the table on its page; Gemma 3 as in keras-hub's `gemma3_presets.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

_QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 151_936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
_LLM_JP_3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 99_584,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
_QWEN3_06B = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
_QWEN3_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
_QWEN3_8B = {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32}
_LLM_JP_18B = {"hidden_size": 2048, "intermediate_size": 7168, "num_hidden_layers": 24, "num_attention_heads": 16}
_LLM_JP_37B = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24}

CONFIGS: dict[str, dict] = {
    "Qwen/Qwen3-0.6B-Base": _QWEN3 | _QWEN3_06B,
    "Qwen/Qwen3-4B-Base": _QWEN3 | _QWEN3_4B,
    "Qwen/Qwen3-8B": _QWEN3 | _QWEN3_8B | {"tie_word_embeddings": False},
    "llm-jp/llm-jp-3-1.8b": _LLM_JP_3 | _LLM_JP_18B | {"num_key_value_heads": 16},
    "llm-jp/llm-jp-3-3.7b": _LLM_JP_3 | _LLM_JP_37B | {"num_key_value_heads": 24},
    "google/gemma-3-1b-pt": {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "vocab_size": 262_144,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "max_position_embeddings": 32_768,
        "sliding_window": 512,
        "dtype": "bfloat16",
    },
    "openai-community/gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50_257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
    },
}
NUM_PARAMETERS = {
    "Qwen/Qwen3-0.6B-Base": 596_049_920,
    "Qwen/Qwen3-4B-Base": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "llm-jp/llm-jp-3-1.8b": 407_896_064 + 1_459_718_144,
    "llm-jp/llm-jp-3-3.7b": 611_844_096 + 3_171_068_928,
    "google/gemma-3-1b-pt": 999_885_952,
    "openai-community/gpt2": 124_439_808,
}


def write(folder: Path) -> None:
    """Write the configuration of each model to `folder/NAME/config.json`, where a relative path finds it."""
    for name, config in CONFIGS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
