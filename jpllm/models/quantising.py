"""Linear layers in 4 bits (NF4 with double quantisation) by bitsandbytes: loaded so, and computed the same each time.

Dettmers et al. 2023, https://arxiv.org/abs/2305.14314 (QLoRA).
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm.models.dtypes import NF4_BLOCK, NF4_NESTED_BLOCK, DtypeName
from jpllm.runtime import InputError, hide_kernels

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)


def arguments(dtype: DtypeName) -> dict[str, Any]:
    """Return what `from_pretrained` needs to make linear layers 4-bit as it reads them, and compute them in `dtype`.

    Raises InputError: bitsandbytes is not installed.
    """
    import torch

    return {"quantization_config": _settings(getattr(torch, dtype))}


def _settings(dtype: torch.dtype) -> BitsAndBytesConfig:
    from transformers import BitsAndBytesConfig

    hide_kernels()  # bitsandbytes is imported next
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError("quantization: needs the package bitsandbytes: pip install 'jpllm[8bit]'")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def replace_layers(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Put 4-bit layers in the place of those that loading with `arguments` makes 4-bit, in a model without memory.

    Their weights keep their shapes, see `empty_weight`.

    Raises InputError: bitsandbytes is not installed.
    """
    settings = _settings(dtype)
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    replace_with_bnb_linear(model, get_keys_to_not_convert(model), settings)
    vars(model)["is_loaded_in_4bit"] = True  # peft reads it


def quantise(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Make the linear layers of a model 4-bit, see `replace_layers`; they compute in `dtype`."""
    from bitsandbytes import nn
    from transformers.pytorch_utils import Conv1D

    make_weight: Any = nn.Params4bit  # whose arguments no type tells
    original = dict(model.named_modules())
    replace_layers(model, dtype)
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if weight is None or not is_to_be_quantised(weight):
            continue
        values = original[name].weight.data
        values = values.T.contiguous() if isinstance(original[name], Conv1D) else values
        layer.weight = make_weight(values, compress_statistics=True, quant_type="nf4").to(values.device)
        layer.bias = original[name].bias
    check(type(model).__name__, model)


def empty_weight(shape: torch.Size, dtype: torch.dtype) -> torch.nn.Parameter:
    """Return an uninitialised 4-bit weight of a layer that computes in `dtype`, with its doubly quantised scales."""
    import torch
    from bitsandbytes.functional import QuantState

    num_packed = -(-shape.numel() // 2)
    num_scales = -(-shape.numel() // NF4_BLOCK)
    nested = QuantState(
        absmax=torch.empty(-(-num_scales // NF4_NESTED_BLOCK)),
        code=torch.empty(256),
        blocksize=NF4_NESTED_BLOCK,
        dtype=torch.float32,
    )
    weight: Any = torch.nn.Parameter(torch.empty(num_packed, 1, dtype=torch.uint8), requires_grad=False)
    weight.quant_state = QuantState(
        absmax=torch.empty(num_scales, dtype=torch.uint8),
        shape=shape,
        code=torch.empty(16),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=dtype,
        offset=torch.empty(()),
        state2=nested,
    )
    return weight


def check(name_or_path: str | Path, model: PreTrainedModel) -> None:
    """Have a model loaded with `arguments` compute alike in training and evaluation, and say what of it is not 4-bit.

    On a CPU with AVX-512 bf16 bitsandbytes (0.50.2) packs weights anew at the first evaluation, and multiplies with
    packed weights without a gradient, in the training after it too.

    Raises:
        InputError: none of its layers is 4-bit.
    """
    import torch

    num_quantised = 0
    modules: Iterator[Any] = model.modules()
    for module in modules:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            num_quantised += module.in_features * module.out_features
    if not num_quantised:
        raise InputError(
            f"{name_or_path}: quantization: bitsandbytes makes none of the layers of {model.config.model_type} 4-bit; "
            "write quantization: none"
        )
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    if (output := model.get_output_embeddings()) is not None:
        tables.add(id(output.weight))
    left = sum(
        weight.numel()
        for weight in model.parameters()
        if weight.ndim > 1 and not is_quantised(weight) and id(weight) not in tables
    )
    if left > num_quantised // 100:
        logger.warning(
            "quantization: %s parameters are 4-bit; %s in layers of other kinds, such as experts, are not",
            *(f"{num_quantised:,}", f"{left:,}"),
        )


def is_quantised(weight: torch.Tensor) -> bool:
    """Return whether a weight is held in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def is_to_be_quantised(weight: torch.Tensor) -> bool:
    """Return whether a weight is that of a 4-bit layer, and holds no 4-bit numbers yet."""
    return hasattr(weight, "quant_state") and not is_quantised(weight)


def tensors_beside(weight: Any) -> list[torch.Tensor]:
    """Return the scales and tables that belong to a 4-bit weight; none of another one."""
    if not is_quantised(weight):
        return []
    state = weight.quant_state
    return [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]


def num_elements(weight: torch.Tensor) -> int:
    """Return how many numbers a weight stands for; two 4-bit ones lie in a byte."""
    state = getattr(weight, "quant_state", None)
    return weight.numel() if state is None else state.shape.numel()


def plain_config(model: PreTrainedModel) -> PretrainedConfig:
    """Return a copy of the configuration of a model without that of its 4-bit weights."""
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    return config


def scales_of(weight: Any) -> torch.Tensor:
    """Return numbers that are finite where all that a 4-bit weight was made of was: its scales of scales."""
    state = weight.quant_state
    return state.state2.absmax + state.offset
