"""A run on this machine, as its plan and the advice where its memory runs out see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jpllm.models.scheme import Scheme
from jpllm.training import hardware
from jpllm.training.config import TrainingConfig
from jpllm.training.engine import Engine
from jpllm.training.hardware import HardwareConfig
from jpllm.training.plan import Search, as_written

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class PlannedRun:
    """What decides the memory of a run.

    Attributes:
        sequence_length: tokens of a block, or of the longest sequence.
        way: what else a scheme has, see `jpllm.training.plan.as_written`.
    """

    model: PretrainedConfig
    training: TrainingConfig
    sequence_length: int
    engine: Engine
    way: Mapping[str, object] = field(default_factory=dict)

    def search(self) -> tuple[Search, Scheme]:
        """What looks for ways to train on this hardware, and the way that the run has; not without a known engine."""
        from jpllm.models.size import model_size

        where = replace(hardware.resolve(HardwareConfig()), num_gpus=self.engine.num_processes)
        scheme = as_written(self.training, self.sequence_length, where, self.engine.scheme, **self.way)
        size = model_size(self.model, scheme.masked_share > 0, scheme.learned)
        return Search(self.model, size, where), scheme
