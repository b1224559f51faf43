"""The plan of a run, kept in its folder before the first step, so that what it took can be held against it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.data.blocks.blend import SourceUse
from jpllm.data.shards.available import SourceTokens
from jpllm.models.gpus import DEFAULT_MFU
from jpllm.tracking.runs import PLAN_NAME
from jpllm.training import budget
from jpllm.training.plan_report import Report
from jpllm.training.planned_run import PlannedRun

if TYPE_CHECKING:
    from pathlib import Path

TEXT_NAME = "plan.md"
_TEXT_WIDTH = 118
logger = logging.getLogger(__name__)


def write(
    run: PlannedRun,
    mixture: Sequence[SourceUse],
    num_tokens: int,
    num_steps: int | None = None,
    shards_dir: Path | None = None,
) -> None:
    """Write what `jpllm plan` says of this run, as numbers and as a text; where it cannot say it, a line in the log.

    `num_steps` is given where steps are not all of `sequence_length` tokens a block. For `shards_dir` see
    `jpllm.training.budget.disk_needs`.
    """
    output_dir = run.training.output_dir
    files = [output_dir / name for name in (PLAN_NAME, TEXT_NAME)]
    for file in files:  # of an earlier start
        file.unlink(missing_ok=True)
    if run.engine.scheme is None:
        logger.info("no plan of this run: the memory that %s takes is not estimated", run.engine.name)
        return
    try:
        report = plan(run, mixture, num_tokens, num_steps, shards_dir)
        numbers = json.dumps(report.numbers(), indent=2) + "\n"
        text = f"# Plan of {output_dir.name}\n\n```text\n{_text(report)}\n```\n"
    except Exception as error:  # a prediction is worth less than the run
        logger.info("no plan of this run: %s: %s", type(error).__name__, error)
        return
    for file, content in zip(files, (numbers, text), strict=True):
        runtime.write_whole(file, content)


def plan(
    run: PlannedRun,
    mixture: Sequence[SourceUse],
    num_tokens: int,
    num_steps: int | None = None,
    shards_dir: Path | None = None,
) -> Report:
    """The plan of a run whose data is encoded: nothing in it is an estimate but memory and time."""
    search, asked = run.search()
    tokens_per_step = round(num_tokens / num_steps) if num_steps else asked.tokens_per_step
    spends = budget.Budget(
        num_tokens,
        num_steps or num_tokens // tokens_per_step,
        tokens_per_step,
        [_share(use, "token shards" if num_steps is None else "this run") for use in mixture],
        is_of_rows=num_steps is not None,
    )
    disk = budget.disk_needs(run.training, shards_dir, spends, search.size, asked)
    return Report(
        model=run.training.output_dir.name,
        architecture=run.model.model_type,
        size=search.size,
        where=search.hardware,
        best=search.candidate(asked, asked),
        others=[],
        spends=spends,
        disk=disk,
        disk_shortages=budget.disk_shortages(disk),
        mfu=DEFAULT_MFU,
        measured=None,
    )


def _share(use: SourceUse, origin: str) -> budget.SourceShare:
    available = SourceTokens(use.source, round(use.tokens / use.epochs) if use.epochs else None, True, origin)
    return budget.SourceShare(available, use.achieved_share, use.tokens, use.epochs)


def _text(report: Report) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_TEXT_WIDTH)
    for part in report.parts():
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in console.file.getvalue().strip().splitlines())
