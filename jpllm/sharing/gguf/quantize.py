"""Round weights to the types of a GGUF file: which type each tensor gets, and its blocks of bytes.

Q8_0 and Q4_K_M choose types as the program `llama-quantize` of llama.cpp does for models without experts. Blocks of
Q8_0 are made by the package `gguf`, those of four to six bits by the function `ggml_quantize_chunk` of ggml, which
`ggml.h` declares and the package `xllamacpp` carries.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from jpllm.runtime import InputError

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, LlamaFileType

GgufType = Literal["f32", "f16", "bf16", "q8_0", "q4_k_m"]
ROUNDED: tuple[GgufType, ...] = ("bf16", "q8_0", "q4_k_m")  # to less than f16 carries
_FILE_TYPES = {"f32": "ALL_F32", **{name: f"MOSTLY_{name.upper()}" for name in get_args(GgufType) if name != "f32"}}
_PLAIN = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
# Types of 256 numbers a block → the one of 32 that takes its place in rows that 256 does not divide.
_FOR_OTHER_ROWS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_BY_GGML = ("Q4_K", "Q5_K", "Q6_K")


def file_type(precision: GgufType) -> LlamaFileType:
    """Return the number by which a file says what most of its weights are."""
    import gguf

    return gguf.LlamaFileType[_FILE_TYPES[precision]]


def refuse_unavailable(precision: GgufType) -> None:
    """Raise InputError where nothing installed here can round to that type."""
    if precision == "q4_k_m" and _ggml_quantize_chunk() is None:
        raise InputError(
            "gguf: q4_k_m needs ggml's function ggml_quantize_chunk, which this version of xllamacpp does not carry; "
            "write --gguf f16, and round that file with llama.cpp's own program: "
            "llama-quantize NAME-f16.gguf NAME-q4_k_m.gguf Q4_K_M"
        )


def tensor_type(
    name: str, shape: Sequence[int], precision: GgufType, num_layers: int, has_output: bool
) -> GGMLQuantizationType:
    """Return the type of the tensor `name` of the file; `has_output` tells whether the head has a matrix of its own."""
    import gguf

    if len(shape) < 2 or name.startswith("position_embd"):
        return gguf.GGMLQuantizationType.F32
    found = _PLAIN.get(precision) or _mixed(name, num_layers, has_output)
    if shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[found]][0]:
        found = _FOR_OTHER_ROWS.get(found, "F16")
    if shape[-1] % gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[found]][0]:
        found = "F16"
    return gguf.GGMLQuantizationType[found]


def _mixed(name: str, num_layers: int, has_output: bool) -> str:
    """Return the type of a matrix in Q4_K_M: more bits where rounding hurts most."""
    if name == "output.weight" or (name == "token_embd.weight" and not has_output):
        return "Q6_K"
    if name.endswith("attn_qkv.weight"):
        return "Q5_K"
    if name.endswith(("attn_v.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), num_layers // 8
        if layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2:
            return "Q6_K"
    return "Q4_K"


def rounded(array: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Return float32 numbers in the type: floats of that precision, or the bytes of its blocks (…, bytes of a row)."""
    import gguf
    import numpy as np

    if kind.name == "F32":
        return array.astype(np.float32, copy=False)
    if kind.name == "F16":
        return array.astype(np.float16)
    return _by_ggml(array, kind) if kind.name in _BY_GGML else gguf.quantize(array, kind)


def _by_ggml(array: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    import gguf
    import numpy as np

    quantize = _ggml_quantize_chunk()
    assert quantize is not None, "refuse_unavailable has been called"
    source = np.ascontiguousarray(array, dtype=np.float32)
    target = np.empty(gguf.quant_shape_to_byte_shape(source.shape, kind), dtype=np.uint8)
    num_rows, row_length = source.size // source.shape[-1], source.shape[-1]
    size = quantize(int(kind), source.ctypes.data, target.ctypes.data, 0, num_rows, row_length, None)
    assert size == target.nbytes, f"{size} bytes, not {target.nbytes}"
    return target


@cache
def _ggml_quantize_chunk():
    """Return the function of ggml, or None where the extension of xllamacpp does not show it."""
    package = importlib.util.find_spec("xllamacpp")
    folders = map(Path, package.submodule_search_locations or ()) if package else ()
    extensions = [file for folder in folders for file in folder.glob("xllamacpp.*") if file.suffix in (".so", ".pyd")]
    if not extensions:
        return None
    function = getattr(ctypes.CDLL(str(extensions[0])), "ggml_quantize_chunk", None)
    if function is not None:
        function.restype = ctypes.c_size_t
        function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function
