"""Number formats that weights are held in: what the key `dtype` means, and the bytes that each takes."""

from __future__ import annotations

from typing import Literal

from jpllm.runtime import device

DtypeName = Literal["float32", "bfloat16", "float16"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]

DTYPES_OF_PRECISION: dict[str, DtypeName] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
NF4_BLOCK = 64  # weights that share a scale; bitsandbytes' own size
NF4_NESTED_BLOCK = 256  # scales that share one, in double quantisation
_BYTES = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    # Half a byte, and an 8-bit scale for each block, with a float32 scale for each block of scales (Dettmers et al.
    # 2023, https://arxiv.org/abs/2305.14314).
    "nf4": 0.5 + (1 + 4 / NF4_NESTED_BLOCK) / NF4_BLOCK,
}


def bytes_per_parameter(name: str) -> float:
    """Return the bytes that a weight takes in a number format: float32, bfloat16, float16 or nf4.

    nf4 is that of the linear layers of a quantised model; its embeddings, norms and output layer stay in 16 bit.
    """
    return _BYTES[name]


def frozen_dtype(saved: str, device_type: str, has_bf16: bool) -> DtypeName:
    """Return what weights that do not learn are held in, on a device of a type ("cuda", "cpu", "xla").

    That is what they were saved in, where the device computes with it; a GPU without bf16 takes fp16, and a CPU, which
    has few instructions for fp16 if any, float32. Everything but 16-bit weights becomes float32.
    """
    if saved == "bfloat16":
        return "float16" if device_type == "cuda" and not has_bf16 else "bfloat16"
    return "float16" if saved == "float16" and device_type == "cuda" else "float32"


def held_dtype(wanted: Dtype, saved: str, learns: bool = False) -> DtypeName:
    """Return what this machine holds weights in that were saved in `saved`; all of them learn, or none does."""
    import torch

    if wanted != "auto":
        return wanted
    if learns:
        return "float32"
    kind = device().type
    has_bf16 = kind != "cuda" or torch.cuda.get_device_capability()[0] >= 8  # below, PyTorch emulates it
    return frozen_dtype(saved, kind, has_bf16)


def dtype_name(dtype: object) -> str:
    """Return the name of a dtype of PyTorch, or that name itself, as "float32"."""
    return str(dtype).removeprefix("torch.")
