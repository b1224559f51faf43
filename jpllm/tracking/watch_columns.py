"""The rows of a run by metric, each row taken over once, so that a look at a long run costs little more."""

from __future__ import annotations

import math

from jpllm.tracking.runs import number

Points = list[tuple[float, float]]
_LOSSES = ("loss", "eval_loss")


class Columns:
    """(step, value) by key, in the order of the rows.

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
                if (found := number(value)) is not None:
                    self.finite.setdefault(key, []).append((row["step"], found))
            for key in _LOSSES:
                if isinstance(value := row.get(key), int | float):
                    self.losses[key].append((row["step"], value))
                    if not math.isfinite(value):
                        self.diverged = row["step"], key, value
        self._num_taken = len(rows)
