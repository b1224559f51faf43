"""Folders with what LoRA has learned alone, as peft writes them: our own, and strangers', which are looked through.

A stranger's settings are data here: which layers have matrices is read from the names in the file of the weights, and
never from patterns; nothing in them is run.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm import bounded
from jpllm.config.settings import option
from jpllm.models import lora, quantising, weight_files
from jpllm.models.dtypes import Dtype
from jpllm.models.lora import ADAPTER
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<part>[AB])\.weight")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_MAX_RANK = 4096
# Settings of peft 0.21 that change what is computed, and the values that do not. Others describe how it was trained.
_PLAIN_SETTINGS: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "alora_invocation_tokens": (None,),
    "velora_config": (None,),
    "kasa_config": (None,),
}


@dataclass
class LoadingConfig:
    """Loading"""

    dtype: Dtype = option(
        "auto",
        "Number format that weights are held in. auto: what they were saved in, where this machine computes with it.",
    )
    base_model: str | None = option(
        None, "Model that an adapter (a folder with what LoRA learned) belongs to; by default the one that it names."
    )

    def base_of(self, name_or_path: str | Path) -> str | None:
        """Return the base that the key gives a folder with an adapter; None for whole models, which have none."""
        return self.base_model if is_adapter(name_or_path) else None


def is_adapter(name_or_path: str | Path) -> bool:
    """Return whether a folder holds an adapter, and no model beside it."""
    folder = Path(name_or_path)
    return (folder / CONFIG_NAME).is_file() and not (folder / "config.json").exists()


def base_of(folder: str | Path) -> str:
    """Return the name or folder of the model that an adapter was trained beside.

    Raises:
        InputError: it names none.
    """
    name = _settings(Path(folder)).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise InputError(f"{folder}: {CONFIG_NAME} names no base_model_name_or_path; give the key base_model")
    return name


def tokenizer_source(name_or_path: str | Path, base_model: str | None = None) -> str:
    """Return where the tokenizer of a model lies: that of an adapter without one is its base model's.

    Raises:
        InputError: `base_model` is given, and there is no adapter to put on it; or see `base_of`.
    """
    folder = Path(name_or_path)
    if not is_adapter(folder):
        if base_model:
            raise InputError(f"base_model: {name_or_path} is no folder with an adapter ({CONFIG_NAME}); remove the key")
        return str(name_or_path)
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return str(name_or_path)
    return base_model or base_of(folder)


def save(model: PreTrainedModel, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write what learns of a model with LoRA, as peft reads it; `state` are its weights where they are not in it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = state or dict(model.named_parameters())
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    tensors = {_saved_name(name): weights[name].detach().cpu().contiguous() for name in names}
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    model.peft_config[ADAPTER].save_pretrained(str(folder))


def restore(folder: str | Path, model: PreTrainedModel) -> None:
    """Give a model with LoRA what a checkpoint has of it, all of that.

    Raises:
        InputError: it is not whole.
    """
    file = Path(folder) / WEIGHTS_NAME
    learning = {_saved_name(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    names = weight_files.shapes_of(file).keys()
    if names != learning.keys():
        raise InputError(f"{folder}: the LoRA matrices of another model or rank: {sorted(names ^ learning.keys())[:3]}")
    _fill(file, learning)


def attach(folder: str | Path, model: PreTrainedModel) -> None:
    """Put the adapter of a folder on the model that it belongs to; nothing of it learns.

    Raises:
        InputError: it is damaged, more than LoRA, or does not fit the model.
    """
    lora.require_peft()
    folder = Path(folder)
    settings, file = _settings(folder), folder / WEIGHTS_NAME
    _refuse_more_than_lora(folder, settings)
    if not file.exists():
        raise InputError(f"{folder}: it holds no {WEIGHTS_NAME}; other formats of weights are not read")
    shapes = {name.removeprefix(_PREFIX): shape for name, shape in weight_files.shapes_of(file).items()}
    matrices = {name: shape for name, shape in shapes.items() if _MATRIX.fullmatch(name)}
    whole = {name: shape for name, shape in shapes.items() if name not in matrices}
    _grow(folder, model, settings, whole)
    experts = _experts(folder, model, settings)
    layers = _layers(folder, model, matrices, [name.rpartition(".")[0] for name in experts])
    ranks = {layer: matrices[f"{layer}.lora_A.weight"][0] for layer in layers}
    rank = _number(folder, settings, "r")
    lora.inject(
        model,
        layers,
        experts,
        r=int(rank),
        lora_alpha=_number(folder, settings, "lora_alpha"),
        rank_pattern={re.escape(layer): found for layer, found in ranks.items() if found != rank},
        use_rslora=bool(settings.get("use_rslora")),
    )
    _scale(folder, model, settings)
    _fill(file, _to_fill(folder, model, shapes, set(whole)))
    lora.note_whole(model, set(whole))
    model.requires_grad_(False)


def _saved_name(name: str) -> str:
    """Return what peft calls a weight of a model with LoRA in its files."""
    return _PREFIX + name.replace(f".{ADAPTER}.", ".")


def _settings(folder: Path) -> dict[str, Any]:
    """Return what the settings of an adapter say. Raises InputError where they cannot be read."""
    file = folder / CONFIG_NAME
    try:
        found = json.loads(bounded.read_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: it cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: no JSON object")
    return found


def _refuse_more_than_lora(folder: Path, settings: dict[str, Any]) -> None:
    library = settings.get("auto_mapping") or {}
    library = library.get("parent_library") if isinstance(library, dict) else library
    if library is not None and not str(library).startswith("transformers."):
        raise InputError(
            f"{folder / CONFIG_NAME}: auto_mapping: {json.dumps(library)[:80]}: it belongs to a model of other code "
            "than transformers has, which is never run here"
        )
    for key, plain in _PLAIN_SETTINGS.items():
        value = settings.get(key, plain[0])
        if not any(value is allowed or (isinstance(value, str) and value == allowed) for allowed in plain):
            raise InputError(
                f"{folder / CONFIG_NAME}: {key}: {json.dumps(value)[:80]}: only plain LoRA is read; merge the adapter "
                "with peft (merge_and_unload), and name the merged model"
            )


def _number(folder: Path, settings: dict[str, Any], key: str) -> float:
    """Return the rank or the alpha of an adapter. Raises InputError unless it is a number that one can be."""
    value = settings.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not value > 0 or (key == "r" and (value != int(value) or value > _MAX_RANK)):
        raise InputError(f"{folder / CONFIG_NAME}: {key}: {value!r} is none that an adapter can have")
    return value


def _layers(
    folder: Path, model: PreTrainedModel, matrices: dict[str, list[int]], holders_of_experts: list[str]
) -> list[str]:
    """Return the names of the layers that have matrices in the file. Raises InputError unless each fits its layer."""
    from transformers.pytorch_utils import Conv1D

    found = {name: layer for name, layer in model.named_modules() if name}
    chosen = []
    for layer in dict.fromkeys(found_name["layer"] for found_name in map(_MATRIX.fullmatch, matrices) if found_name):
        if lora.plain_name(f"{layer}.") in {f"{holder}." for holder in holders_of_experts}:
            continue
        weight = getattr(found.get(layer), "weight", None)
        if weight is None:
            raise InputError(
                f"{folder}: it changes {layer}, and the base model ({model.config.model_type}) has no such layer: they "
                "do not belong to each other; give the key base_model"
            )
        rows, columns = weight.quant_state.shape if quantising.is_quantised(weight) else weight.shape
        if isinstance(found[layer], Conv1D):
            rows, columns = columns, rows
        first, second = (matrices.get(f"{layer}.lora_{part}.weight") or [0, 0] for part in "AB")
        if len(first) != 2 or first[1] != columns or second != [rows, first[0]] or not 0 < first[0] <= _MAX_RANK:
            raise InputError(
                f"{folder}: its matrices of {layer} are {first} and {second}, and the layer is {rows} × {columns}: "
                "they do not belong to each other; give the key base_model"
            )
        chosen.append(layer)
    return chosen


def _experts(folder: Path, model: PreTrainedModel, settings: dict[str, Any]) -> list[str]:
    """Return the names of the stacks of experts that an adapter changes. Raises InputError for other parameters."""
    ends = settings.get("target_parameters") or []
    if not isinstance(ends, list) or not all(isinstance(end, str) for end in ends):
        raise InputError(f"{folder / CONFIG_NAME}: target_parameters: no list of names")
    try:
        return lora.targets_of(model, ends)[1] if ends else []
    except InputError as error:
        raise InputError(f"{folder / CONFIG_NAME}: target_parameters: {error}") from error


def _grow(folder: Path, model: PreTrainedModel, settings: dict[str, Any], whole: dict[str, list[int]]) -> None:
    """Give the model the embedding rows that an adapter has more, as for an extended tokenizer."""
    inputs, output = model.get_input_embeddings(), model.get_output_embeddings()
    apart = settings.get("modules_to_save")
    is_tied = output is not None and output.weight is inputs.weight
    if is_tied and apart and whole and not settings.get("ensure_weight_tying"):
        raise InputError(
            f"{folder}: {apart} learned apart from the matrix that embeddings and output layer of the base model "
            "share; merge the adapter with peft (merge_and_unload), and name the merged model"
        )
    tables = {name: weight.shape[0] for name, weight in model.named_parameters() if weight is inputs.weight}
    for name, num_rows in tables.items():
        rows = whole.get(name, [0])[0]
        if rows > num_rows:
            model.resize_token_embeddings(rows, mean_resizing=False)


def _scale(folder: Path, model: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Give the layers that an adapter scales otherwise than the rest their scale."""
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or any(re.search(r"[^\w.]", name) for name in patterns):
        raise InputError(
            f"{folder / CONFIG_NAME}: alpha_pattern: only names are read, no patterns; merge the adapter with peft "
            "(merge_and_unload), and name the merged model"
        )
    for name, change in lora.changes(model).items():
        layer = name.rpartition(".")[0]
        for end in patterns:
            if layer == end or layer.endswith(f".{end}"):
                rank = change.layer.r[ADAPTER]
                divisor = math.sqrt(rank) if settings.get("use_rslora") else rank
                change.layer.scaling[ADAPTER] = _number(folder, patterns, end) / divisor


def _to_fill(
    folder: Path, model: PreTrainedModel, shapes: dict[str, list[int]], whole: set[str]
) -> dict[str, torch.Tensor]:
    """Return the weights of the model that the file fills, by their names there. Raises InputError unless all fit."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    own = {_saved_name(name).removeprefix(_PREFIX): weight for name, weight in weights.items()}
    missing = {name for name in own if ".lora_" in name} - shapes.keys()
    unknown = shapes.keys() - own.keys()
    other = {name for name in shapes.keys() - unknown if list(own[name].shape) != shapes[name]}
    for problem, names in (("missing", missing), ("unexpected", unknown), ("of another shape", other)):
        if names:
            raise InputError(f"{folder}: the adapter does not fit its base model: {problem} {sorted(names)[:3]}")
    if any(quantising.is_quantised(own[name]) for name in whole):
        raise InputError(f"{folder}: {sorted(whole)[0]} is held in 4 bits, and the adapter replaces it")
    return {_PREFIX + name: own[name] for name in shapes}


def _fill(file: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Fill weights from a file, where they have these names or the same without peft's prefix."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 — no mapping
            tensor = tensors.get_tensor(name)
            if not tensor.isfinite().all():
                raise InputError(f"{file}: {name} has values that are not finite; the file is damaged")
            weight = weights[name if name in weights else _PREFIX + name]
            weight.data.copy_(tensor)
