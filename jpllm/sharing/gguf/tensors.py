"""The weights of a model as a GGUF file holds them: named, laid out and rounded for llama.cpp.

Which tensor has which name is the table of the package `gguf`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jpllm.sharing.gguf.architectures import ARCHITECTURES, head_width
from jpllm.sharing.gguf.quantize import GgufType, file_type, rounded, tensor_type

if TYPE_CHECKING:
    import torch
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel

# Numbers of layers by which llama.cpp knows the 27 B models, whose attention it scales by another width than a head's.
_NUM_LAYERS_27B = {"gemma2": 46, "gemma3_text": 62}


def add_tensors(writer: GGUFWriter, model: PreTrainedModel, precision: GgufType) -> None:
    """Hand all weights to the writer, matrices in `precision`, vectors and position tables in float32."""
    import gguf

    config = model.config
    name = ARCHITECTURES[config.model_type].name
    architecture = next(a for a, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer.add_file_type(file_type(precision))
    tensors = list(_tensors(model))
    has_output = any(name == "lm_head.weight" for name, _ in tensors)
    for name, tensor in tensors:
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name, f"{name} has no name in a GGUF file"
        array = _laid_out(name, tensor, config).detach().float().cpu().contiguous().numpy()
        kind = tensor_type(gguf_name, array.shape, precision, config.num_hidden_layers, has_output)
        writer.add_tensor(gguf_name, rounded(array, kind), raw_dtype=kind)


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of each weight, and the factors of scaled rotary positions."""
    config = model.config
    for name, tensor in model.state_dict().items():
        is_constant = name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))
        if not (is_constant or name.startswith(("lm_head.", "embed_out."))):
            yield name, tensor
    # llama.cpp's gptneox has an output matrix even where the model has one for input and output
    if not config.tie_word_embeddings or config.model_type == "gpt_neox":
        yield "lm_head.weight", model.get_output_embeddings().weight
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _rotary_factors(model)


def _rotary_factors(model: PreTrainedModel) -> torch.Tensor:
    """Return by what llama.cpp divides each frequency of unscaled rotary positions, float32 (half a head)."""
    import torch

    base: Any = model.base_model
    frequencies = base.rotary_emb.inv_freq.double().cpu()
    powers = torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies)
    return (model.config.rope_parameters["rope_theta"] ** -powers / frequencies).float()


def _laid_out(name: str, tensor: torch.Tensor, config: PretrainedConfig) -> torch.Tensor:
    """Return a weight as llama.cpp's graph of the architecture wants it."""
    known = ARCHITECTURES[config.model_type]
    if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return tensor.T  # transformers' Conv1D keeps input × output
    if config.model_type == "gpt_neox" and "query_key_value" in name:
        # per head query, key and value → all queries, all keys, all values
        return tensor.view(config.num_attention_heads, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
    if known.rotates == "neighbours" and ("q_proj." in name or "k_proj." in name):
        heads = config.num_attention_heads if "q_proj." in name else config.num_key_value_heads
        # transformers turns element i with i + half, llama.cpp neighbours
        return tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    if known.adds_one and name.endswith("norm.weight"):
        tensor = tensor.float() + 1.0
    return tensor * factor if (factor := _query_factor(name, config)) != 1.0 else tensor


def _query_factor(name: str, config: PretrainedConfig) -> float:
    """Return by what a weight has to be multiplied, so that llama.cpp's scale of attention becomes the model's."""
    place = {"gemma2": "q_proj.weight", "gemma3_text": "q_norm.weight"}.get(config.model_type)
    if place is None or not name.endswith(place):
        return 1.0
    is_27b = config.num_hidden_layers == _NUM_LAYERS_27B[config.model_type]
    width = config.hidden_size // config.num_attention_heads if is_27b else head_width(config)
    return (width / config.query_pre_attn_scalar) ** 0.5
