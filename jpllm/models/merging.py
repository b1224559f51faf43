"""Add what LoRA learned to the weights that a model was published with, one tensor at a time, file by file.

The sum is made with the weights as they were saved, and not with the 4-bit ones that a QLoRA was trained on. Nothing
but the tensor at hand is in memory, so a model of any size can be merged; files and tensors keep their names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from jpllm.models import adapters, lora, pretrained, quantising, weight_files
from jpllm.models.build import input_embedding, load_trained
from jpllm.models.dtypes import DtypeName
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_INDEX_NAME = "model.safetensors.index.json"
_MAX_SHARD_SIZE = "5GB"
_KINDS = {name: kind for kind, name in weight_files.FLOATING.items() if name in get_args(DtypeName)}
logger = logging.getLogger(__name__)


def write_merged(
    model: PreTrainedModel, name_or_path: str | Path, folder: Path, dtype: DtypeName | None = None
) -> None:
    """Write the model that was loaded from `name_or_path`, with all that LoRA learned in its weights.

    Weights have the number format of the published ones, or `dtype`. Where files hold weights in another form than the
    model has them, as the experts of a mixture, the published model is loaded as a whole, merged and saved.

    Raises:
        InputError: a sum is too large for the number format.
    """
    source = pretrained.folder_of(name_or_path)
    files = {file: weight_files.tensors_of(file) for file in weight_files.safetensors_files(source)}
    saved = pretrained.saved_dtype(source, model.config)
    if dtype == saved:
        dtype = None  # the few tensors that files hold in another format stay in it
    new_weights = _NewWeights(model)
    folder.mkdir(parents=True, exist_ok=True)
    names = _names_in_model(model, files, new_weights) if _is_of_one_kind(model, source) else None
    if names is None:
        logger.info("%s: merged in memory as a whole: its files hold the weights in another form", name_or_path)
        _write_from_memory(model, new_weights, name_or_path, folder, dtype)
        return
    weight_map, num_bytes = {}, 0
    for file, tensors in files.items():
        kept = {name: tensors[name] for name in sorted(names.keys() & tensors.keys())}
        num_bytes += _rewrite(file, folder / file.name, kept, names, new_weights, dtype)
        weight_map |= dict.fromkeys(kept, file.name)
    if len(files) > 1:
        index = {"metadata": {"total_size": num_bytes}, "weight_map": weight_map}
        (folder / _INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    config = quantising.plain_config(model)
    config.dtype = dtype or saved
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def merge_adapter(folder: Path, base_model: str | None, target: Path) -> None:
    """Write the base model of an adapter with the adapter added to its weights, in their number format.

    Raises:
        InputError: see `jpllm.models.adapters.attach`.
    """
    model = load_trained(folder, dtype="saved", base_model=base_model).to("cpu")
    model.config.use_cache = True
    write_merged(model, base_model or adapters.base_of(folder), target)


class _NewWeights:
    """What the weights of a model with LoRA are to be, each made when it is asked for.

    Attributes:
        changes: what is added to weights, by their plain names.
        replaced: what stands in place of others: what learned as a whole, and embeddings that grew.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.changes = lora.changes(model)
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        tables = (model.get_input_embeddings(), model.get_output_embeddings())
        self._tables = {id(weight) for table in tables if table is not None for weight in table.parameters()}
        whole = {id(weight) for weight in lora.whole_parts(model).values()}
        self.replaced = {name: weight for name, weight in self._parameters.items() if id(weight) in whole}

    def note_shape(self, name: str, shape: list[int]) -> None:
        """Take embeddings from the model where their file has fewer rows."""
        weight = self._parameters.get(name)
        if weight is not None and id(weight) in self._tables and list(weight.shape) != shape:
            self.replaced[name] = weight

    def shape_of(self, name: str, shape: list[int]) -> list[int]:
        """Return the shape of a weight that has this one in its file."""
        return list(self.replaced[name].shape) if name in self.replaced else shape

    def of(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the new weight in place of a published one, in its number format."""
        if name in self.replaced:
            return self.replaced[name].detach().cpu().to(weight.dtype)
        if name not in self.changes:
            return weight
        changed = self.changes[name].added_to(weight)
        if not changed.isfinite().all():
            raise InputError(f"{name}: the merged weight is too large for {weight.dtype}; save: adapter keeps it apart")
        return changed


def _is_of_one_kind(model: PreTrainedModel, source: Path) -> bool:
    """Return whether the files are of the model's own kind, and not of one that it is a part of."""
    raw = json.loads((source / "config.json").read_bytes())
    return raw.get("model_type") == model.config.model_type


def _names_in_model(
    model: PreTrainedModel, files: Mapping[Path, Mapping[str, tuple[str, list[int]]]], new_weights: _NewWeights
) -> dict[str, str] | None:
    """Return what the model calls each tensor of the files; None where one that is changed has no tensor of its own.

    The names are changed as transformers (5.23) changes them when it loads the files.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    plain = pretrained.build_without_memory("", type(model), quantising.plain_config(model))
    conversions = get_model_conversion_mapping(plain)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    known = plain.state_dict()
    names = {}
    for tensors in files.values():
        for name, (_, shape) in tensors.items():
            found, converter = rename_source_key(name, renamings, converters, plain.base_model_prefix, known)
            if converter is None and found in known:
                names[name] = found
                new_weights.note_shape(found, shape)
            elif converter is not None:
                names[name] = name
    hits = list(names.values())
    changed = new_weights.changes.keys()
    needed = (changed | new_weights.replaced.keys()) & dict(plain.named_parameters()).keys()
    return names if changed <= needed and all(hits.count(name) == 1 for name in needed) else None


def _rewrite(
    file: Path,
    target: Path,
    tensors: dict[str, tuple[str, list[int]]],
    names: dict[str, str],
    new_weights: _NewWeights,
    dtype: DtypeName | None,
) -> int:
    """Write some tensors of a file again with their new values; return their bytes."""
    import torch
    from safetensors import safe_open

    def kind_of(kind: str) -> str:
        return _KINDS[dtype] if dtype and kind in _KINDS.values() else kind

    written = {
        name: (kind_of(kind), new_weights.shape_of(names[name], shape)) for name, (kind, shape) in tensors.items()
    }
    with safe_open(file, framework="pt") as published:

        def values() -> Iterator[memoryview]:
            for name, (kind, _) in tensors.items():
                weight = published.get_tensor(name)
                if kind_of(kind) != kind:
                    weight = weight.to(getattr(torch, str(dtype)))
                weight = new_weights.of(names[name], weight)
                yield weight.contiguous().flatten().view(torch.uint8).numpy().data

        return weight_files.write(target, written, values())


def _write_from_memory(
    model: PreTrainedModel, new_weights: _NewWeights, name_or_path: str | Path, folder: Path, dtype: DtypeName | None
) -> None:
    """Load the published model as a whole, give it the new weights, and save it."""
    plain = load_trained(name_or_path, type(model), dtype=dtype or "saved").to("cpu")
    if (rows := input_embedding(model).num_embeddings) > input_embedding(plain).num_embeddings:
        plain.resize_token_embeddings(rows, mean_resizing=False)
    for name, weight in plain.named_parameters():
        new_weights.note_shape(name, list(weight.shape))
        weight.data = new_weights.of(name, weight.data)
    plain.config.update(
        {key: value for key, value in quantising.plain_config(model).to_dict().items() if key != "dtype"}
    )
    plain.generation_config = model.generation_config
    plain.save_pretrained(folder, max_shard_size=_MAX_SHARD_SIZE)
