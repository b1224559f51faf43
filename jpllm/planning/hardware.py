"""The hardware that a run is planned for: this machine, a GPU or TPU by its name, or one described in numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from jpllm import xla
from jpllm.config.settings import option
from jpllm.config.types import suggest
from jpllm.runtime import InputError
from jpllm.training import machine
from jpllm.training.config import Machine
from jpllm.training.engine import PlannedEngine

GIB = 1 << 30
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
    "rtx3070": Gpu(8.0, 40.6, True),
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
HERE = "here"
_TPUS = {"TPU v5 lite": "v5e-8"}  # what libtpu calls a chip, and our name of a host with it


@dataclass
class HardwareConfig:
    """Hardware to plan for"""

    gpu: str | None = option(
        None,
        f"cpu, {', '.join(GPUS)} (a TPU with its eight cores), or here: this machine's GPU, or its CPU. By default "
        "what the file's machine names, or else here.",
    )
    gpu_memory_gib: float | None = option(None, "Memory of each GPU in GiB, instead of what is known of it.", above=0)
    host_memory_gib: float | None = option(
        None,
        "Host memory in GiB; by default this machine's, and not compared where another GPU is planned for.",
        above=0,
    )
    num_gpus: int = option(1, "GPUs in one machine, a process each.", minimum=1)
    mfu: float = option(
        DEFAULT_MFU,
        "Share of the GPU's peak that the model's operations reach; what --calibrate measures.",
        above=0,
        maximum=1,
    )
    engine: PlannedEngine | None = option(None, "How GPUs share the work; by default the simplest that fits.")
    calibrate: bool = option(
        False, "Also run five training steps on this machine and compare them with the prediction."
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Refuse a GPU that is not known, and several GPUs without an engine."""
        if self.gpu not in (None, HERE, "cpu", *GPUS):
            yield "gpu", _unknown(self.gpu)
        if self.gpu == HERE and self.gpu_memory_gib:
            yield "gpu", "here, and another GPU is described too; remove one of both"
        if self.engine == "single" and self.num_gpus > 1:
            yield "engine", f"single is one process, and num_gpus is {self.num_gpus}; take ddp"
        known = GPUS.get(self.gpu)
        is_tpu = known is not None and known.num_tpu_cores > 0
        if self.engine == "ddp" and self.num_gpus == 1 and not is_tpu:
            yield "engine", "ddp is for several GPUs; take single, or raise num_gpus"
        if is_tpu:
            if self.engine not in (None, "xla"):
                yield "engine", f"{self.gpu} is a TPU, where xla is the only one; remove engine"
            if self.num_gpus not in (1, known.num_tpu_cores):
                yield "num_gpus", f"{self.gpu} has {known.num_tpu_cores} cores, which all work; remove num_gpus"
        elif self.engine == "xla":
            yield "engine", f"xla is for TPUs, and gpu is {self.gpu}; write gpu: v5e-8"
        if self.gpu == "cpu" and (self.num_gpus > 1 or self.gpu_memory_gib):
            yield "gpu", "cpu, and GPUs are described too; remove num_gpus and gpu_memory_gib"


def _unknown(gpu: str | None) -> str:
    return (
        f"unknown GPU {gpu!r}{suggest(str(gpu), GPUS)}; there are {HERE}, cpu, {', '.join(GPUS)}; for another one give "
        "gpu_memory_gib alone"
    )


def for_machine(config: HardwareConfig, named: Machine | None) -> HardwareConfig:
    """Return what to plan for: what is named, or else the machine that a configuration is written for.

    Raises InputError for a machine that is not known.
    """
    if named is None or config.gpu or config.gpu_memory_gib or config.num_gpus > 1 or config.calibrate:
        return replace(config, gpu=None) if config.gpu == HERE else config
    found = replace(
        config,
        gpu=named.gpu,
        gpu_memory_gib=named.gpu_memory_gib,
        num_gpus=named.num_gpus,
        host_memory_gib=config.host_memory_gib or named.host_memory_gib,
    )
    if problems := [f"machine: {key}: {message}" for key, message in found.check()]:
        raise InputError(f"{problems[0]} (--gpu {HERE} plans for this machine)")
    return found


@dataclass(frozen=True)
class Hardware:
    """What a run may use; sizes in bytes, None where not known.

    Attributes:
        memory: of each GPU; of the machine where there is none.
        half_tflops: peak of each GPU, see `Gpu`.
        is_here: it is this machine.
        is_tpu: what is called a GPU here are the cores of a TPU.
    """

    name: str
    on_gpu: bool
    memory: int
    half_tflops: float | None
    has_bf16: bool
    num_gpus: int
    host: int | None
    is_here: bool
    is_tpu: bool = False


def resolve(config: HardwareConfig) -> Hardware:
    """Return the hardware that was asked for, or this machine's.

    Raises InputError if GPUs are to share the work and there are none, or for a TPU that is not known.
    """
    if config.gpu is None and xla.is_launched() and xla.kind() == "TPU":
        config = replace(config, gpu=_local_tpu())
    local = [] if config.gpu == "cpu" else machine.gpus()
    local_name = known_gpu(local[0].name, local[0].total_bytes / GIB) if local else None
    on_gpu = bool(local or config.gpu_memory_gib or config.gpu in GPUS)
    is_here = not on_gpu or bool(local and config.gpu in (None, local_name))
    host = int(config.host_memory_gib * GIB) if config.host_memory_gib else None
    if not on_gpu:
        if config.engine not in (None, "single") or config.num_gpus > 1:
            raise InputError("engine and num_gpus are for GPUs, and there is none here; name one with gpu")
        host = machine.host_memory_bytes() if host is None else host
        return Hardware("CPU", False, host, None, False, 1, host, True)
    if host is None and is_here:
        host = machine.host_memory_bytes()
    known = GPUS.get(config.gpu or local_name)
    num_tpu_cores = known.num_tpu_cores if known else 0
    if config.gpu_memory_gib:
        memory = int(config.gpu_memory_gib * GIB)
    else:  # without gpu_memory_gib only a GPU of the table can be planned for elsewhere
        memory = local[0].total_bytes if is_here or known is None else int(known.memory_gib * GIB)
    return Hardware(
        name=config.gpu or (local[0].name if local else "a GPU"),
        on_gpu=True,
        memory=memory,
        half_tflops=known.half_tflops if known else None,
        has_bf16=known.has_bf16 if known else not local or local[0].has_bf16,
        num_gpus=num_tpu_cores or config.num_gpus,
        host=host,
        is_here=is_here,
        is_tpu=num_tpu_cores > 0,
    )


def _local_tpu() -> str:
    chip = xla.chip()
    if chip not in _TPUS:
        raise InputError(f"the memory of {chip} is not known; give gpu_memory_gib to jpllm plan")
    return _TPUS[chip]


def known_gpu(name: str, memory_gib: float) -> str | None:
    """Return our name of a GPU that the driver calls `name`, such as "NVIDIA A100-SXM4-80GB"; None for others."""
    words = re.split(r"[ -]", name.lower().replace("rtx ", "rtx").replace(" ti", "ti"))
    found = [ours for ours in GPUS if ours.split("-")[0] in words]
    return min(found, key=lambda ours: abs(GPUS[ours].memory_gib - memory_gib), default=None)
