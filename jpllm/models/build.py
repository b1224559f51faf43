"""Build a language model with random weights for a tokenizer, or load one."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from jpllm import xla
from jpllm.models import adapters, multimodal, pretrained
from jpllm.models.dtypes import Dtype, DtypeName, Quantization, dtype_name, held_dtype
from jpllm.models.presets import ModelConfig
from jpllm.runtime import InputError, device

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_DROPOUTS = {  # keys in the configurations of architectures, and of their kin
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "llama": (),
}
_OWN_NAMES = {"gpt2": {"intermediate_size": "n_inner", "hidden_act": "activation_function"}}
TRAINED_LENGTH_KEY = "trained_sequence_length"
_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len")
_USUAL_LENGTH = 2048
_INITIALIZER_KEYS = ("initializer_range", "init_std", "embed_init_std")
_USUAL_DEVIATION = 0.02

logger = logging.getLogger(__name__)


class Vocabulary(Protocol):
    """What the configuration of a model needs of a tokenizer."""

    def __len__(self) -> int: ...
    def get_vocab(self) -> dict[str, int]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...


def build_from_scratch(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Return a model of `config`'s shape with float32 random weights that depend on `seed` alone.

    Raises:
        InputError: the tokenizer has more ids than `config.vocab_size`.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    model_class = AutoModelForMaskedLM if config.shape.is_encoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class.from_config(transformers_config(config, tokenizer), attn_implementation="sdpa")
    if not config.shape.is_encoder:
        model.loss_type = "ForCausalLM"  # not derived from the name of GPT-2's class; without it there is a warning
    return model


def transformers_config(config: ModelConfig, tokenizer: Vocabulary) -> PretrainedConfig:
    """Return the transformers configuration: sizes from the preset, vocabulary and special ids from the tokenizer."""
    num_ids = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)  # ids may have gaps
    vocab_size = config.vocab_size or num_ids
    if vocab_size < num_ids:
        raise InputError(
            f"vocab_size: the tokenizer has {num_ids:,} ids, the model only {vocab_size:,}; remove vocab_size"
        )
    from transformers import AutoConfig

    shape = config.shape
    own_names = _OWN_NAMES.get(shape.architecture, {})
    keys = {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_positions,
        "hidden_act": shape.activation,
        "vocab_size": vocab_size,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": shape.tie_embeddings,
        **dict.fromkeys(_DROPOUTS[shape.architecture], config.dropout),
    }
    return AutoConfig.for_model(shape.architecture, **{own_names.get(key, key): keys[key] for key in keys})


def copy_weights(folder: str | Path, model: PreTrainedModel) -> None:
    """Give `model` the weights of a folder with a model of the same shape, all of them.

    Raises:
        InputError: there is no such model, or its weights are not whole.
    """
    dtype = cast("DtypeName", dtype_name(model.dtype))
    model.load_state_dict(_load(folder, model_class=type(model), dtype=dtype).state_dict())


def load_trained(
    name_or_path: str | Path,
    model_class: type[PreTrainedModel] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: Dtype | Literal["saved"] = "float32",
    base_model: str | None = None,
    quantization: Quantization = "none",
    on_host: bool = False,
) -> PreTrainedModel:
    """Load a trained model on the GPU, if there is one; a causal one unless `model_class` says otherwise.

    With `on_host` it stays in host memory, where weights in the number format of their files are pages of these.

    Of a folder with an adapter it is the base model (`base_model`, or else the one that the adapter names) with the
    adapter on it.

    `tokenizer` is the one that it is to be used with, if there is one. `dtype` is what its weights are held in: with
    "saved" what they were saved in, with "auto" that too, where this machine computes with it.

    Raises:
        InputError: there is no such model, it is a masked one, its weights are not whole, or the tokenizer is foreign.
    """
    base = adapters.base_of(name_or_path) if adapters.is_adapter(name_or_path) else name_or_path
    model = _load(base_model or base, model_class=model_class, dtype=dtype, quantization=quantization)
    if adapters.is_adapter(name_or_path):
        adapters.attach(name_or_path, model)
    model.eval()
    if tokenizer is not None:
        refuse_foreign_tokenizer(name_or_path, model, tokenizer)
    return model if on_host else model.to(device())


def _load(
    name_or_path: str | Path,
    dropout: float | None = None,
    model_class: type[PreTrainedModel] | None = None,
    dtype: Dtype | Literal["saved"] = "float32",
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """Load a trained model on the CPU, a quantised one where it is trained.

    `dropout`, if given, replaces its dropout probabilities.

    Raises:
        InputError: see `load_trained`.
    """
    config = pretrained.read_config(name_or_path)
    if dropout is not None:
        text_config = multimodal.text_configuration(config)
        probabilities = [key for keys in _DROPOUTS.values() for key in keys if hasattr(text_config, key)]
        if not probabilities:
            raise InputError(f"dropout: {config.model_type} models have none; remove it")
        text_config.update(dict.fromkeys(probabilities, dropout))
    if model_class is None:
        refuse_no_causal(name_or_path, config)
    saved = pretrained.saved_dtype(name_or_path, config)
    held = held_dtype("auto" if dtype == "saved" else dtype, saved)
    if dtype == "saved" and saved in get_args(DtypeName):
        held = cast("DtypeName", saved)
    model, missing, unexpected = pretrained.load(
        name_or_path, model_class or multimodal.causal_class(config), config, held, quantization
    )
    if missing or unexpected:
        raise InputError(
            f"{name_or_path}: the weights do not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    return model if model_class else multimodal.language_model(name_or_path, model)


def refuse_no_causal(name_or_path: str | Path, config: PretrainedConfig) -> None:
    """Raise InputError for a model that cannot predict the next token: an encoder, or one with an encoder."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_MULTIMODAL_LM_MAPPING,
    )

    names = config.architectures or []
    if config.is_encoder_decoder:
        kind = f"{config.model_type} has an encoder and a decoder"
    elif any("ForMaskedLM" in name for name in names) or (
        type(config) in MODEL_FOR_MASKED_LM_MAPPING
        and not getattr(config, "is_decoder", False)
        and not any("LMHead" in name or "CausalLM" in name for name in names)
    ):
        kind = "a masked language model"
    elif type(multimodal.text_configuration(config)) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        if type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING:
            raise InputError(
                f"{name_or_path}: {config.model_type} is multimodal, and transformers has no model for its text part "
                "alone; take the model of text that it was made of"
            )
        kind = f"{config.model_type} is no language model"
    else:
        return
    raise InputError(f"{name_or_path}: {kind}, which cannot predict the next token; take a decoder, such as a Llama")


def host_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy, in host memory, of a model on an XLA device, with the forward pass of its class."""
    import torch

    with torch.random.fork_rng(devices=[]):
        copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict(xla.state_on_host(model))
    return copied


def load_to_continue(
    name_or_path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    dropout: float | None = None,
    dtype: Dtype = "float32",
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """Load a trained model on the CPU, ready to be trained on with blocks of `sequence_length` tokens.

    `dropout` replaces the model's own probabilities, wherever it has some; `dtype` and `quantization` say how its
    weights are held, "auto" for such as do not learn.

    Raises:
        InputError: no such model, a foreign tokenizer, more tokens than positions, or no dropout in this architecture.
    """
    model = _load(name_or_path, dropout, dtype=dtype, quantization=quantization)
    model.loss_type = "ForCausalLM"  # not derived from the name of GPT-2's class; without it there is a warning
    refuse_foreign_tokenizer(name_or_path, model, tokenizer)
    trained_length = context_length(model)
    record_trained_length(model, sequence_length)
    if trained_length >= sequence_length:
        record_trained_length(model, trained_length)  # what it learned on longer texts is not unlearned by shorter ones
    return model


def refuse_foreign_tokenizer(
    name_or_path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise InputError where a text can have ids that the model has no embedding for.

    Special tokens behind the vocabulary may have none, as Gemma 3's for pictures in models of text: no text of a corpus
    becomes their ids (`jpllm.tokenizer.encoder`), so a warning says that they cannot be used. BOS, EOS, the unknown and
    the mask token need one; `jpllm.models.resize.add_pad_row` makes one for a padding token.
    """
    num_rows = input_embedding(model).weight.shape[0]
    without_row = {index: token for token, index in tokenizer.get_vocab().items() if index >= num_rows}
    if not without_row:
        return
    used = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "mask")}
    added = tokenizer.added_tokens_decoder
    needed = [index for index in without_row if index in used or index not in added or not added[index].special]
    if needed:
        raise InputError(
            f"{name_or_path}: the model has {num_rows:,} embeddings, the tokenizer {max(without_row) + 1:,} ids, and a "
            f"text can have {without_row[min(needed)]!r} ({min(needed)}): they do not belong to each other; give "
            "the tokenizer that the model was trained with, or make both longer by jpllm tokenizer extend --model"
        )
    logger.warning(
        "%s: the model has no embedding for the special token%s %s: no text of a corpus has any, and prompts may not",
        *(name_or_path, "s" if len(without_row) > 1 else "", ", ".join(map(repr, list(without_row.values())[:3]))),
    )


def describe(model: PreTrainedModel) -> str:
    """Return architecture, sizes and the true parameter count in one line."""
    config = model.config.get_text_config()
    embedding = input_embedding(model).weight.numel()
    heads = getattr(config, "num_attention_heads", None)
    positions = num_positions(model)
    return (
        f"{config.model_type}: {model.num_parameters():,} parameters ({embedding:,} in the input embedding), "
        f"vocabulary {config.vocab_size:,}, {config.num_hidden_layers} layers × {config.hidden_size}, "
        f"{f'{heads} heads' if heads else 'no attention'}, {f'{positions:,} positions' if positions else 'any length'}"
    )


def input_embedding(model: PreTrainedModel) -> torch.nn.Embedding:
    """Return the table of token embeddings; transformers calls it any module."""
    return cast("torch.nn.Embedding", model.get_input_embeddings())


def num_positions(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model has positions for; None where nothing bounds them, as in Bloom and Mamba.

    Models of RoBERTa's kind begin to count behind the padding id, so the first rows of their table stand for no token.
    """
    import torch

    positions = configured_positions(model.config)
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Embedding) or module.padding_idx is None:
            continue
        if positions and "position" in name.rpartition(".")[2]:
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return positions


def configured_positions(config: PretrainedConfig) -> int | None:
    """Return the positions that a configuration names; None where it names none."""
    config = config.get_text_config()
    found = (getattr(config, key, None) for key in _POSITION_KEYS)
    return next((number for number in found if isinstance(number, int) and number > 0), None)


def context_length(model: PreTrainedModel) -> int:
    """Return how many tokens the model was trained to read at once; its positions where that is not recorded.

    A model trained on shorter sequences than it has positions knows nothing of the later ones. Of a model that any
    length fits, it is the length that the published Bloom and Mamba were trained on.
    """
    return getattr(model.config, TRAINED_LENGTH_KEY, None) or num_positions(model) or _USUAL_LENGTH


def set_context_length(model: PreTrainedModel, num_tokens: int) -> None:
    """Let a loaded model read `num_tokens` at once, instead of as many as it was trained on.

    Raises:
        InputError: the model has fewer positions.
    """
    positions = num_positions(model)
    if positions and num_tokens > positions:
        raise InputError(
            f"context_length: {num_tokens:,} tokens are more than the model's {positions:,} positions; lower it"
        )
    trained = getattr(model.config, TRAINED_LENGTH_KEY, None)
    if trained and num_tokens > trained:
        logger.warning(
            "context_length: the model was trained on %s tokens at once; what it writes beyond them may be worthless",
            f"{trained:,}",
        )
    setattr(model.config, TRAINED_LENGTH_KEY, num_tokens)


def record_trained_length(model: PreTrainedModel, sequence_length: int) -> None:
    """Note the training length in the model's configuration. Raises InputError if it is beyond the positions."""
    positions = num_positions(model)
    if positions and sequence_length > positions:
        raise InputError(
            f"sequence_length: {sequence_length:,} tokens are more than the model's "
            f"{positions:,} positions; lower sequence_length or raise max_positions"
        )
    setattr(model.config, TRAINED_LENGTH_KEY, sequence_length)


def initializer_range(config: PretrainedConfig) -> float:
    """Standard deviation of the first weights, under whatever name an architecture has it."""
    config = config.get_text_config()
    found = (getattr(config, key, None) for key in _INITIALIZER_KEYS)
    return next((float(value) for value in found if isinstance(value, int | float) and value > 0), _USUAL_DEVIATION)
