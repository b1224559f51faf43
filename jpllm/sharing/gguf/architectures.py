"""The architectures that llama.cpp computes, and the header of a GGUF file that tells it the shape of a model.

llama.cpp has one graph for each architecture, with a few switches. What no switch can tell is refused by `problems`
before anything is written; that the rest is right is for a proof on the finished file to say.
Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from jpllm.models.build import context_length

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig, PreTrainedModel

_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
_SILU = ("silu", "swish")
_GEMMA = {"attention_bias": (False,), "use_bidirectional_attention": (False, None)}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp computes a type of model.

    Attributes:
        name: that of the architecture in a GGUF file.
        needs: attribute of the configuration → the values that fit what the graph takes for granted.
        needs_value: attributes that must not be None.
        rotates: the elements of a head that a rotary position turns together: neighbours, or one of each half.
        scaled_positions: kinds of scaled rotary positions that can be told, beside none.
        has_window: whether layers can attend to a sliding window.
        is_square: whether all heads together are as wide as the hidden state.
        adds_one: whether a norm multiplies by its weight plus one in transformers, and by the weight in llama.cpp.
    """

    name: str
    needs: Mapping[str, tuple] = field(default_factory=dict)
    needs_value: tuple[str, ...] = ()
    rotates: Literal["neighbours", "halves"] = "halves"
    scaled_positions: tuple[str, ...] = ("linear",)
    has_window: bool = False
    is_square: bool = False
    adds_one: bool = False


_LLAMA = Architecture("llama", {"hidden_act": _SILU}, rotates="neighbours", scaled_positions=("linear", "llama3"))
ARCHITECTURES: dict[str, Architecture] = {  # by `model_type`
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2", {"hidden_act": _SILU}, is_square=True),
    "qwen3": Architecture("qwen3", {"hidden_act": _SILU, "attention_bias": (False,)}),
    "gemma": Architecture(
        "gemma", {"hidden_act": (*_GELU, "gelu"), "tie_word_embeddings": (True,), **_GEMMA}, adds_one=True
    ),
    "gemma2": Architecture(
        "gemma2",
        {"hidden_activation": _GELU, "tie_word_embeddings": (True,), **_GEMMA},
        needs_value=("attn_logit_softcapping", "final_logit_softcapping"),
        has_window=True,
        adds_one=True,
    ),
    "gemma3_text": Architecture(
        "gemma3",
        {"hidden_activation": _GELU, "attn_logit_softcapping": (None,), **_GEMMA},
        has_window=True,
        adds_one=True,
    ),
    "gpt2": Architecture(
        "gpt2",
        {
            "activation_function": _GELU,
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        is_square=True,
    ),
    "gpt_neox": Architecture(
        "gptneox", {"hidden_act": (*_GELU, "gelu"), "attention_bias": (True,)}, scaled_positions=(), is_square=True
    ),
}


def problems(config: PretrainedConfig, name: str) -> Iterator[str]:
    """Yield a sentence for each thing in a model that llama.cpp cannot compute; `name` is that of its class."""
    known = ARCHITECTURES.get(config.model_type)
    if known is None or not name.endswith(("ForCausalLM", "LMHeadModel")):
        yield f"{name} is not an architecture that is converted here; language models of {', '.join(ARCHITECTURES)} are"
        return
    for key, allowed in known.needs.items():
        if getattr(config, key, allowed[0]) not in allowed:
            yield f"llama.cpp computes {known.name} with {key} {allowed[0]}; the model has {getattr(config, key)}"
    for key in known.needs_value:
        if getattr(config, key, None) is None:
            yield f"llama.cpp computes {known.name} with {key}; the model has none"
    yield from _position_problems(config, known)
    width = head_width(config)
    if known.is_square and width * config.num_attention_heads != config.hidden_size:
        yield f"its heads are {width} wide, not {config.hidden_size // config.num_attention_heads}"


def _position_problems(config: PretrainedConfig, known: Architecture) -> Iterator[str]:
    """Yield a sentence where rotary positions are scaled as no key of the file can say."""
    for layers, rope in _rotary_positions(config).items():
        kind = rope.get("rope_type", "default")
        is_told = kind in known.scaled_positions and layers != "sliding_attention"
        if kind != "default" and not is_told:
            where = f" of {layers}" if layers else ""
            yield f"its rotary positions{where} are scaled ({kind}), which is not converted here for {known.name}"


def new_writer(model: PreTrainedModel, file: str) -> GGUFWriter:
    """Return a writer for `file` that knows the shape of the model; nothing is written yet."""
    import gguf

    config = model.config
    known = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, known.name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(longest_text(model))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(_inner_size(config))
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if (num_key_heads := getattr(config, "num_key_value_heads", None)) is not None:
        writer.add_head_count_kv(num_key_heads)
        writer.add_key_length(head_width(config))
        writer.add_value_length(head_width(config))
    if (epsilon := getattr(config, "rms_norm_eps", None)) is not None:
        writer.add_layer_norm_rms_eps(epsilon)
    else:
        is_gpt2 = config.model_type == "gpt2"
        writer.add_layer_norm_eps(config.layer_norm_epsilon if is_gpt2 else config.layer_norm_eps)
    _add_rotary_positions(writer, config)
    if config.model_type == "gpt_neox":
        writer.add_parallel_residual(config.use_parallel_residual)
    if known.has_window:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        writer.add_final_logit_softcapping(cap)
    return writer


def head_width(config: PretrainedConfig) -> int:
    """Return the number of elements of an attention head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _add_rotary_positions(writer: GGUFWriter, config: PretrainedConfig) -> None:
    import gguf

    for layers, rope in _rotary_positions(config).items():
        if layers == "sliding_attention":
            writer.add_rope_freq_base_swa(rope["rope_theta"])
            continue
        writer.add_rope_dimension_count(int(head_width(config) * rope.get("partial_rotary_factor", 1.0)))
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope.get("rope_type") == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rope["factor"])


def _rotary_positions(config: PretrainedConfig) -> dict[str, dict]:
    """Return the settings of rotary positions by the kind of layers that have them, "" for all layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    by_layers = {key: value for key, value in rope.items() if isinstance(value, dict)}
    return by_layers or ({"": rope} if rope else {})


def longest_text(model: PreTrainedModel) -> int:
    """Return how long a text may be in llama.cpp: GPT-2 has a row for each position, so all of them.

    Of the others it is what they were trained on, and at most the sliding window where llama.cpp computes none.
    """
    config = model.config
    if config.model_type == "gpt2":
        return config.max_position_embeddings
    window = None if ARCHITECTURES[config.model_type].has_window else getattr(config, "sliding_window", None)
    return min(context_length(model), window or context_length(model))


def _inner_size(config: PretrainedConfig) -> int:
    if config.model_type == "gpt2":
        return config.n_inner or 4 * config.hidden_size
    return config.intermediate_size
