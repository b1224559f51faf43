"""What happens beside the training steps: metrics, samples, warnings, and the reasons to stop before the end."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from jpllm import runtime, terminal, xla
from jpllm.models.build import host_copy
from jpllm.processes import END_SIGNALS, Ended, is_heeded
from jpllm.runtime import Diverged
from jpllm.tracking import metrics
from jpllm.tracking.energy import EnergyMeter
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME, append_row, read_rows
from jpllm.tracking.wandb.mirror import WandbMirror
from jpllm.training import machine
from jpllm.training.engine import any_process
from jpllm.training.run_data import Clock

_MAX_SKIPPED_IN_A_ROW = 25
_STOP_SIGNALS = (signal.SIGINT, *END_SIGNALS)
_ONE_EVENT_SECONDS = 1.0  # a service manager, `timeout` and a terminal that closes each send several signals at once
_SEED_STRIDE = 1_000_003  # between the steps of one seed; a prime, so that those of the next seed are others
logger = logging.getLogger(__name__)


def _readable(row: dict, max_steps: int) -> str:
    parts = [f"step {row['step']:,}/{max_steps:,}", f"epoch {row['epoch']:.2f}"]
    formats = {
        "loss": "loss {:.4f}",
        "eval_loss": "held-out loss {:.4f}",
        "eval_bits_per_byte": "bits per byte {:.4f}",
        "eval_masked_accuracy": "accuracy {:.1%}",
        "eval_accuracy": "accuracy {:.2%}",
        "eval_macro_f1": "macro-F1 {:.4f}",
        "eval_pearson": "Pearson {:.4f}",
        "eval_spearman": "Spearman {:.4f}",
        "eval_token_accuracy": "tokens right {:.1%}",
        "eval_answers_ended": "answers ended {:.0%}",
        "eval_answers_right": "right {:.0%}",
        "learning_rate": "lr {:.2e}",
        "grad_norm": "grad {:.2f}",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    return "  ".join(parts + [text.format(row[key]) for key, text in formats.items() if key in row])


def _refuse_not_finite(row: dict) -> None:
    bad = [key for key in ("loss", "eval_loss") if not math.isfinite(row.get(key, 0.0))]
    if bad:
        raise Diverged(
            f"step {row['step']}: {bad[0]} is {row[bad[0]]}, training has diverged; "
            "lower learning_rate, lengthen warmup_steps, or use precision: fp32 (bf16 where the GPU has it)"
        )


class MetricsRecorder(TrainerCallback):
    """Writes a row to `metrics.jsonl` at every log and evaluation, and a line to the terminal.

    Raises Diverged when a loss is not finite: what follows would be noise. Stands last among the callbacks, so that
    the time of the others does not count as training. A meter and a mirror are at work from the first row on.
    """

    def __init__(
        self, output_dir: Path, clock: Clock, meter: EnergyMeter | None = None, mirror: WandbMirror | None = None
    ) -> None:
        self._file, self._clock = output_dir / METRICS_NAME, clock
        self._meter, self._mirror, self._is_begun, self._earlier_kwh = meter, mirror, False, 0.0
        self._mark = time.monotonic()
        self._training_seconds = self._logged_seconds = 0.0
        self._logged_tokens = 0
        self._losses: deque[float] = deque(maxlen=metrics.NUM_SPIKE_LOSSES)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._mark = time.monotonic()
        rows = read_rows(self._file) if self._file.exists() else []  # those up to the checkpoint of a run that goes on
        self._training_seconds = rows[-1]["training_seconds"] if rows else 0.0
        self._losses.extend(row["loss"] for row in rows if "loss" in row)
        for row in rows:
            if "loss" in row:
                self._logged_seconds, self._logged_tokens = row["training_seconds"], row["tokens"]
            self._earlier_kwh = row.get("kwh", self._earlier_kwh)
        self._is_begun = state.is_world_process_zero
        for service in (self._meter, self._mirror):
            if service and self._is_begun:
                service.start()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        now = time.monotonic()
        self._training_seconds += now - self._mark
        self._mark = now

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        self._mark = time.monotonic()  # evaluating and sampling is no training

    def on_save(self, args, state, control, **kwargs) -> None:
        self._mark = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {
            **self._clock.position(state.global_step),
            **{key: float(value) for key, value in logs.items() if key != "epoch"},
            "training_seconds": round(self._training_seconds, 3),
        }
        if "loss" in row:
            num_tokens = row["tokens"] - self._logged_tokens
            row["tokens_per_second"] = round(num_tokens / (self._training_seconds - self._logged_seconds), 1)
            self._logged_seconds, self._logged_tokens = self._training_seconds, row["tokens"]
            self._warn_of_spike(row)
        if self._meter and (kwh := self._meter.kwh()) is not None:
            row["kwh"] = round(self._earlier_kwh + kwh, 6)
        row |= machine.peak_memory()
        if xla.is_launched():
            row["compilations"] = xla.num_compilations()
        append_row(self._file, row)
        terminal.write_above_bar(_readable(row, state.max_steps))
        _refuse_not_finite(row)

    def close(self) -> None:
        """Stop the meter, and let the mirror send what is on its way."""
        for service in (self._meter, self._mirror):
            if service and self._is_begun:
                service.stop()

    def _warn_of_spike(self, row: dict) -> None:
        if words := metrics.spike(row["loss"], self._losses):
            logger.warning(
                "step %d: %s; if that happens again, lower learning_rate or max_grad_norm", *(row["step"], words)
            )
        self._losses.append(row["loss"])


class SampleWriter(TrainerCallback):
    """Answers fixed prompts at every evaluation: to the terminal and to `samples.jsonl`."""

    def __init__(self, output_dir: Path, clock: Clock, prompts: Sequence[str], answer: Callable) -> None:
        """`answer`: (model, prompts) → one continuation per prompt."""
        self._file, self._clock, self._prompts, self._answer = output_dir / SAMPLES_NAME, clock, prompts, answer

    def on_evaluate(self, args, state, control, model: Any = None, **kwargs) -> None:
        if not self._prompts:
            return
        if xla.is_launched():  # each token would be a graph of its own there, to be compiled
            if not state.is_world_process_zero:
                return
            model = host_copy(model)
        texts = self._answer(model, self._prompts)  # in every process: none can where each has a share of the weights
        if not state.is_world_process_zero:
            return
        for prompt, text in zip(self._prompts, texts, strict=True):
            append_row(self._file, {**self._clock.position(state.global_step), "prompt": prompt, "text": text})
            terminal.write_above_bar(f"  {prompt}▸{text}")


class StopInTime(TrainerCallback):
    """Saves and stops after the step in which a signal arrives or the launcher ends, or `max_hours` are over.

    All processes stop after the same step, whichever of them was told. A second SIGTERM or Ctrl-C, a second later or
    more, ends the process at once. A signal that is ignored, as SIGHUP below nohup, stays so. In a thread, where the
    launcher for TPUs runs a recipe, no signal can be taken: there `max_hours` alone stops in time.

    Attributes:
        reason: why training was stopped before its end; None where it was not.
    """

    def __init__(self, max_hours: float | None) -> None:
        self.reason: str | None = None
        self._max_hours, self._found = max_hours, None
        self._process, self._told_at = os.getpid(), None
        self._handlers: dict[int, Any] = {}

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        heeded = filter(is_heeded, _STOP_SIGNALS)
        self._handlers = {number: signal.signal(number, self._note) for number in heeded}

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
        if os.getpid() != self._process:  # a copy of it, which reads blocks ahead
            return
        if self._told_at is not None:
            is_asked_again = time.monotonic() - self._told_at > _ONE_EVENT_SECONDS
            if is_asked_again and number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._told_at = time.monotonic()
        if self._found is None:
            self._found = Ended(number).reason
        logger.warning("%s: stopping after this step, with a checkpoint; Ctrl-C again stops at once", self._found)


class LossScaleGuard(TrainerCallback):
    """Says how many steps fp16 skipped because a gradient overflowed; a long run of them stops the training.

    A skip now and then is how the loss scale is found. When none but skips come, the model itself has diverged. The
    learning rate's schedule waits for a skipped step, so what it has not counted was skipped, before a resume too.
    """

    def __init__(self, accelerator) -> None:
        self._accelerator, self._num_in_a_row = accelerator, 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not args.fp16:
            return
        if not self._accelerator.optimizer_step_was_skipped:
            self._num_in_a_row = 0
            return
        self._num_in_a_row += 1
        if self._num_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise Diverged(
                f"step {state.global_step}: fp16 gradients overflowed in {self._num_in_a_row} steps in a row, training "
                "has diverged; lower learning_rate, lengthen warmup_steps, or use precision: bf16 where the GPU has it"
            )

    def on_train_end(self, args, state, control, lr_scheduler: Any = None, **kwargs) -> None:
        num_skipped = state.global_step - lr_scheduler.state_dict()["last_epoch"] if args.fp16 else 0
        if num_skipped:
            logger.info(
                "fp16: %d of %d steps were skipped while the loss scale was sought: the model did not learn from their "
                "tokens, and the learning rate waited, so that its schedule ends %d steps early, at %.2e",
                *(num_skipped, state.global_step, num_skipped, lr_scheduler.get_last_lr()[0]),
            )


class OverfittingWarning(TrainerCallback):
    """Warns at the second evaluation in a row that is worse than the best one while the training loss has fallen."""

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        held_out, training = (
            [(row["step"], row[key]) for row in state.log_history if key in row] for key in ("eval_loss", "loss")
        )
        found = metrics.overfitting(held_out, training)
        if state.is_world_process_zero and found and found.num_worse == metrics.NUM_WORSE:
            logger.warning(
                "step %d: %s; early_stopping_evals keeps the best one, and a lower learning_rate, fewer epochs, "
                "dropout or more text put it off",
                *(state.global_step, found.words),
            )


class GraphPerStep(TrainerCallback):
    """Ends a graph of XLA after each forward and backward pass and after what is logged: no later one then differs.

    A device goes on in its random numbers with every graph, so that a run that goes on would have others. Each step
    begins with a seed of its own.
    """

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        number = state.global_step * args.world_size + args.process_index
        xla.seed(args.seed + _SEED_STRIDE * number)

    def on_substep_end(self, args, state, control, **kwargs) -> None:
        xla.sync()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        xla.sync()

    def on_log(self, args, state, control, **kwargs) -> None:
        xla.sync()


class QuietProgress(ProgressCallback):
    """The progress bar alone: the lines of the log are written by `MetricsRecorder`."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass
