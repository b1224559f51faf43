"""Read the configuration and the weights of somebody's model, and say truly why where they cannot be used.

Every model that this project did not make itself comes through here. Python code beside a model is never run.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpllm.config.types import suggest
from jpllm.limits import bounded
from jpllm.models import quantising, weight_files
from jpllm.models.dtypes import DtypeName, Quantization, dtype_name
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CONFIG_NAME = "config.json"
_MAX_CONFIG_BYTES = 2**24
_MAX_COUNT = 4096
_COUNT = re.compile(r"(layers?|experts|blocks|depth|stages)$")
_MAX_LABELS = 2**20
_IMPLEMENTATION = re.compile(r"(attn|experts)_implementation$")
_MAX_SECONDS, _MAX_BYTES = 60, 2**33  # of building a model without memory for its weights
_SPARE_PARAMETERS = 10**8  # of a new head, or of weights that files share
# What older versions kept beside the weights, and newer ones compute: masks, angles and counters.
_BUFFER = re.compile(
    r"(^|\.)((attn|attention|self_attention|crossattention)\.(bias|masked_bias|causal_mask|mask)"
    r"|inv_freq|cos_cached|sin_cached|scale_attn|position_ids|token_type_ids|num_batches_tracked)$"
)
_FOREIGN_FILES = {
    "adapter_config.json": "a LoRA adapter; jpllm export FOLDER --to DIR adds it to its base model, and writes a model",
    "params.json": "a model in its maker's own format; take the same model in that of transformers",
    "model_index.json": "a pipeline of diffusers, and no language model",
    "quantize_config.json": "quantised weights (GPTQ); name the original model",
    "quant_config.json": "quantised weights (AWQ); name the original model",
    "hf_quant_config.json": "quantised weights (ModelOpt); name the original model",
}

logger = logging.getLogger(__name__)


class ModelNotFound(InputError):
    """Raised when there is neither a folder nor a model on the Hub of a name."""


def read_config(name_or_path: str | Path, *, is_local: bool = False) -> PretrainedConfig:
    """Return the configuration of a trained model; with `is_local` the network is not asked.

    What a stranger's file says of how attention is computed is left out.

    Raises:
        ModelNotFound: there is no such folder, and no such model on the Hub.
        InputError: it cannot be used; the message says why.
    """
    from transformers import AutoConfig

    file = _config_file(name_or_path, is_local)
    raw = _json_object(file)
    _refuse_foreign(file, raw)
    with (
        _true_reason(f"{file}: transformers makes no configuration of it"),
        bounded(str(file), _MAX_SECONDS, _MAX_BYTES),
    ):
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, local_files_only=is_local)
        config._attn_implementation = config._experts_implementation = None
    vars(config).pop("auto_map", None)  # nothing later finds code to ask for, and no copy names a file that it lacks
    return config


def folder_of(name_or_path: str | Path) -> Path:
    """Return the folder with the files of a model that was loaded, in the cache of the Hub where it is from there."""
    return _config_file(name_or_path, is_local=True).parent


def saved_dtype(name_or_path: str | Path, config: PretrainedConfig) -> str:
    """Return the number format that a model was saved in: what its files say, or else its configuration."""
    folder = Path(name_or_path)
    found = weight_files.saved_dtype(folder) if folder.is_dir() else None
    named = config.dtype or config.get_text_config().dtype
    return found or (dtype_name(named) if named is not None else "float32")


def load(
    name_or_path: str | Path,
    auto_class: Any,
    config: PretrainedConfig,
    dtype: DtypeName = "float32",
    quantization: Quantization = "none",
) -> tuple[PreTrainedModel, list[str], list[str]]:
    """Return a model on the CPU, the names of weights that the files lack, and of those that it cannot use.

    `auto_class` is a class of transformers that loads models, `config` what `read_config` returned. Buffers that older
    versions saved are no weights. Each weight is read straight into `dtype`; with `quantization` the linear layers but
    the output layer are made 4-bit as they are read, on the GPU where there is one.

    Raises:
        InputError: the weights are damaged, quantised, not finite or those of another model, or transformers has no
            such model.
    """
    import torch

    folder, shapes = Path(name_or_path), {}
    if folder.is_dir():
        num_bytes, shapes = weight_files.examine(folder)
        num_layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
        if shapes and num_layers > len(shapes):
            raise InputError(
                f"{folder}: {_CONFIG_NAME} describes {num_layers:,} layers, and the files hold {len(shapes):,} "
                "tensors: they are not of one model"
            )
        num_parameters = build_without_memory(name_or_path, auto_class, config).num_parameters()
        if num_parameters > num_bytes + _SPARE_PARAMETERS:
            raise InputError(
                f"{folder}: {_CONFIG_NAME} describes {num_parameters:,} parameters, and the files hold {num_bytes:,} "
                "bytes: they are not of one model"
            )
    with (
        _quiet(),
        _true_reason(f"{name_or_path}: {config.model_type} weights cannot be loaded"),
        _no_payload(name_or_path),
    ):
        model, info = auto_class.from_pretrained(
            name_or_path,
            config=config,
            dtype=getattr(torch, dtype),
            **quantising.arguments(dtype) if quantization != "none" else {},
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise InputError(
            f"{name_or_path}: the weights do not fit {_CONFIG_NAME}: {name} has the shape {list(found)}, and the "
            f"configuration gives {list(wanted)}"
        )
    if quantization != "none":
        quantising.check(name_or_path, model)
    missing = sorted(key for key in info["missing_keys"] if not _BUFFER.search(key))
    unexpected = sorted(key for key in info["unexpected_keys"] if not _is_buffer(key, shapes))
    _refuse_not_finite(name_or_path, model, missing)
    return model, missing, unexpected


def build_without_memory(name_or_path: str | Path, auto_class: Any, config: PretrainedConfig) -> PreTrainedModel:
    """Return the model of a stranger's configuration, with weights that have a shape and no memory.

    Raises:
        InputError: transformers has no such model, or it is too large to be made.
    """
    import torch

    build = getattr(auto_class, "from_config", None) or auto_class._from_config
    what = f"{name_or_path}: {_CONFIG_NAME}"
    with (
        _true_reason(f"{what}: no model can be built of it"),
        bounded(what, _MAX_SECONDS, _MAX_BYTES),
        torch.device("meta"),
        whole_models(),
    ):
        return build(copy.deepcopy(config), dtype=torch.float32)  # which would note that dtype in it


@contextmanager
def whole_models() -> Generator[None]:
    """Have this process alone make models, also where ZeRO-3 trains: transformers would have all of them share it."""
    from transformers.integrations import deepspeed

    asked = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = asked


def _config_file(name_or_path: str | Path, is_local: bool) -> Path:
    """Return where the configuration lies, on this machine or in the cache of the Hub."""
    folder = Path(name_or_path)
    if folder.is_dir():
        _refuse_other_formats(folder)
        return folder / _CONFIG_NAME
    if folder.exists():
        raise InputError(f"{folder}: a file; name the folder that holds {_CONFIG_NAME} and the weights")
    from transformers.utils import cached_file

    not_found = f"{folder}: no such folder, and no model of that name can be loaded from the Hub"
    if folder.is_absolute() or len(folder.parts) > 2:
        raise ModelNotFound(not_found)
    try:
        file = cached_file(str(name_or_path), _CONFIG_NAME, local_files_only=is_local)
    except (OSError, ValueError) as error:
        raise ModelNotFound(not_found) from error
    if file is None:
        raise ModelNotFound(not_found)
    return Path(file)


def _refuse_other_formats(folder: Path) -> None:
    """Raise InputError for a folder that holds something else than a whole model."""
    names = {entry.name for entry in folder.iterdir()}
    for name, meaning in _FOREIGN_FILES.items():
        if name in names and (name != "params.json" or _CONFIG_NAME not in names):
            raise InputError(f"{folder}: {name} says that it holds {meaning}")
    if (folder / _CONFIG_NAME).is_file():
        return
    if (folder / "model" / _CONFIG_NAME).is_file():
        raise InputError(f"{folder}: no model folder: it holds no {_CONFIG_NAME}; name {folder / 'model'}")
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    instead = f"; {gguf[0]} is for llama.cpp, so name the original model" if gguf else ""
    raise InputError(f"{folder}: no model folder: it holds no {_CONFIG_NAME}{instead}")


def _json_object(file: Path) -> dict:
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{file}: {file.stat().st_size:,} bytes are no configuration of a model")
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no JSON that can be read: {_first_line(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: no JSON object")
    return found


def _refuse_foreign(file: Path, raw: dict) -> None:
    """Raise InputError for what transformers would run code for, does not know, or would not finish."""
    from transformers import CONFIG_MAPPING, __version__

    kind = raw.get("model_type")
    has_own_code = bool(raw.get("auto_map"))
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        if has_own_code:
            raise InputError(
                f"{file}: the model needs the Python code beside it (auto_map), which is never run here; take one of "
                "an architecture that transformers has"
            )
        if kind is None:
            raise InputError(f"{file}: it has no model_type, so transformers does not know what model it is")
        known = suggest(kind, list(CONFIG_MAPPING)) if isinstance(kind, str) else ""
        raise InputError(f"{file}: model_type {kind!r} is unknown to transformers {__version__}{known}")
    if has_own_code:
        logger.warning("%s: the Python code beside the model is not run; transformers' own %s is", file, kind)
    for key, value in _entries(raw):
        if key in ("quantization_config", "compression_config") and value:
            method = value.get("quant_method") if isinstance(value, dict) else None
            raise InputError(
                f"{file}: the weights are quantised ({method or key}), and cannot be trained or exported; name the "
                "original model that they were made of"
            )
        if _IMPLEMENTATION.search(key) and value not in (None, "eager", "sdpa"):
            if "/" in str(value):
                raise InputError(
                    f"{file}: {key}: {value!r} is code on the Hub, which is never run here; remove the key"
                )
            logger.warning("%s: %s: %s is left out; attention is computed by PyTorch", file, key, value)
        if key == "transformers_weights":
            raise InputError(f"{file}: {key}: weights under other names are not read; remove the key")
        if isinstance(value, int) and (
            (_COUNT.search(key) and value > _MAX_COUNT) or (key == "num_labels" and value > _MAX_LABELS)
        ):
            raise InputError(f"{file}: {key}: {value:,} are more than any model has; the file is damaged or hostile")


def _entries(raw: object) -> Iterator[tuple[str, object]]:
    """Yield the keys and values of a configuration, and of those inside it."""
    waiting = [raw]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _is_buffer(name: str, shapes: dict[str, list[int]]) -> bool:
    """Return whether a tensor of a file is no weight; a vector called bias is one, a mask of that name is not."""
    return bool(_BUFFER.search(name)) and not (name.endswith(".bias") and len(shapes.get(name, ())) == 1)


def _refuse_not_finite(name_or_path: str | Path, model: PreTrainedModel, missing: list[str]) -> None:
    for name, parameter in model.named_parameters():
        if name in missing:  # to be filled yet
            continue
        if quantising.is_quantised(parameter):
            parameter = quantising.scales_of(parameter)
        if not parameter.detach().sum().isfinite() and not parameter.isfinite().all():
            raise InputError(f"{name_or_path}: {name} has values that are not finite; the file is damaged")


@contextmanager
def _true_reason(what: str) -> Generator[None]:
    """Turn whatever transformers raises into one line; what a stranger's file can set off has no narrower class."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {_first_line(error)}") from error


@contextmanager
def _no_payload(name_or_path: str | Path) -> Generator[None]:
    """Say of a pickle that would run code that it would; PyTorch explains at length how to allow it."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{name_or_path}: the file of the weights is damaged, or holds more than tensors: code that loading would "
            "run; it was not run. Take the model from elsewhere, as safetensors"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].endswith(":"):  # what it announces is in the next
        lines[0] += f" {' '.join(lines[1:2])}"
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Generator[None]:
    """Keep transformers from printing tables of the weights that are missing: ours is one line."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
