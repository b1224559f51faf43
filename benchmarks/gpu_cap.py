"""Run a script as it is, with a hard cap on GPU memory, and write down what it took.

  accelerate launch benchmarks/gpu_cap.py 11.2 record.json recipes/pretrain_scratch.py --config CONFIG.yaml

The cap, in GiB, is on what PyTorch takes from the GPU; the CUDA context, some 0.5 GiB, comes on top. 0 is no cap. The
record has peak bytes: `tensors` on the GPU, `reserved` by the allocator for them, `host` of the process in RAM.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

GIB = 1 << 30


def main() -> None:
    """Set the cap, run the script as `python SCRIPT …` would, leave the record whatever becomes of it."""
    cap_gib, record, script, *arguments = sys.argv[1:]
    set_cap(float(cap_gib))
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        Path(record).write_text(json.dumps(peaks()), encoding="utf-8")


def set_cap(cap_gib: float) -> None:
    """Let PyTorch fail with an out-of-memory error beyond the cap, as it would on a smaller GPU."""
    import torch

    if cap_gib and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gib * GIB / total))


def peaks() -> dict[str, int | None]:
    """Peak bytes of this process; None on the GPU where there is none."""
    import torch

    from jpllm.training import machine

    on_gpu = torch.cuda.is_available()
    return {
        "tensors": torch.cuda.max_memory_allocated() if on_gpu else None,
        "reserved": torch.cuda.max_memory_reserved() if on_gpu else None,
        "host": machine.resident_bytes(peak=True),
    }


if __name__ == "__main__":
    main()
