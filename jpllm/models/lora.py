"""LoRA: train small matrices beside the large ones, and add them up at the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685, by the peft library. All linear layers but the output layer get one.
"""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FullPart = Literal["embeddings", "head"]
_ADAPTER = "default"
_ADAPTER_FILE = "adapter_model.safetensors"


def add_lora(model: PreTrainedModel, rank: int, alpha: float, dropout: float, seed: int = 0) -> None:
    """Freeze the weights and put matrices of `rank` beside them, whose product is scaled by alpha / rank.

    The model computes what it did before until it is trained. Random numbers depend on `seed` alone.

    Raises:
        InputError: peft is not installed.
    """
    import torch

    if importlib.util.find_spec("peft") is None:
        raise InputError("lora_rank: needs the package peft: pip install 'jpllm[lora]'")
    from peft import LoraConfig

    targets, are_transposed = _targets(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # ty: ignore[invalid-argument-type]  # peft divides it by the rank, and takes fractions too
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=are_transposed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config, _ADAPTER)


def has_lora(model: PreTrainedModel) -> bool:
    """Return whether `add_lora` was called on the model."""
    return getattr(model, "_hf_peft_config_loaded", False)


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy on the CPU in which the products are added to the weights; it is like any other model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(model).cpu()
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    plain._hf_peft_config_loaded = False
    del plain.peft_config
    return plain.requires_grad_(True)


def load_adapter(folder: str | Path, model: PreTrainedModel) -> None:
    """Give a model with LoRA the matrices of a checkpoint, all of them.

    Raises:
        InputError: they are not whole.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(Path(folder) / _ADAPTER_FILE)
    wanted = get_peft_model_state_dict(model, adapter_name=_ADAPTER).keys()
    names = {name.removeprefix("base_model.model.") for name in state}
    if names != wanted:
        raise InputError(f"{folder}: the LoRA matrices of another model or rank: {sorted(names ^ wanted)[:3]}")
    set_peft_model_state_dict(model, {n.removeprefix("base_model.model."): v for n, v in state.items()}, _ADAPTER)


def _targets(model: PreTrainedModel) -> tuple[list[str], bool]:
    """Return the names of the linear layers but the output layer, and whether they are Conv1D as in GPT-2."""
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    layers = {name: layer for name, layer in model.named_modules() if layer is not output}
    transposed = [name for name, layer in layers.items() if isinstance(layer, Conv1D)]
    linear = [name for name, layer in layers.items() if isinstance(layer, torch.nn.Linear)]
    return (transposed, True) if transposed else (linear, False)
