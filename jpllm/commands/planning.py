"""From what is asked for to a report: the ways to train it, what they take, and what five steps really take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jpllm.config import option
from jpllm.runtime import InputError
from jpllm.training.config import TrainingConfig
from jpllm.training.hardware import Hardware, HardwareConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from jpllm.models.scheme import Scheme
    from jpllm.training.budget import Budget
    from jpllm.training.calibrate import Measured
    from jpllm.training.plan import Candidate
    from jpllm.training.plan_report import Report


@dataclass
class PlanConfig:
    """What to plan"""

    recipe: Literal["pretraining", "sft", "classify"] = option(
        "pretraining", "Whose configuration it is: that of pretrain_scratch and cpt, of sft or of classify."
    )


@dataclass(frozen=True)
class Asked:
    """A run to be planned.

    Attributes:
        recipe: name of the file to launch.
        sequence_length: tokens of a block, or of the longest sequence.
        way: what else a scheme has, see `jpllm.training.plan.as_written`.
        budget: tokens and steps of a scheme.
        shards_dir: see `jpllm.training.budget.disk_needs`.
    """

    recipe: str
    model: str
    architecture: PretrainedConfig
    training: TrainingConfig
    sequence_length: int
    way: dict[str, object]
    budget: Callable[[Scheme], Budget]
    shards_dir: Path | None = None


def report_of(run: Asked, config: HardwareConfig, where: Hardware) -> Report:
    """The plan of a run on this hardware, with other ways where it does not fit as it is."""
    from jpllm.models.learned import ALL
    from jpllm.models.size import model_size
    from jpllm.training import budget
    from jpllm.training.plan import Search, as_written
    from jpllm.training.plan_report import Report

    size = model_size(run.architecture, run.way.get("masked_share", 0) > 0, run.way.get("learned", ALL))
    search = Search(run.architecture, size, where, config.engine)
    asked = as_written(run.training, run.sequence_length, where, search.engines[0], **run.way)
    best = search.best(asked)
    others = search.alternatives(asked) if best.scheme != asked or not best.fits(where) else []
    spends = run.budget(best.scheme)
    disk = budget.disk_needs(run.training, run.shards_dir, spends, size, best.scheme)
    return Report(
        model=run.model,
        architecture=run.architecture.model_type,
        size=size,
        where=where,
        best=best,
        others=[other for other in others if other.scheme != best.scheme],
        spends=spends,
        disk=disk,
        disk_shortages=budget.disk_shortages(disk) if where.is_here else [],
        mfu=config.mfu,
        measured=measure(where, best, run.architecture, run.training) if config.calibrate else None,
    )


def measure(where: Hardware, best: Candidate, architecture: PretrainedConfig, training: TrainingConfig) -> Measured:
    """Five real steps. Raises InputError where they would not be those of the plan."""
    from jpllm.training import calibrate

    if not where.is_here:
        raise InputError(f"calibrate: runs on this machine, and the plan is for {where.name}; remove one of both")
    if best.scheme.engine != "single":
        raise InputError(
            f"calibrate: runs one process without DeepSpeed, and the plan is for {best.scheme.engine}; give --engine "
            "single, or launch the recipe for a few steps"
        )
    return calibrate.measure(architecture, training, best.scheme)
