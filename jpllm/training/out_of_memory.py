"""Running out of memory, explained: what would lower the need, and to what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from jpllm.runtime import InputError
from jpllm.training.plan_report import accelerate_config, changed_keys, memory_size
from jpllm.training.planned_run import PlannedRun

_CLOSING = "jpllm plan, with the same configuration, looks for what fits"
_USUAL = f"less memory: a smaller per_device_train_batch_size, activation_checkpointing: true; {_CLOSING}"
# RuntimeErrors of PyTorch's allocator on CPUs, and of XLA
_OTHER_ALLOCATORS = ("can't allocate memory", "RESOURCE_EXHAUSTED")


@contextmanager
def explained(run: PlannedRun) -> Iterator[None]:
    """Make an error of memory that runs out one that says which keys need less, and how much.

    Raises:
        InputError: memory ran out in the body.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not (isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _OTHER_ALLOCATORS)):
            raise
        reason = str(error).splitlines()[0]
        advice = _USUAL
        if run.engine.scheme is not None:
            with suppress(Exception):  # a prediction that fails is not what ended the run
                advice = _advice(run)
        raise InputError(f"out of memory: {reason}\n{advice}") from error


def _advice(run: PlannedRun) -> str:
    search, asked = run.search()
    where = search.hardware
    lines = [
        f"this run takes about {memory_size(search.candidate(asked, asked).memory.peak)} of the "
        f"{memory_size(where.memory)} that {where.name} has in all; it would be about"
    ]
    for way in search.savings(asked):
        keys = changed_keys(way) or [accelerate_config(way, where)]
        lines.append(f"  {memory_size(way.memory.peak):>10} with {', '.join(keys)}")
    return "\n".join([*lines, _CLOSING])
