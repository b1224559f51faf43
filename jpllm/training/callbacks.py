"""What happens beside the training steps: metrics to a file, samples at every evaluation, a stop on NaN."""

from __future__ import annotations

import logging
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback

from jpllm.runtime import InputError
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME, append_row, read_rows

_NUM_SPIKE_LOSSES = 20
_LEAST_SPIKE_NATS = 0.5
_MAX_SKIPPED_IN_A_ROW = 25
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clock:
    """How steps convert: `tokens_per_step` over all processes, `tokens_per_epoch` of the training texts."""

    tokens_per_step: int
    tokens_per_epoch: int

    def position(self, step: int) -> dict[str, float]:
        """The columns that place a row of the metrics file."""
        tokens = step * self.tokens_per_step
        return {"step": step, "epoch": round(tokens / self.tokens_per_epoch, 6), "tokens": tokens}


class MetricsRecorder(TrainerCallback):
    """Writes a row to `metrics.jsonl` at every log and evaluation, and a line to the terminal.

    Raises InputError when a loss is not finite: what follows would be noise. Stands last among the callbacks, so that
    the time of the others does not count as training.
    """

    def __init__(self, output_dir: Path, clock: Clock) -> None:
        self._file, self._clock = output_dir / METRICS_NAME, clock
        self._mark = time.monotonic()
        self._training_seconds = self._logged_seconds = 0.0
        self._logged_step = 0
        self._losses: deque[float] = deque(maxlen=_NUM_SPIKE_LOSSES)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._mark = time.monotonic()
        rows = read_rows(self._file) if self._file.exists() else []  # those up to the checkpoint of a run that goes on
        self._training_seconds = rows[-1]["training_seconds"] if rows else 0.0
        self._losses.extend(row["loss"] for row in rows if "loss" in row)
        for row in rows:
            if "loss" in row:
                self._logged_seconds, self._logged_step = row["training_seconds"], row["step"]

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
            num_tokens = (state.global_step - self._logged_step) * self._clock.tokens_per_step
            row["tokens_per_second"] = round(num_tokens / (self._training_seconds - self._logged_seconds), 1)
            self._logged_seconds, self._logged_step = self._training_seconds, state.global_step
            self._warn_of_spike(row)
        append_row(self._file, row)
        tqdm.write(_readable(row, state.max_steps), file=sys.stderr)
        _refuse_not_finite(row)

    def _warn_of_spike(self, row: dict) -> None:
        """A loss far above those before it: more than six times as far from their median as half of them."""
        loss, losses = row["loss"], self._losses
        if len(losses) == losses.maxlen:
            median = statistics.median(losses)
            spread = statistics.median(abs(other - median) for other in losses)
            if loss > median + max(6 * spread, _LEAST_SPIKE_NATS):
                logger.warning(
                    "step %d: loss %.4f, the median of the %d rows before is %.4f; if that happens again, "
                    "lower learning_rate or max_grad_norm",
                    *(row["step"], loss, len(losses), median),
                )
        losses.append(loss)


class LossScaleGuard(TrainerCallback):
    """Counts the steps that fp16 skipped because a gradient overflowed; a long run of them stops the training.

    A skip now and then is how the loss scale is found. When none but skips come, the model itself has diverged.
    """

    def __init__(self, accelerator) -> None:
        self._accelerator, self._num_skipped, self._num_in_a_row = accelerator, 0, 0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if not args.fp16:
            return
        if not self._accelerator.optimizer_step_was_skipped:
            self._num_in_a_row = 0
            return
        self._num_skipped += 1
        self._num_in_a_row += 1
        if self._num_in_a_row >= _MAX_SKIPPED_IN_A_ROW:
            raise InputError(
                f"step {state.global_step}: fp16 gradients overflowed in {self._num_in_a_row} steps in a row, training "
                "has diverged; lower learning_rate, lengthen warmup_steps, or use precision: bf16 where the GPU has it"
            )

    def on_train_end(self, args, state, control, **kwargs) -> None:
        if self._num_skipped:
            logger.info(
                "fp16: %d of %d steps were skipped while the loss scale was sought; they cost data, not quality",
                *(self._num_skipped, state.global_step),
            )


class SampleWriter(TrainerCallback):
    """Answers fixed prompts at every evaluation: to the terminal and to `samples.jsonl`."""

    def __init__(self, output_dir: Path, clock: Clock, prompts: Sequence[str], answer: Callable) -> None:
        """`answer`: (model, prompts) → one continuation per prompt."""
        self._file, self._clock, self._prompts, self._answer = output_dir / SAMPLES_NAME, clock, prompts, answer

    def on_evaluate(self, args, state, control, model=None, **kwargs) -> None:
        if not self._prompts:
            return
        texts = self._answer(model, self._prompts)  # in every process: none can where each has a share of the weights
        if not state.is_world_process_zero:
            return
        for prompt, text in zip(self._prompts, texts, strict=True):
            append_row(self._file, {**self._clock.position(state.global_step), "prompt": prompt, "text": text})
            tqdm.write(f"  {prompt}▸{text}".replace("\n", "⏎"), file=sys.stderr)


def _readable(row: dict, max_steps: int) -> str:
    parts = [f"step {row['step']:,}/{max_steps:,}", f"epoch {row['epoch']:.2f}"]
    formats = {
        "loss": "loss {:.4f}",
        "eval_loss": "held-out loss {:.4f}",
        "eval_bits_per_byte": "bits per byte {:.4f}",
        "eval_masked_accuracy": "accuracy {:.1%}",
        "learning_rate": "lr {:.2e}",
        "grad_norm": "grad {:.2f}",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    return "  ".join(parts + [text.format(row[key]) for key, text in formats.items() if key in row])


def _refuse_not_finite(row: dict) -> None:
    bad = [key for key in ("loss", "eval_loss") if not math.isfinite(row.get(key, 0.0))]
    if bad:
        raise InputError(
            f"step {row['step']}: {bad[0]} is {row[bad[0]]}, training has diverged; "
            "lower learning_rate, lengthen warmup_steps, or use precision: fp32 (bf16 where the GPU has it)"
        )
