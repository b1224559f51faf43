"""The metrics file of a run: one JSON object a line, the source of truth for plots, reports and alarms."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from jpllm import bounded
from jpllm.runtime import InputError
from jpllm.terminal import encodable
from jpllm.whole_files import naming_file

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
GROUP_PREFIX = "group_bits_per_byte/"  # of figures of a group of texts; the name of the group follows
EVAL_GROUP_PREFIX = f"eval_{GROUP_PREFIX}"  # of their keys in a row
PLACES = ("step", "tokens", "epoch", "training_seconds")
_PIECE_BYTES = 16 << 20
_MAX_SHAPES = 1000  # sets of keys; a training has about five
_MAX_CURVES = 1000


def append_row(file: Path, row: dict) -> None:
    """Add one row and hand it to the operating system at once, so that a killed run keeps what it measured."""
    with naming_file(file), file.open("a", encoding="utf-8") as stream:
        stream.write(encodable(json.dumps(row, ensure_ascii=False)) + "\n")


def read_rows(file: Path, num_bytes: int | None = None) -> list[dict]:
    """Return all complete rows, or those in the first bytes; a last line that a crash has cut off is left out."""
    rows = []
    for line in file.read_bytes()[:num_bytes].decode("utf-8").split("\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class GrowingRows:
    """Read the rows of a file that grows, each once, also where it is cut back as a run goes on from a checkpoint."""

    def __init__(self, file: Path, offset: int = 0) -> None:
        """Pass over the first `offset` bytes."""
        self._file, self._begin = file, offset
        self._forget()

    def _forget(self) -> None:
        self._rows: list[dict] = []
        self._offset, self._last_line = self._begin, b""

    def read(self) -> list[dict]:
        """Return all whole rows that have a step; none where there is no file."""
        try:
            with bounded.open_regular(self._file) as stream:
                stream.seek(self._offset - len(self._last_line))
                if stream.read(len(self._last_line)) != self._last_line:  # cut back, and perhaps grown again
                    self._forget()
                    stream.seek(self._offset)
                while self._offset - self._begin < bounded.MAX_ROWS_BYTES and self._take(stream.read(_PIECE_BYTES)):
                    stream.seek(self._offset)
        except (OSError, InputError):
            self._forget()
            return []
        return self._rows

    def _take(self, new: bytes) -> bool:
        """Take the whole lines of what follows the last one; return whether there may be more."""
        whole = new[: new.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        self._rows += [row for row in map(flat_row, lines) if row and number(row.get("step")) is not None]
        self._offset += len(whole)
        self._last_line = lines[-1] if lines else self._last_line
        return bool(whole) and len(new) == _PIECE_BYTES


def flat_row(line: str | bytes) -> dict | None:
    """Return the numbers, texts and switches of a row of JSON by key, None for null; None for another line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    return {key: value for key, value in row.items() if value is None or isinstance(value, str | int | float)}


def number(value: object) -> float | None:
    """Return the value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return found if math.isfinite(found) else None


@dataclass(frozen=True)
class Curve:
    """A metric over the steps.

    Attributes:
        steps: float64 (rows,), never falling.
        values: float64 (rows,); NaN where training had diverged.
    """

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Clock:
    """How the steps of a run convert; each array of `PLACES` is float64 (steps that have a row,)."""

    places: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places["step"]) if self.places else 0

    def last(self, place: str) -> float | None:
        """Return the value of a place at the latest row; None where it is not recorded."""
        if not len(self) or not np.isfinite(self.places[place][-1]):
            return None
        return float(self.places[place][-1])


def read_curves(file: Path) -> tuple[dict[str, Curve], Clock, list[str]]:
    """Return the curves of all numbers in the rows, their clock, and what is wrong with the file.

    A line that is no row, such as a last one that a crash has cut, is left out; the others count.
    """
    rows_of_shape, problems = _read_rows(file)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    places: list[list[np.ndarray]] = []
    for shape, rows in rows_of_shape.items():
        columns = _columns(shape, rows)
        has_step = np.isfinite(columns["step"]) if "step" in columns else np.zeros(len(rows), dtype=bool)
        if not has_step.all():
            problems.append(f"{len(rows) - has_step.sum():,} rows without a step are left out")
            columns = {key: values[has_step] for key, values in columns.items()}
        if not has_step.any():
            continue
        steps = columns["step"]
        places.append([columns.get(place, np.full(len(steps), np.nan)) for place in PLACES])
        for key in columns.keys() - set(PLACES):
            parts.setdefault(key, []).append((steps, columns[key]))
    if len(parts) > _MAX_CURVES:
        problems.append(f"{len(parts) - _MAX_CURVES:,} of {len(parts):,} metrics are left out")
        parts = dict(list(parts.items())[:_MAX_CURVES])
    return {key: _curve(members) for key, members in parts.items()}, _clock(places), problems


def _read_rows(file: Path) -> tuple[dict[tuple[str, ...], list[tuple]], list[str]]:
    """Return the values of rows grouped by their keys, as rows with the same keys become one array, and problems."""
    rows_of_shape: dict[tuple[str, ...], list[tuple]] = {}
    bad_lines: list[int] = []
    problems = []
    line_number = 0
    try:
        for line_number, line in enumerate(bounded.lines(file), start=1):
            row = flat_row(line.decode("utf-8", errors="replace"))
            shape = tuple(row or ())
            if row is None or (shape not in rows_of_shape and len(rows_of_shape) == _MAX_SHAPES):
                bad_lines.append(line_number)
            else:
                rows_of_shape.setdefault(shape, []).append(tuple(row.values()))
    except InputError as error:
        problems.append(str(error))
    except OSError as error:
        problems.append(f"cannot be read: {error.strerror}")
    if bad_lines and bad_lines[-1] == line_number:
        problems.append("the last line is cut")
        bad_lines.pop()
    if bad_lines:
        problems.append(f"{len(bad_lines):,} broken lines are left out, the first is line {bad_lines[0]:,}")
    return rows_of_shape, problems


def _columns(shape: tuple[str, ...], rows: list[tuple]) -> dict[str, np.ndarray]:
    """Return an array, float64 (rows,), for each key whose values are numbers."""
    try:
        return dict(zip(shape, np.array(rows, dtype=np.float64).T, strict=True))
    except (TypeError, ValueError, OverflowError):
        pass  # some key has a text
    found = {}
    for key, values in zip(shape, zip(*rows, strict=True), strict=True):
        try:
            found[key] = np.array(values, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            continue
    return found


def _curve(parts: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
    steps, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(steps, kind="stable")
    return Curve(steps[order], values[order])


def _clock(places: list[list[np.ndarray]]) -> Clock:
    if not places:
        return Clock()
    columns = [np.concatenate(arrays) for arrays in zip(*places, strict=True)]
    _, first = np.unique(columns[0][::-1], return_index=True)  # of equal steps the latest row
    chosen = len(columns[0]) - 1 - first
    return Clock(dict(zip(PLACES, (column[chosen] for column in columns), strict=True)))


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
