"""Several processes share the work of an evaluation: each holds the whole model and takes every n-th batch."""

from __future__ import annotations

import os

from jpllm import runtime
from jpllm.runtime import InputError


def join() -> None:
    """Join the processes that the launcher started, each with the GPU of its number if there are GPUs.

    Call it before a model is loaded; `jpllm.runtime.run_command` parts them again.

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
    """What all processes found, in each of them; no key is found twice."""
    import torch

    parts: list[dict] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return {key: value for part in parts for key, value in part.items()}
