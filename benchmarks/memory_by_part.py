"""Run a training recipe as it is, and write down what its tensors take by part; kill it, if asked, after a step.

  accelerate launch --config_file accelerate_configs/zero2_offload.yaml \
      benchmarks/memory_by_part.py record.json 0 recipes/pretrain_scratch.py --config CONFIG.yaml

The number is the step after which the process kills itself, as a machine that loses its power would; 0 for none. The
record, in bytes, has `parts`: the tensors that DeepSpeed's ZeRO-2 or ZeRO-3 keeps between steps, by the names of
`jpllm plan`; `between_steps`: resident memory there; `step`, `load`, `end`: the peaks of the last step, of what comes
before the first step, and of what comes after the last one. It reads attributes of DeepSpeed 0.19.8's optimizers.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import TrainerCallback, trainer

from jpllm.training import machine


class MemoryByPart(TrainerCallback):
    """Notes memory around each step; the last step's figures stay."""

    def __init__(self) -> None:
        self.record: dict[str, object] = {}
        self.kill_at = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.record["load"] = machine.resident_bytes(peak=True)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if self.kill_at and state.global_step >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        machine.forget_peak()
        self.record["between_steps"] = machine.resident_bytes()

    def on_step_end(self, args, state, control, optimizer=None, **kwargs) -> None:
        self.record["step"] = machine.resident_bytes(peak=True)
        self.record["parts"] = parts(getattr(optimizer, "optimizer", optimizer))

    def on_train_end(self, args, state, control, **kwargs) -> None:
        machine.forget_peak()


RECORDER = MemoryByPart()


def main() -> None:
    """Run the script as `python SCRIPT …` would; the record is left whatever becomes of it, but for a kill."""
    record, kill_at, script, *arguments = sys.argv[1:]
    RECORDER.kill_at = int(kill_at)
    trainer.DEFAULT_CALLBACKS.append(RECORDER)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        taken = RECORDER.record | {"end": machine.resident_bytes(peak=True)}
        Path(record).write_text(json.dumps(taken), encoding="utf-8")


def parts(optimizer: object) -> dict[str, int]:
    """Return the bytes of what a ZeRO optimizer of DeepSpeed keeps between steps, {} for other optimizers."""
    is_zero3 = hasattr(optimizer, "fp32_partitioned_groups_flat")
    if not is_zero3 and not hasattr(optimizer, "single_partition_of_fp32_groups"):
        return {}
    masters = optimizer.fp32_partitioned_groups_flat if is_zero3 else optimizer.single_partition_of_fp32_groups
    states = (state[key] for state in optimizer.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq"))
    found = {
        "float32 weights": masters,
        "optimizer states": states,
        "float32 gradients": (master.grad for master in masters),
    }
    if is_zero3:
        return num_bytes(
            found
            | {
                "weights as the device has them": optimizer.fp16_partitioned_groups_flat,
                "gradients between forward passes": [optimizer.grad_partitions_flat_buffer],
            }
        )
    return num_bytes(
        found
        | {
            "weights": optimizer.bit16_groups_flat,
            "weights as the device has them": optimizer.param_buffer_of_bit16_for_cpu_offload_groups,
            "gradients between forward passes": optimizer.accumulated_grads_in_cpu.values(),
        }
    )


def num_bytes(found: dict[str, Iterable[torch.Tensor | None]]) -> dict[str, int]:
    """Return the bytes of the tensors of each name; those that are not there count nothing."""
    return {
        name: sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
        for name, tensors in found.items()
    }


if __name__ == "__main__":
    main()
