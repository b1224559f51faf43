"""The data of a run, cut into optimizer steps: what is learned and evaluated, and how steps convert to tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from jpllm.data.blocks.blend import SourceUse

if TYPE_CHECKING:
    import numpy as np


@dataclass
class Clock:
    """Converts steps to tokens and epochs, where all steps have equally many tokens.

    Attributes:
        tokens_per_step: over all processes.
        tokens_per_epoch: of the training texts.
    """

    tokens_per_step: int
    tokens_per_epoch: float
    _extra_tokens: int = field(default=0, init=False)
    _extra_epochs: float = field(default=0.0, init=False)

    def go_on_from(self, step: int, position: Mapping[str, float]) -> None:
        """Count on from what `position` says of a step that was reached with other tokens per step."""
        self._extra_tokens = int(position["tokens"]) - self._tokens(step)
        self._extra_epochs = position["epoch"] - self._epochs(step)

    def tokens(self, step: int) -> int:
        """Return how many tokens were trained on up to the end of a step."""
        return self._tokens(step) + self._extra_tokens

    def epoch(self, step: int) -> float:
        """Return how many passes over the training texts these steps are."""
        return self._epochs(step) + self._extra_epochs

    def position(self, step: int) -> dict[str, float]:
        """Return the columns that place a row of the metrics file."""
        return {"step": step, "epoch": round(self.epoch(step), 6), "tokens": self.tokens(step)}

    def _tokens(self, step: int) -> int:
        """Return the tokens up to the end of a step of a run that never had others per step."""
        return step * self.tokens_per_step

    def _epochs(self, step: int) -> float:
        return self._tokens(step) / self.tokens_per_epoch


@dataclass
class RowClock(Clock):
    """Converts steps to tokens and epochs where rows differ in length; tokens per step and per epoch are means.

    Attributes:
        tokens_until: (number of steps + 1,) tokens before each step.
    """

    rows_per_step: int
    rows_per_epoch: int
    tokens_until: Sequence[int] | np.ndarray

    @property
    def steps_per_epoch(self) -> int:
        """Steps that one pass over the rows takes, rounded up."""
        return -(-self.rows_per_epoch // self.rows_per_step)

    def _tokens(self, step: int) -> int:
        return int(self.tokens_until[min(step, len(self.tokens_until) - 1)])  # it may begin behind its last step

    def _epochs(self, step: int) -> float:
        return step * self.rows_per_step / self.rows_per_epoch


class Items(Protocol):
    """Items by position, which is all that PyTorch's DataLoader asks of a dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, position: int, /) -> object: ...


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is evaluated on, and in how many steps; each objective makes its own.

    Attributes:
        train_dataset: as many positions as the steps need, in the order in which they are learned.
        held_out: what every evaluation scores, as the trainer of the objective takes it.
        fingerprint: of the training data and its order, and of what is held out where that is no part of it.
        clock: converts steps to tokens and epochs.
        max_steps: optimizer steps that spend the budget.
        write_held_out: writes what is held out to the file that it is given.
        mixture: what each source gives; empty where the sources have no names.
        shards_dir: folder of the token shards that are read; None without shards.
        shards_hash: of the ids in them; None where it is not known.
    """

    train_dataset: Items
    held_out: Sequence
    fingerprint: str
    clock: Clock
    max_steps: int
    write_held_out: Callable[[Path], None]
    mixture: Sequence[SourceUse] = ()
    shards_dir: Path | None = None
    shards_hash: str | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of all steps."""
        return self.clock.tokens(self.max_steps)

    def uses(self) -> Sequence[SourceUse]:
        """Return what each source gives; rows without named sources count as one."""
        epochs = self.num_tokens / self.clock.tokens_per_epoch
        return self.mixture or [SourceUse("training rows", 1.0, 1.0, self.num_tokens, epochs, 0)]
