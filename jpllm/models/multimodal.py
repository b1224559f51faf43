"""Take the language model out of a multimodal one: of pictures and sounds nothing is learned or answered here.

Checkpoints of Gemma 3, Qwen3.5, Mistral 3 or LLaVA hold a language model, an encoder of pictures and what joins them.
transformers loads all of it under its own names; the part that reads and writes text is one of its modules, and becomes
the model of the class that transformers has for such a text model alone. Saved, it is a folder like any other.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm.models.pretrained import whole_models
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

logger = logging.getLogger(__name__)


def text_configuration(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the language model within a multimodal one; any other configuration as it is.

    Ids of special tokens that the whole names are those of the part, too.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

    if config.is_encoder_decoder or type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return config
    text = config.get_text_config(decoder=True)
    if text is config or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    for key in _SPECIAL_IDS:
        if getattr(config, key, None) is not None:
            setattr(text, key, getattr(config, key))
    return text


def causal_class(config: PretrainedConfig) -> Any:
    """Return the class of transformers that loads a causal language model, or the multimodal model around it."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    return AutoModelForCausalLM if text_configuration(config) is config else AutoModelForMultimodalLM


def language_model(name_or_path: str | Path, model: PreTrainedModel) -> PreTrainedModel:
    """Return the language model within a multimodal one that was loaded, and say what is left out.

    It takes the weights over, so that none is copied. Any other model is returned as it is.

    Raises:
        InputError: transformers' text model of this kind is not the one within.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = text_configuration(model.config)
    if config is model.config:
        return model
    text_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    text = decoder
    if type(decoder) is not text_class:  # in Llama 4 the whole text model lies within
        with torch.device("meta"), whole_models():
            text = text_class(config)
        place = next((name for name, module in text.named_children() if type(module) is type(decoder)), None)
        if place is None or head is None:
            raise InputError(
                f"{name_or_path}: the language model within {type(model).__name__} is a {type(decoder).__name__}, and "
                "transformers has none such alone; take a model of text"
            )
        setattr(text, place, decoder)
        text.set_output_embeddings(head)
    config.tie_word_embeddings = text.get_output_embeddings().weight is text.get_input_embeddings().weight
    config.dtype = model.config.dtype
    text.generation_config = model.generation_config
    logger.warning(
        "%s: of the multimodal %s the language model is taken, %s with %s parameters; %s of pictures or sounds are "
        "left out",
        *(name_or_path, type(model).__name__, type(text).__name__, f"{text.num_parameters():,}"),
        f"{model.num_parameters() - text.num_parameters():,}",
    )
    return text.eval()
