"""Find cause for alarm in the rows of a run: a loss that leaps, and texts that are learned by heart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NUM_SPIKE_LOSSES = 20
_LEAST_SPIKE_NATS = 0.5
NUM_WORSE = 2  # evaluations in a row
_RISE = 1.01
Point = tuple[float, float]  # step and value


def spike(loss: float, earlier: Iterable[float]) -> str | None:
    """Return a sentence on a loss that is far above the last `NUM_SPIKE_LOSSES` before it; None for another one.

    Far is more than six times as far from their median as half of them.
    """
    latest = list(earlier)[-NUM_SPIKE_LOSSES:]
    if len(latest) < NUM_SPIKE_LOSSES:
        return None
    median = statistics.median(latest)
    spread = statistics.median(abs(other - median) for other in latest)
    if loss <= median + max(6 * spread, _LEAST_SPIKE_NATS):
        return None
    return f"loss {loss:.4f}, the median of the {NUM_SPIKE_LOSSES} rows before is {median:.4f}"


@dataclass(frozen=True)
class Overfitting:
    """A sign of overfitting: since the best evaluation the held-out loss has risen and the training loss fallen.

    Attributes:
        num_worse: evaluations since the best one, all of them clearly worse.
    """

    num_worse: int
    words: str


def overfitting(evaluations: Sequence[Point], losses: Sequence[Point]) -> Overfitting | None:
    """Return whether held-out and training losses, each with its step, show overfitting.

    None where less than `NUM_WORSE` evaluations in a row are worse than the best.
    """
    if not evaluations:
        return None
    best_step, best = min(evaluations, key=lambda pair: pair[1])
    later = [loss for step, loss in evaluations if step > best_step]
    at_best = next((loss for step, loss in reversed(losses) if step <= best_step), None)
    has_risen = len(later) >= NUM_WORSE and all(loss > _RISE * best for loss in later)
    if not has_risen or at_best is None or not losses[-1][1] < at_best:
        return None
    return Overfitting(
        len(later),
        f"held-out loss {later[-1]:.4f}, it was {best:.4f} at step {best_step:,}, while the training loss fell from "
        f"{at_best:.4f} to {losses[-1][1]:.4f}: the model learns its texts by heart",
    )
