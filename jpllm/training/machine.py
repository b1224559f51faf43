"""What this machine has: GPUs, host memory as far as it may be used, free disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jpllm import xla

BF16_CAPABILITY = (8, 0)  # below it PyTorch emulates bf16, slower than fp32, and is_bf16_supported() says True
_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class LocalGpu:
    """A GPU that PyTorch sees; memory in bytes."""

    name: str
    capability: tuple[int, int]
    total_bytes: int

    @property
    def has_bf16(self) -> bool:
        """It computes bf16 itself."""
        return self.capability >= BF16_CAPABILITY


def gpus() -> list[LocalGpu]:
    """Return the CUDA GPUs of this machine; nothing is allocated on them."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        LocalGpu(found.name, (found.major, found.minor), found.total_memory)
        for found in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Return whether code for these architectures (as `torch.cuda.get_arch_list()` names them) runs on a GPU.

    Code for sm_86 runs on all of 8.6 to 8.9, that for sm_90a on 9.0 alone, and compute_80 is translated for 8.0 and
    all that came later (CUDA C++ Programming Guide, "Compute Capability" and "Feature Availability").
    """
    for name in architectures:
        kind, _, number = name.partition("_")
        is_exact = not number.isdigit()
        made_for = divmod(int(number.rstrip("af")), 10)
        if made_for == capability or (kind == "compute" and not is_exact and made_for < capability):
            return True
        if kind == "sm" and not is_exact and made_for[0] == capability[0] and made_for <= capability:
            return True
    return False


def free_gpu_bytes(index: int) -> int:
    """Free memory of a GPU; this process then has some hundred MB of it."""
    import torch

    return torch.cuda.mem_get_info(index)[0]


def cpu_model() -> str:
    """Return what the maker calls the CPU; the name of its architecture where that is not known."""
    lines = _read(Path("/proc/cpuinfo"), "utf-8").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def host_memory_bytes() -> int:
    """Return the host memory that processes here may use: the machine's, or less where a control group limits it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(_CGROUP_ROOT, Path("/proc/self/cgroup"))])


def resident_bytes(process: str | int = "self", peak: bool = False) -> int:
    """Return the memory of a process that is in RAM now, or its peak since it began (or since `forget_peak`)."""
    key = "VmHWM:" if peak else "VmRSS:"
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")  # it holds a name
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


def peak_memory() -> dict[str, int]:
    """Return the peaks of this process in bytes, as metrics name them: `peak_host_bytes`, with CUDA `peak_gpu_bytes`.

    The latter are those of tensors on this process's GPU; on a TPU `peak_tpu_bytes` are those of this process's core.
    """
    import torch

    try:
        peaks = {"peak_host_bytes": resident_bytes(peak=True)}
    except (OSError, StopIteration):  # not Linux
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peaks = {"peak_host_bytes": largest * (1 if sys.platform == "darwin" else 1024)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    if xla.is_launched() and (peak := xla.peak_bytes()) is not None:
        peaks["peak_tpu_bytes"] = peak
    return peaks


def forget_peak() -> None:
    """Let `resident_bytes(peak=True)` begin anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_disk_bytes(path: Path) -> int:
    """Free space where `path` is, or will be once it is made."""
    return shutil.disk_usage(_nearest_existing(path)).free


def disk_of(path: Path) -> int:
    """Return the number of the file system where `path` is, or will be."""
    return _nearest_existing(path).stat().st_dev


def _cgroup_limits(root: Path, membership: Path) -> Iterator[int]:
    """Yield the memory limits of the control groups of this process and of those above them (versions 1 and 2)."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, name = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            limit = _read(folder / name)
            if limit.isdigit():
                yield int(limit)


def _nearest_existing(path: Path) -> Path:
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _read(file: Path, encoding: str = "ascii") -> str:
    try:
        return file.read_text(encoding=encoding).strip()
    except OSError:
        return ""
