"""What of a machine matters for training, and what to do where something is amiss."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpllm import runtime, xla
from jpllm.training import machine

_LEAST_HOST_GB, _GOOD_HOST_GB = 4, 16  # to train at all; to offload the optimizer of a 1B model
_LEAST_DISK_GB, _GOOD_DISK_GB = 2, 20
_FREE_GPU_SHARE = 0.9
_DEEPSPEED_TIMEOUT_SECONDS = 120
_REPOSITORY = Path(__file__).resolve().parents[2]
_TPU_CHIPS = {("0x1ae0", device) for device in ("0x0027", "0x005e", "0x0056", "0x0062", "0x0063", "0x006f", "0x0076")}
_LEAST_OF_CUDA_13 = (7, 5)  # Turing; Maxwell, Pascal and Volta are with CUDA 12 alone
_DRIVER = Path("/proc/driver/nvidia/version")
_EXTENSIONS_VARIABLE = "TORCH_EXTENSIONS_DIR"
# Run by another process: importing DeepSpeed takes seconds, prints, and may fail in many ways.
_ASK_DEEPSPEED = """
import json, deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.git_version_info import installed_ops
builders = [get_accelerator().create_op_builder(name) for name in ("CPUAdamBuilder", "ShareMemCommBuilder")]
facts = {b.name: [b.is_compatible(verbose=False), bool(installed_ops.get(b.name))] for b in builders if b is not None}
print("\\n" + json.dumps(facts))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the checkup; `fix` says what to do where the status is not "ok"."""

    subject: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def examine(folder: Path) -> Iterator[Finding]:
    """Yield all findings, in the order of the table."""
    yield from packages()
    yield from tpu()
    yield from gpus()
    yield cores_and_memory()
    yield disk(folder)
    yield compiler()
    yield deepspeed()
    yield from stale_locks(extension_folders())
    yield japanese_font()


def packages() -> Iterator[Finding]:
    """Check the packages that setup.cfg asks for, and the versions that the file of constraints names."""
    from packaging.requirements import Requirement

    yield Finding("Python", "ok", platform.python_version())
    needed = [Requirement(line) for line in required_packages()]
    tested = tested_versions()
    fix = f"pip install -c {constraints_name()} -e ."
    others = []
    for need in needed:
        name, version = need.name.replace("_", "-"), installed_version(need.name)
        if version is None:
            yield Finding(name, "fail", "not installed", fix)
        elif not need.specifier.contains(version, prereleases=True):
            yield Finding(name, "fail", f"{version}, and {need.specifier} is needed", fix)
        elif tested.get(name) not in (None, version.partition("+")[0]):  # 2.13.0+cpu is 2.13.0
            others.append(f"{name} {version}, tested with {tested[name]}")
    found = "; ".join(others) or f"{len(needed)} as needed"
    yield Finding("packages", "warn" if others else "ok", found, fix if others else "")


def required_packages() -> list[str]:
    """Return what setup.cfg requires; where there is no such file, what the installed package does."""
    file = _REPOSITORY / "setup.cfg"
    if not file.is_file():
        return [line for line in importlib.metadata.requires("jpllm") or () if "extra ==" not in line]
    parser = configparser.ConfigParser()
    parser.read(file, encoding="utf-8")
    lines = parser["options"]["install_requires"].splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def tested_versions() -> dict[str, str]:
    """Name and version of each line of the file of constraints; empty where there is none."""
    file = _REPOSITORY / constraints_name()
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return dict(line.strip().split("==") for line in lines if "==" in line and not line.startswith("#"))


def constraints_name() -> str:
    """Return the file of constraints for this environment: the one for TPUs where torch_xla is installed."""
    return "constraints.txt" if installed_version("torch_xla") is None else "constraints-tpu.txt"


def tpu(pci_devices: Path = Path("/sys/bus/pci/devices")) -> Iterator[Finding]:
    """Check for a TPU on this host, and for a torch_xla made for this PyTorch; yield nothing without either."""
    num_chips = sum(_pci_ids(folder) in _TPU_CHIPS for folder in pci_devices.glob("*"))
    found = f"{num_chips} chips" if num_chips else "none"
    version, torch = installed_version("torch_xla"), installed_version("torch")
    install = "pip install -c constraints-tpu.txt -e '.[tpu]' (make tpu-venv: in an environment of its own)"
    if version is None:
        if num_chips:
            yield Finding("TPU", "fail", f"{found}, but torch_xla is not installed", install)
        return
    facts = f"{found}; torch_xla {version} with torch {torch}"
    if version.split(".")[:2] != (torch or "").split(".")[:2]:
        yield Finding("TPU", "fail", f"{facts}: they are made for each other in the same version only", install)
    elif not xla.is_available():
        yield Finding("TPU", "warn", f"{facts}, switched off", f"{xla.SWITCH} is 0: unset it to use the TPU")
    elif num_chips:
        yield Finding("TPU", "ok", f"{facts}: launch with accelerate_configs/tpu.yaml")
    else:
        fix = f"{xla.SWITCH}=0 before a command trains without it, or use another environment"
        yield Finding("TPU", "warn", f"{facts}, which computes on the CPU here, slowly", fix)


def installed_version(name: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def gpus() -> Iterator[Finding]:
    """Check each GPU: whether this PyTorch has code for it, its memory, and whether it computes bf16."""
    import torch

    found = machine.gpus()
    for index, gpu in enumerate(found):
        capability, free = ".".join(map(str, gpu.capability)), machine.free_gpu_bytes(index)
        facts = (
            f"{gpu.name}, compute capability {capability}, {free / 2**30:.1f} of "
            f"{gpu.total_bytes / 2**30:.1f} GiB free, {'bf16' if gpu.has_bf16 else 'no bf16 of its own'}"
        )
        architectures = torch.cuda.get_arch_list()
        if not machine.has_kernels(gpu.capability, architectures):
            lacks = f"{facts}; PyTorch {torch.__version__} was built for {' '.join(architectures)}"
            yield Finding(f"GPU {index}", "fail", lacks, _other_wheels(gpu.capability))
            continue
        fixes = []
        if not gpu.has_bf16:
            fixes.append("precision: auto takes fp16; bf16 would be emulated, slower than fp32")
        if free < _FREE_GPU_SHARE * gpu.total_bytes:
            fixes.append("another process holds memory: nvidia-smi names it")
        yield Finding(f"GPU {index}", "warn" if fixes else "ok", facts, "; ".join(fixes))
    if not found and _DRIVER.exists():
        fix = "install PyTorch for CUDA: https://pytorch.org/get-started/locally"
        yield Finding("GPU", "fail", "an NVIDIA driver, but PyTorch sees no GPU", fix)
    elif not found:
        yield Finding("GPU", "warn", "none", "small models train on the CPU: accelerate_configs/cpu.yaml")


def _other_wheels(capability: tuple[int, int]) -> str:
    """Return which wheels of PyTorch have code for a GPU, where the installed ones have none."""
    if capability >= _LEAST_OF_CUDA_13:
        return "install a newer PyTorch, for the newest CUDA: https://pytorch.org/get-started/locally"
    return (
        "pip install torch --index-url https://download.pytorch.org/whl/cu126: wheels for CUDA 12.6 are the last with "
        "code for it (docs/hardware.md says for how long)"
    )


def cores_and_memory() -> Finding:
    """Check what the CPU and the host memory are good for, as far as a control group leaves them to us."""
    gigabytes = machine.host_memory_bytes() / 1e9
    facts = f"{runtime.num_cores()} cores, {gigabytes:.1f} GB of host memory"
    if gigabytes < _LEAST_HOST_GB:
        return Finding("host", "fail", facts, f"{_LEAST_HOST_GB} GB are the least; give the container more")
    if gigabytes < _GOOD_HOST_GB:
        return Finding("host", "warn", facts, "too little to offload the optimizer of a 1B model; see jpllm plan")
    return Finding("host", "ok", facts)


def disk(folder: Path) -> Finding:
    """Free space for shards, checkpoints and models."""
    gigabytes = machine.free_disk_bytes(folder) / 1e9
    facts = f"{gigabytes:.1f} GB free for {folder.absolute()}"
    if gigabytes < _LEAST_DISK_GB:
        return Finding("disk", "fail", facts, "make room: a checkpoint has 12 bytes for each parameter")
    if gigabytes < _GOOD_DISK_GB:
        return Finding("disk", "warn", facts, "a checkpoint of a 1B model has 9 GB; see jpllm plan")
    return Finding("disk", "ok", facts)


def compiler() -> Finding:
    """Check for the compiler that DeepSpeed and torch_compile build with."""
    beside_python = Path(sys.executable).parent / "ninja"  # of a virtual environment that is not active
    there = {"g++": shutil.which("g++"), "ninja": shutil.which("ninja") or (beside_python.exists() and beside_python)}
    missing = [name for name, path in there.items() if not path]
    if not missing:
        return Finding("compiler", "ok", ", ".join(str(path) for path in there.values()))
    fixes = {"g++": "apt install g++", "ninja": "pip install ninja"}
    fix = f"{' and '.join(fixes[name] for name in missing)}, for DeepSpeed and torch_compile"
    return Finding("compiler", "warn", f"no {' and no '.join(missing)}", fix)


def deepspeed() -> Finding:
    """Check for DeepSpeed, and whether the operators of ZeRO's offload are built or can be."""
    version = installed_version("deepspeed")
    if version is None:
        fix = "for ZeRO: pip install -c constraints.txt -e '.[deepspeed]'"
        return Finding("DeepSpeed", "warn", "not installed", fix)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_DEEPSPEED], capture_output=True, text=True, timeout=_DEEPSPEED_TIMEOUT_SECONDS
        )
        operators = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError):
        return Finding(
            "DeepSpeed", "fail", f"{version}, but it cannot be imported", "python -c 'import deepspeed' says why"
        )
    words = {
        name: "built"
        if is_built or has_been_built(name)
        else "built at first use"
        if is_compatible
        else "impossible here"
        for name, (is_compatible, is_built) in operators.items()
    }
    facts = f"{version}; {', '.join(f'{name} {word}' for name, word in words.items())}"
    if words.get("cpu_adam") == "impossible here":
        return Finding("DeepSpeed", "warn", facts, "no optimizer offload; ds_report says what is missing")
    return Finding("DeepSpeed", "ok", facts)


def _pci_ids(folder: Path) -> tuple[str, str]:
    """Return vendor and device of a PCI device."""
    try:
        vendor, device = ((folder / name).read_text(encoding="ascii").strip() for name in ("vendor", "device"))
    except OSError:
        return "", ""
    return vendor, device


def extension_folders() -> list[Path]:
    """Return where PyTorch keeps compiled operators: our folder, its default, and the one named by the environment."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folders = [cache / "jpllm" / "torch_extensions", cache / "torch_extensions"]
    named = os.environ.get(_EXTENSIONS_VARIABLE)
    return folders + ([Path(named)] if named else [])


def has_been_built(operator: str) -> bool:
    """Return whether a first use has compiled the operator."""
    return any(list(folder.glob(f"{depth}{operator}/*.so")) for folder in extension_folders() for depth in ("", "*/"))


def stale_locks(folders: Sequence[Path]) -> Iterator[Finding]:
    """Return the locks of operator builds that were killed: PyTorch waits for them silently and without end."""
    locks = sorted({file for folder in folders for depth in ("*", "*/*") for file in folder.glob(f"{depth}/lock")})
    stale = [file for file in locks if not is_open(file)]
    for file in stale:
        yield Finding("operators", "fail", f"{file} is left of a build that was killed", f"rm {file}")
    if not stale:
        facts = f"{len(locks)} being built" if locks else "no build was left behind"
        yield Finding("operators", "ok", facts)


def is_open(file: Path) -> bool:
    """Return whether a process that we may look at has the file open, as the one that builds has its lock."""
    file = file.resolve()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == file:
                return True
        except OSError:  # gone meanwhile, or not ours
            continue
    return False


def japanese_font() -> Finding:
    """Return the name of a font that has あ, for plots with Japanese words."""
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    for file in sorted(findSystemFonts()):
        try:
            if FT2Font(file).get_char_index(ord("あ")):
                return Finding("Japanese font", "ok", file)
        except RuntimeError:  # of a kind that matplotlib does not read
            continue
    return Finding("Japanese font", "warn", "none: plots show boxes", "apt install fonts-noto-cjk")
