"""The predicted peak of memory that a measured one is held against."""

from __future__ import annotations

from jpllm.tracking.runs import number

_GPU, _HOST = "peak_gpu_bytes", "peak_host_bytes"


def planned_peak(plan: dict, measured: str, on_gpu: bool) -> float | None:
    """What a run's plan says of the memory that metrics call `measured`; None where it says nothing of the same.

    The plan's host memory is that of all processes, what is measured that of the main one.
    """
    memory = plan.get("memory")
    if not isinstance(memory, dict) or (measured == _HOST and plan.get("num_processes") != 1):
        return None
    keys = {_GPU: "tensor_bytes", _HOST: "host_bytes" if on_gpu else "peak_bytes"}
    return number(memory.get(keys[measured]))
