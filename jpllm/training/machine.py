"""What this machine has: GPUs, host memory as far as it may be used, free disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BF16_CAPABILITY = (8, 0)  # below it PyTorch emulates bf16, slower than fp32, and is_bf16_supported() says True
_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class LocalGpu:
    """A GPU that PyTorch sees; memory in bytes."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int

    @property
    def has_bf16(self) -> bool:
        """It computes bf16 itself."""
        return self.capability >= BF16_CAPABILITY


def gpus() -> list[LocalGpu]:
    """The CUDA GPUs of this machine."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        LocalGpu(
            torch.cuda.get_device_name(index),
            torch.cuda.get_device_capability(index),
            *torch.cuda.mem_get_info(index),
        )
        for index in range(torch.cuda.device_count())
    ]


def host_memory_bytes() -> int:
    """Host memory that processes here may use together: that of the machine, or less where a control group says so."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(_CGROUP_ROOT, Path("/proc/self/cgroup"))])


def resident_bytes(process: str | int = "self", peak: bool = False) -> int:
    """Memory of a process that is in RAM now, or was at most since it began (or since `forget_peak`)."""
    key = "VmHWM:" if peak else "VmRSS:"
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(key))


def forget_peak() -> None:
    """Let `resident_bytes(peak=True)` begin anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_disk_bytes(path: Path) -> int:
    """Free space where `path` is, or will be once it is made."""
    return shutil.disk_usage(_nearest_existing(path)).free


def disk_of(path: Path) -> int:
    """Number of the file system where `path` is, or will be."""
    return _nearest_existing(path).stat().st_dev


def _cgroup_limits(root: Path, membership: Path) -> Iterator[int]:
    """Memory limits of the control groups of this process and of those above them (versions 1 and 2)."""
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


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""
