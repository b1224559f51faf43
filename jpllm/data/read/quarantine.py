"""Count the rows of a source that cannot be read, by reason, and refuse the source when there are too many."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

from jpllm.data.read.files import printable
from jpllm.runtime import InputError

_NUM_SHOWN = 5
_MANY_ROWS = 10_000
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadRow:
    """A row without a usable text.

    Attributes:
        place: file and line, or file and row.
        reason: a fixed phrase, which counts are kept of.
        detail: what was found there.

    All three are printable: rows are shown, and written into files.
    """

    place: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value.isprintable():
                object.__setattr__(self, name, printable(value))

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}{f': {self.detail}' if self.detail else ''}"


@dataclass
class Quarantine:
    """Counts the rows of a source and keeps the first bad ones.

    Attributes:
        label: name of the source in messages.
        max_bad_fraction: largest share of bad rows that is let pass.
    """

    label: str
    max_bad_fraction: float
    num_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: list[BadRow] = field(default_factory=list)

    def add(self, row: object) -> None:
        """Count a row. Raises InputError at once when most of many rows are bad."""
        self.num_rows += 1
        if isinstance(row, BadRow):
            self.counts[row.reason] += 1
            if len(self.first) < _NUM_SHOWN:
                self.first.append(row)
            if self.num_rows >= _MANY_ROWS and self.counts.total() > max(0.5, self.max_bad_fraction) * self.num_rows:
                self.conclude()

    def conclude(self) -> None:
        """Say how many rows were bad; raise InputError, showing the first, if they are more than `max_bad_fraction`."""
        num_bad = self.counts.total()
        if not num_bad:
            return
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.counts.most_common())
        problem = f"{self.label}: {num_bad:,} of {self.num_rows:,} rows cannot be read ({reasons})"
        if num_bad <= self.max_bad_fraction * self.num_rows:
            logger.warning("%s; they are left out, the first: %s", problem, self.first[0])
            return
        shown = "\n".join(f"  {row}" for row in self.first)
        raise InputError(
            f"{problem}; max_bad_fraction is {self.max_bad_fraction:g}. Mend these rows, or raise it:\n{shown}"
        )
