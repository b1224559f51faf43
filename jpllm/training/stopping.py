"""Stop in time, with a checkpoint: when the machine is taken away, or the hours are up."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import torch
from transformers import TrainerCallback

from jpllm import runtime, xla

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
logger = logging.getLogger(__name__)


class StopInTime(TrainerCallback):
    """Saves and stops after the step in which SIGTERM or Ctrl-C arrives, or `max_hours` are over.

    All processes stop after the same step, whichever of them was told. A second signal ends the process at once. In a
    thread, where the launcher for TPUs runs a recipe, no signal can be taken: there `max_hours` alone stops in time.

    Attributes:
        reason: why training was stopped before its end; None where it was not.
    """

    def __init__(self, max_hours: float | None) -> None:
        self.reason: str | None = None
        self._max_hours, self._found = max_hours, None
        self._handlers: dict[int, object] = {}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def on_train_end(self, args, state, control, **kwargs) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._stop_if_asked(args, state, control)

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self._stop_if_asked(args, state, control)  # evaluating takes long; the next step would be waited for

    def _stop_if_asked(self, args, state, control) -> None:
        hours = (time.monotonic() - runtime.STARTED_SECONDS) / 3600
        if self._found is None and self._max_hours is not None and hours >= self._max_hours:
            self._found = f"max_hours: {self._max_hours:g} hours are over"
        if any_process(self._found is not None, args) and 0 < state.global_step < state.max_steps:
            self.reason = self._found or "another process was asked to stop"
            control.should_save = control.should_training_stop = True

    def _note(self, number: int, frame: object) -> None:
        if self._found is not None:  # asked twice
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._found = f"{signal.Signals(number).name} received"
        logger.warning("%s: stopping after this step, with a checkpoint; once more stops at once", self._found)


def any_process(value: bool, args) -> bool:
    """Whether `value` is true in any process."""
    if args.world_size == 1:
        return value
    flag = torch.tensor(int(value), device="cpu" if xla.is_launched() else args.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())
