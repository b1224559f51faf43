"""Number formats that weights are held in: what the key `dtype` means, and the bytes that each takes."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "nf4"]

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
