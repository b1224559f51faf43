"""Read the status of a run from its folder while it goes on: its state, how far it is, and what looks wrong."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jpllm.tracking import metrics
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME, GrowingRows
from jpllm.tracking.runs import CONFIG_NAME, PLAN_NAME, RESULTS_NAME, is_held, json_object, number, settings_of

Points = list[tuple[float, float]]  # step and value
State = Literal["waiting", "starting", "training", "unknown", "stopped", "finished"]
_LOSSES = ("loss", "eval_loss")
_NUM_SPEED_ROWS = 20
_NUM_SPIKE_ROWS = 100
LEAST_SILENCE_SECONDS, _SILENT_GAPS = 180, 10  # a checkpoint or an evaluation may take so long


class Columns:
    """The rows of a run by metric, (step, value) each; a row is taken once, so that reading a long run again is cheap.

    Attributes:
        finite: of all keys, the values that are finite.
        losses: of `loss` and `eval_loss` also those that are not.
        diverged: step, key and value of the latest loss that is not finite; None where all are.
    """

    def __init__(self) -> None:
        self._begin([])

    def _begin(self, rows: list[dict]) -> None:
        self._rows, self._num_taken = rows, 0
        self.finite: dict[str, Points] = {}
        self.losses: dict[str, Points] = {key: [] for key in _LOSSES}
        self.diverged: tuple[float, str, float] | None = None

    def take(self, rows: list[dict]) -> None:
        """Take what is new. `rows` is the list of the last time, perhaps longer, or another one that replaces it."""
        if rows is not self._rows:
            self._begin(rows)
        for row in rows[self._num_taken :]:
            for key, value in row.items():
                points = self.finite.setdefault(key, [])
                if (found := number(value)) is not None and (not points or points[-1][0] <= row["step"]):
                    points.append((row["step"], found))
            for key in _LOSSES:
                if isinstance(value := row.get(key), float):
                    self.losses[key].append((row["step"], value))
                    if not math.isfinite(value):
                        self.diverged = row["step"], key, value
        self._num_taken = len(rows)


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run at a moment.

    Attributes:
        state: waiting for its folder; starting before the first row; training where a process of this machine holds
            the folder. Where none does and there are no results, unknown for the first minutes, as it may be one of
            another machine, whose lock cannot be seen from here; then stopped.
        rows: those of `metrics.jsonl`, each with a step; `columns` are the same by metric.
        samples: those of the latest step.
        checkpoint: name of the newest one.
        silent_seconds: since anything was written.
    """

    name: str
    state: State
    settings: dict
    plan: dict
    rows: list[dict]
    samples: list[dict]
    checkpoint: str | None = None
    silent_seconds: float = 0.0
    columns: Columns = field(default_factory=Columns)

    @property
    def share(self) -> float | None:
        """Share of the budget that is done; None where the budget is not known."""
        if self.state == "finished":
            return 1.0
        last = self.rows[-1] if self.rows else {}
        for done, budget in (
            (last.get("step"), self.plan.get("num_steps")),
            (last.get("tokens"), self.settings.get("tokens")),
            (last.get("epoch"), self.settings.get("epochs")),
        ):
            if whole := number(budget):
                return min((number(done) or 0.0) / whole, 1.0)
        return None

    @property
    def num_steps(self) -> int | None:
        """Number of steps of the whole run, as planned."""
        if planned := number(self.plan.get("num_steps")):
            return int(planned)
        step, share = self.latest("step"), self.share
        return round(step / share) if step and share else None

    @property
    def tokens_per_second(self) -> float | None:
        """Mean speed of the latest rows."""
        speeds = [speed for _, speed in self.points("tokens_per_second")[-_NUM_SPEED_ROWS:]]
        return statistics.mean(speeds) if speeds else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training that are left at the present speed, without evaluations; None where that is unknown."""
        share, seconds = self.share, self.latest("training_seconds")
        tokens, speed = self.latest("tokens"), self.tokens_per_second
        if not share or not seconds:
            return None
        if tokens and speed:
            return tokens / share * (1 - share) / speed
        return seconds / share * (1 - share)

    def latest(self, key: str) -> float | None:
        """Return the newest value of a metric; None where there is none."""
        points = self.points(key)
        return points[-1][1] if points else None

    def points(self, key: str) -> list[tuple[float, float]]:
        """Return (step, value) of all rows in which the metric is finite."""
        return self.columns.finite.get(key, [])

    @property
    def shown(self) -> tuple:
        """A key that is equal for two statuses where all that is to be shown is."""
        newest = self.rows[-1] if self.rows else None
        facts = (self.state, self.settings, self.plan, self.samples, self.checkpoint)
        return *facts, len(self.rows), newest, _silence(self)

    def warnings(self) -> list[str]:
        """Return sentences on what a person should look at."""
        found = [words for words in (_spike(self.points("loss")), _divergence(self.columns), _silence(self)) if words]
        if overfitting := metrics.overfitting(self.columns.losses["eval_loss"], self.columns.losses["loss"]):
            found.append(overfitting.words)
        return found


class RunReader:
    """Reads a run folder again and again; of files that grow only what is new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder = folder.resolve()  # "." has no name
        self._columns = Columns()
        self._metrics, self._samples = GrowingRows(folder / METRICS_NAME), GrowingRows(folder / SAMPLES_NAME)

    def read(self) -> RunStatus:
        """Return the status of the run now; "waiting" where its folder or the configuration in it is not there yet."""
        folder = self._folder
        rows, samples = self._metrics.read(), self._samples.read()
        self._columns.take(rows)
        latest = samples[-1]["step"] if samples else None
        return RunStatus(
            name="/".join(folder.parts[-2:]),
            state=self._state(bool(rows)),
            settings=settings_of(folder / CONFIG_NAME, []),
            plan=json_object(folder / PLAN_NAME, []),
            rows=rows,
            samples=[row for row in samples if row["step"] == latest],
            checkpoint=_newest_checkpoint(folder),
            silent_seconds=_silent_seconds(folder),
            columns=self._columns,
        )

    def _state(self, has_rows: bool) -> State:
        if not (self._folder / CONFIG_NAME).is_file():
            return "waiting"
        if (self._folder / RESULTS_NAME).is_file():
            return "finished"
        try:
            is_locked = is_held(self._folder)
        except OSError:  # somebody else's folder
            is_locked = False
        if is_locked:
            return "training" if has_rows else "starting"
        return "unknown" if _silent_seconds(self._folder) < LEAST_SILENCE_SECONDS else "stopped"


def _newest_checkpoint(folder: Path) -> str | None:
    steps = [path.name.rpartition("-")[2] for path in folder.glob("checkpoints/checkpoint-*")]
    numbers = [int(step) for step in steps if step.isdecimal()]
    return f"checkpoint-{max(numbers)}" if numbers else None


def _silent_seconds(folder: Path) -> float:
    times = []
    for name in (METRICS_NAME, SAMPLES_NAME, CONFIG_NAME):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(time.time() - max(times), 0.0) if times else 0.0


def _spike(losses: list[tuple[float, float]]) -> str | None:
    """Return a sentence on the latest leap of the loss, if there was one lately."""
    for index in range(len(losses) - 1, max(len(losses) - _NUM_SPIKE_ROWS, 0), -1):
        earlier = [loss for _, loss in losses[max(index - metrics.NUM_SPIKE_LOSSES, 0) : index]]
        if words := metrics.spike(losses[index][1], earlier):
            return f"step {losses[index][0]:,}: {words}"
    return None


def _divergence(columns: Columns) -> str | None:
    if columns.diverged is None:
        return None
    step, key, value = columns.diverged
    return f"step {step:,}: {key} is {value}, training has diverged"


def _silence(status: RunStatus) -> str | None:
    """Return a sentence on a process that is at work and has written nothing for long."""
    if status.state not in ("training", "starting"):
        return None
    seconds = [second for _, second in status.points("training_seconds")[-_NUM_SPEED_ROWS:]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(seconds) if later > earlier]
    usual = statistics.median(gaps) if gaps else 0.0
    if status.silent_seconds <= max(LEAST_SILENCE_SECONDS, _SILENT_GAPS * usual):
        return None
    every = f", rows came every {usual:,.0f} s" if gaps else ""
    return f"nothing written for {status.silent_seconds / 60:,.0f} min{every}: a long evaluation, or the process hangs"
