"""The weights and the shape of a model as a GGUF file holds them, for llama.cpp.

Which tensor has which name is the table of the package `gguf`. What llama.cpp computes otherwise than the model does is
refused by `problems` before anything is written; that the rest is right is for a proof on the finished file to say.
Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from jpllm.models.build import context_length

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel

GgufType = Literal["f32", "f16"]
# What llama.cpp's graph of each architecture takes for granted: attribute of the configuration → values that fit it.
_TAKEN_FOR_GRANTED: dict[str, dict[str, tuple]] = {
    "llama": {"hidden_act": ("silu", "swish"), "mlp_bias": (False,), "attention_bias": (False,)},
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "gpt_neox": {"hidden_act": ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "attention_bias": (True,)},
}
_GGUF_NAMES = {"llama": "llama", "gpt2": "gpt2", "gpt_neox": "gptneox"}


def problems(config: PretrainedConfig, name: str) -> Iterator[str]:
    """Yield a sentence for each thing in a model that llama.cpp cannot compute; `name` is that of its class."""
    if config.model_type not in _GGUF_NAMES or not name.endswith(("ForCausalLM", "LMHeadModel")):
        yield f"{name} is not an architecture that is converted here; language models of {', '.join(_GGUF_NAMES)} are"
        return
    for key, allowed in _TAKEN_FOR_GRANTED[config.model_type].items():
        if getattr(config, key, allowed[0]) not in allowed:
            has = getattr(config, key)
            yield f"llama.cpp computes {config.model_type} with {key} {allowed[0]}; the model has {has}"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        yield f"its rotary positions are scaled ({rope['rope_type']}), which is not converted here"
    if config.model_type == "llama" and config.head_dim * config.num_attention_heads != config.hidden_size:
        yield f"its heads are {config.head_dim} wide, not {config.hidden_size // config.num_attention_heads}"


def new_writer(model: PreTrainedModel, file: str) -> GGUFWriter:
    """Return a writer for `file` that knows the shape of the model; nothing is written yet."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(file, _GGUF_NAMES[config.model_type])
    is_gpt2 = config.model_type == "gpt2"
    writer.add_block_count(config.num_hidden_layers)
    # GPT-2 has a row for each position, so all of them; else as many as it was trained on
    writer.add_context_length(config.max_position_embeddings if is_gpt2 else context_length(model))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(_inner_size(config))
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "llama":
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon if is_gpt2 else config.layer_norm_eps)
    if not is_gpt2:
        rope = config.rope_parameters
        head_size = config.hidden_size // config.num_attention_heads
        writer.add_rope_dimension_count(int(head_size * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope["rope_theta"])
    if config.model_type == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
    return writer


def add_tensors(writer: GGUFWriter, model: PreTrainedModel, precision: GgufType) -> None:
    """Hand all weights to the writer: matrices in `precision`, vectors and position tables in float32."""
    import gguf
    import numpy as np

    config = model.config
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == _GGUF_NAMES[config.model_type])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    is_half = precision == "f16"
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if is_half else gguf.LlamaFileType.ALL_F32)
    for name, tensor in _tensors(model):
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name, f"{name} has no name in a GGUF file"
        is_matrix = tensor.ndim > 1 and not gguf_name.startswith("position_embd")
        writer.add_tensor(gguf_name, _array(tensor).astype(np.float16 if is_half and is_matrix else np.float32))


def _inner_size(config: PretrainedConfig) -> int:
    if config.model_type == "gpt2":
        return config.n_inner or 4 * config.hidden_size
    return config.intermediate_size


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of each weight, laid out as llama.cpp wants it."""
    config = model.config
    num_heads = config.num_attention_heads
    for name, tensor in model.state_dict().items():
        is_constant = name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))
        if not (is_constant or name.startswith(("lm_head.", "embed_out."))):
            yield name, _laid_out(name, tensor, config, num_heads)
    # llama.cpp's gptneox has an output matrix even where the model has one for input and output
    if not config.tie_word_embeddings or config.model_type == "gpt_neox":
        yield "lm_head.weight", model.get_output_embeddings().weight


def _laid_out(name: str, tensor: torch.Tensor, config: PretrainedConfig, num_heads: int) -> torch.Tensor:
    if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T  # transformers' Conv1D keeps input × output
    if config.model_type == "gpt_neox" and "query_key_value" in name:
        # per head query, key and value → all queries, all keys, all values
        return tensor.view(num_heads, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
    if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = num_heads if "q_proj" in name else config.num_key_value_heads
        # transformers turns element i with i + half, llama.cpp neighbours
        return tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
    return tensor


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()
