"""Look at the files of a model's weights before they are loaded: whole, all there, and not quantised."""

from __future__ import annotations

import collections
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from jpllm.runtime import InputError

_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_LFS_POINTER = b"version https://git-lfs"
_LENGTH_BYTES = 8  # in front of a header: how long it is
_MAX_HEADER_BYTES = 10**8  # safetensors' own limit
_PICKLED_STARTS = (b"PK\x03\x04", b"\x80\x02")  # since PyTorch 1.6, and before
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"I64": 64, "U64": 64, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}
FLOATING = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_QUANTISED_ENDS = (".qweight", ".weight_packed", ".SCB", ".absmax", "_blocks", ".weight_scale")
_QUANTISED_TYPES = ("F8_E4M3", "F8_E5M2", "F4")

logger = logging.getLogger(__name__)


def examine(folder: Path) -> tuple[int, dict[str, list[int]]]:
    """Return the bytes of a folder's weights, and the shapes that safetensors files tell without being read.

    Raises:
        InputError: there are none, a file is missing, cut or a pointer of Git LFS, or they are quantised.
    """
    for name in (_SAFETENSORS, _PICKLED):
        files = _files_of(folder, name)
        if files:
            break
    else:
        others = sorted(
            entry.name for entry in folder.iterdir() if entry.suffix in (".h5", ".msgpack", ".gguf", ".pth")
        )
        instead = f"; {others[0]} is in a format that is not read" if others else ""
        raise InputError(f"{folder}: it holds no weights: no {_SAFETENSORS}{instead}")
    shapes: dict[str, list[int]] = {}
    for file in files:
        _refuse_missing_or_pointer(file)
        if name == _SAFETENSORS:
            shapes |= _shapes_in(file)
        elif not _begins_with(file, *_PICKLED_STARTS):
            raise InputError(f"{file}: no weights that PyTorch saved: the file is damaged")
    if name == _PICKLED:
        logger.warning(
            "%s: the weights are read from %s, tensors alone; jpllm export %s --to DIR --allow_missing writes them as "
            "safetensors",
            *(folder, name, folder),
        )
    return sum(file.stat().st_size for file in files), shapes


def shapes_of(file: Path) -> dict[str, list[int]]:
    """Return the shapes in one safetensors file by name. Raises InputError unless it is whole and not quantised."""
    _refuse_missing_or_pointer(file)
    return _shapes_in(file)


def tensors_of(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Return number format (as safetensors calls it, such as BF16) and shape of each tensor in a whole file, by name.

    Raises InputError as `shapes_of` does.
    """
    _refuse_missing_or_pointer(file)
    return _tensors_in(file)


def write(file: Path, tensors: Mapping[str, tuple[str, list[int]]], values: Iterable[bytes | memoryview]) -> int:
    """Write a safetensors file with these tensors, whose values come one after the other; return their bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        size = math.prod(shape) * _BITS[kind] // 8
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % _LENGTH_BYTES)  # values are aligned
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
        for value in values:
            stream.write(value)
        assert stream.tell() == _LENGTH_BYTES + len(encoded) + end, "values are not those of the header"
    return end


def saved_dtype(folder: Path) -> str | None:
    """Return the number format of most weights in a folder's safetensors files, as PyTorch names it.

    None where there are no such files: those that PyTorch pickles do not tell without being read.

    Raises InputError where one is missing or damaged.
    """
    counts: collections.Counter[str] = collections.Counter()
    for file in safetensors_files(folder):
        for kind, shape in tensors_of(file).values():
            if kind in FLOATING:
                counts[FLOATING[kind]] += math.prod(shape)
    return counts.most_common(1)[0][0] if counts else None


def safetensors_files(folder: Path) -> list[Path]:
    """Return the files of a folder that hold its weights; none where they are not safetensors.

    Raises:
        InputError: some of them are missing.
    """
    return _files_of(folder, _SAFETENSORS)


def has_some(folder: Path) -> bool:
    """Return whether a folder holds weights, be they whole or not."""
    return any(any(folder.glob(f"{Path(name).stem}*{Path(name).suffix}*")) for name in (_SAFETENSORS, _PICKLED))


def num_elements(file: Path) -> int:
    """Return how many numbers a safetensors file holds. Raises InputError where its header cannot be read."""
    header, _ = _header(file)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _files_of(folder: Path, name: str) -> list[Path]:
    """Return the file of this name, or those that its index names; none where there is neither."""
    index = folder / f"{name}.index.json"
    if (folder / name).exists() or not index.exists():
        return [folder / name] if (folder / name).exists() else []
    _refuse_missing_or_pointer(index)
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index}: no index of weights") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InputError(f"{index}: {shard!r} is no file of this folder")
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing):,} of {len(shards):,} files of the weights are missing, first {missing[0]}; copy "
            "them, too"
        )
    return [folder / shard for shard in shards]


def _refuse_missing_or_pointer(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"{file}: no regular file")
    if file.stat().st_size == 0:
        raise InputError(f"{file}: the file is empty; copy it again")
    if _begins_with(file, _LFS_POINTER):
        raise InputError(f"{file}: a pointer of Git LFS, not the weights themselves; fetch them with: git lfs pull")


def _shapes_in(file: Path) -> dict[str, list[int]]:
    return {name: shape for name, (_, shape) in _tensors_in(file).items()}


def _tensors_in(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Return number format and shape of each tensor by name. Raises InputError unless it is whole and not quantised."""
    header, data_bytes = _header(file)
    end = 0
    for name, tensor in header.items():
        try:
            kind, shape, (start, stop) = tensor["dtype"], tensor["shape"], tensor["data_offsets"]
            is_whole = stop - start == math.prod(shape) * _BITS.get(kind, 0) // 8 or kind not in _BITS
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: its header does not say where {name!r} lies; the file is damaged") from error
        if not is_whole:
            raise InputError(f"{file}: its header contradicts itself on {name!r}; the file is damaged")
        if kind in _QUANTISED_TYPES or name.endswith(_QUANTISED_ENDS):
            raise InputError(f"{file}: the weights are quantised ({name}, {kind}); name the original model")
        end = max(end, stop)
    if data_bytes != end:
        raise InputError(
            f"{file}: the file is {'cut' if data_bytes < end else 'damaged'}: {data_bytes:,} bytes of weights, where "
            f"its header says {end:,}; copy it again"
        )
    return {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}


def _header(file: Path) -> tuple[dict, int]:
    """Return what a safetensors file says of its tensors, by name, and how many bytes follow."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        room = size - _LENGTH_BYTES
        if length > _MAX_HEADER_BYTES or stream.read(1) != b"{":
            raise InputError(f"{file}: no safetensors file, though its name says so; the file is damaged")
        if length > room:
            raise InputError(f"{file}: the file is cut within its header, after {size:,} bytes; copy it again")
        stream.seek(_LENGTH_BYTES)
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"{file}: its header cannot be read; the file is damaged") from error
    return header, room - length


def _begins_with(file: Path, *beginnings: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(max(map(len, beginnings))).startswith(beginnings)
