"""XLA devices, such as the cores of a TPU: the one module that knows torch_xla.

accelerate's launcher for TPUs imports a recipe and calls it in a process for each core. Operations are collected there
into graphs, which are compiled when something needs a value or a step ends: a shape that was not there before is a new
graph, and compiling one takes from seconds to minutes.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SWITCH = "USE_TORCH_XLA"  # accelerate and transformers leave torch_xla alone where it is 0
_LAUNCHED = "FORK_LAUNCHED"  # set by accelerate's launcher for TPUs, in each process
logger = logging.getLogger(__name__)


def is_available() -> bool:
    """Return whether torch_xla is installed and not switched off: accelerate then computes with it, on any hardware."""
    is_on = os.environ.get(SWITCH, "1").upper() in ("1", "ON", "YES", "TRUE")
    return is_on and importlib.util.find_spec("torch_xla") is not None


def is_launched() -> bool:
    """Return whether accelerate's launcher for TPUs started this process, which then computes on an XLA device."""
    return os.environ.get(_LAUNCHED) == "1" and is_available()


def device() -> torch.device:
    """Return the XLA device of this process."""
    import torch_xla

    return torch_xla.device()


def kind() -> str:
    """Return what the XLA device is: "TPU", or "CPU" where there is none."""
    import torch_xla

    return torch_xla.runtime.device_type()


def chip() -> str:
    """Return what the maker calls the device of this process, such as "TPU v5 lite"."""
    import torch_xla.core.xla_model

    return torch_xla.core.xla_model.xla_device_kind()


def take_rank() -> None:
    """Put rank and number of processes where other launchers put them: into the environment.

    Raises:
        RuntimeError: this process has several devices, a thread for each; then there is no rank of a process.
    """
    import torch_xla.runtime

    if torch_xla.runtime.addressable_device_count() > 1:
        raise RuntimeError("a process has several XLA devices (CPU_NUM_DEVICES?), and one is needed for each process")
    os.environ |= {
        "RANK": str(torch_xla.runtime.global_ordinal()),
        "WORLD_SIZE": str(torch_xla.runtime.world_size()),
        "LOCAL_RANK": str(torch_xla.runtime.local_ordinal()),
        "LOCAL_WORLD_SIZE": str(torch_xla.runtime.local_process_count()),
    }


def connect_processes() -> None:
    """Join the processes of this host in a group of PyTorch's own, for numbers in host memory; one alone needs none.

    What processes tell each other between steps then costs no graph on the device. Gradients do not go this way.
    """
    import torch

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if size == 1 or torch.distributed.is_initialized():
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    launcher = os.getppid()
    started = Path(f"/proc/{launcher}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    meeting_point = Path(tempfile.gettempdir()) / f"jpllm-xla-{launcher}-{started}"
    store = torch.distributed.FileStore(str(meeting_point), size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)


def seed(number: int) -> None:
    """Seed the random numbers that the device draws; PyTorch's own seed does not reach them."""
    import torch_xla.core.xla_model

    torch_xla.core.xla_model.set_rng_state(number)


def sync() -> None:
    """Compile what has been collected, if it is new, and run it."""
    import torch_xla

    torch_xla.sync()


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Have each layer computed again in the backward pass, by the function that XLA has for it.

    PyTorch's own looks for a module torch.xla, and XLA would join its second forward pass with the first.
    """
    from torch_xla.utils.checkpoint import checkpoint

    model.activation_checkpointing_enable()
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):  # of transformers 5.23
            module._gradient_checkpointing_func = checkpoint


def num_compilations() -> int:
    """Return how many graphs this process has compiled so far."""
    from torch_xla.debug import metrics

    found = metrics.metric_data("CompileTime")
    return found[0] if found else 0


def peak_bytes() -> int | None:
    """Return the most memory that this process has had on its device; None where XLA does not count it."""
    import torch_xla.core.xla_model

    try:
        return torch_xla.core.xla_model.get_memory_info(device())["peak_bytes_used"]
    except (RuntimeError, KeyError):  # its CPU device does not
        return None


def state_on_host(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the model's state in host memory; tensors that the model shares are shared there too."""
    sync()
    state = model.state_dict(keep_vars=True)
    copies = {id(tensor): tensor.detach().cpu() for tensor in state.values()}
    return {name: copies[id(tensor)] for name, tensor in state.items()}
