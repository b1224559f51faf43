"""GPUs and TPUs that people have at home or rent: memory, and the speed of their matrix units."""

from __future__ import annotations

from dataclasses import dataclass

# Careful: Trainer without compilation reaches 0.3 to 0.45 with 100M parameters and more. `jpllm plan --calibrate true`
# measures it.
DEFAULT_MFU = 0.3
# float32 products: with TF32, which all GPUs with bf16 have and training uses, and without.
FP32_SLOWDOWN_WITH_TF32, FP32_SLOWDOWN = 2, 8


@dataclass(frozen=True)
class Gpu:
    """A GPU by NVIDIA's data sheet, or a TPU by Google's.

    Attributes:
        memory_gib: what the driver reports; less than the name says where error correction takes its part.
        half_tflops: dense fp16 products summed in float32, as PyTorch computes them, in 10¹² operations a second.
        has_bf16: bf16 at the same speed (compute capability 8.0 and more).
        num_tpu_cores: of the host that the name stands for, each with this memory and speed; 0 for a GPU.
    """

    memory_gib: float
    half_tflops: float
    has_bf16: bool
    num_tpu_cores: int = 0


# Sources: NVIDIA's Turing, Volta, Ampere (GA100, GA102), Ada and Hopper whitepapers and data sheets. GeForce cards sum
# in float32 at half the speed of fp16 sums, which data sheets put first; sparse figures are twice the dense ones.
GPUS: dict[str, Gpu] = {
    "rtx3060": Gpu(12.0, 25.5, True),
    "rtx3090": Gpu(24.0, 71.0, True),
    "rtx4060ti": Gpu(16.0, 44.1, True),
    "rtx4070": Gpu(12.0, 58.3, True),
    "rtx4090": Gpu(24.0, 165.2, True),
    "t4": Gpu(14.7, 65.0, False),
    "v100": Gpu(15.8, 125.0, False),
    "a10": Gpu(22.1, 125.0, True),
    "l4": Gpu(22.1, 121.0, True),
    "a100-40": Gpu(39.4, 312.0, True),
    "a100-80": Gpu(79.2, 312.0, True),
    "h100": Gpu(79.2, 989.0, True),
    "h200": Gpu(139.8, 989.0, True),
    # https://cloud.google.com/tpu/docs/v5e: 16 GB and 197 TFLOPS in bf16 a chip, which is one core; 15.75 GiB are free
    "v5e-8": Gpu(15.75, 197.0, True, num_tpu_cores=8),
}
