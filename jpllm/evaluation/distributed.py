"""Several processes share the work of an evaluation: each holds the model and takes every n-th batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from jpllm import runtime
from jpllm.runtime import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

Item = TypeVar("Item")


def join() -> None:
    """Join the processes that the launcher started, each with the GPU of its number if there are GPUs.

    Call it before a model is loaded; `jpllm.runtime.run_command` ends the process group.

    Raises:
        InputError: there is no GPU of that number.
    """
    if runtime.num_processes() == 1:
        return
    import torch

    on_gpu = runtime.device().type == "cuda"
    if on_gpu:
        number, num_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= num_gpus:
            raise InputError(f"this machine has {num_gpus} GPUs; launch that many processes on it")
        torch.cuda.set_device(number)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")


def gathered(own: dict) -> dict:
    """Return the entries of all processes in each of them; no key is in two of them."""
    import torch

    parts: list[dict] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}


def sum_over_batches(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], np.ndarray | float],
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
) -> np.ndarray | float:
    """Return the sum of `compute` over this process's batches, every `num_ranks`-th of all; 0 where it has none.

    All processes call `compute` equally often, if need be without counting the result: a model whose weights are
    shared among the processes needs that.
    """
    total: np.ndarray | float = 0.0
    for start in range(0, len(items), num_ranks * batch_size):
        own = items[start + rank * batch_size :][:batch_size]
        found = compute(own or items[:1])
        total = total + (found if own else 0.0)
    return total


def sum_over_processes(sums: np.ndarray, model: torch.nn.Module, num_ranks: int) -> np.ndarray:
    """Return the sum of an array over the default process group; with one process the array itself."""
    import torch

    if num_ranks == 1:
        return sums
    device = next(model.parameters()).device
    total = torch.from_numpy(sums).to("cpu" if device.type == "xla" else device)
    torch.distributed.all_reduce(total)
    return total.cpu().numpy()
