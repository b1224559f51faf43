"""Five steps of accelerate's optimizer on the XLA devices of this process, each with its part of the batch.

Prints a line of JSON for each device: what its weights add up to. `CPU_NUM_DEVICES=2` makes two devices of the CPU,
each of which is a thread. The second waits before its first steps: two threads that compile the same all-reduce at the
same time get two of them, which wait for each other.
"""

from __future__ import annotations

import json
import time

import torch

NUM_STEPS, NUM_ROWS = 5, 8
HEAD_START_SECONDS = 4
NUM_COMPILED_STEPS = 3


def train(index: int) -> None:
    """Train a small network; all devices draw the same weights and the same batches."""
    import torch_xla
    from accelerate import Accelerator

    accelerator = Accelerator()
    rank, size = accelerator.process_index, accelerator.num_processes
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = model.to(accelerator.device)
    optimizer = accelerator.prepare(torch.optim.AdamW(model.parameters(), lr=1e-2))
    own = slice(rank * NUM_ROWS // size, (rank + 1) * NUM_ROWS // size)
    for step in range(NUM_STEPS):
        inputs, targets = (torch.randn(NUM_ROWS, width, generator=generator) for width in (8, 4))
        if step < NUM_COMPILED_STEPS:
            time.sleep(HEAD_START_SECONDS * rank)
        outputs = model(inputs[own].to(accelerator.device))
        accelerator.backward(torch.nn.functional.mse_loss(outputs, targets[own].to(accelerator.device)))
        optimizer.step()
        optimizer.zero_grad()
        torch_xla.sync()
    weights = sum(parameter.detach().cpu().double().abs().sum().item() for parameter in model.parameters())
    print(json.dumps({"device": index, "devices": size, "weights": round(weights, 6)}), flush=True)


if __name__ == "__main__":
    import torch_xla.distributed.xla_multiprocessing as xmp

    xmp.spawn(train)
