"""Which evaluations in the folders of runs are of the runs' own models, and which of others that were put there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.commands.card import weights_of
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from jpllm.tracking.runs import Run


def keep_own(runs: Sequence[Run]) -> None:
    """Leave out evaluations of other weights than those of the run's model, with a remark."""
    evaluated = [run for run in runs if run.evaluations]
    if not evaluated:
        return
    with runtime.progress_bar("checking whose evaluations these are", "runs") as update:
        for done, run in enumerate(evaluated, start=1):
            _keep_own(run)
            update(done, len(evaluated), runs=1)


def _keep_own(run: Run) -> None:
    known, num_all = {str(found.get("weights_sha256")) for found in run.evaluations}, len(run.evaluations)
    own = _weights_of(run)
    if own is None and len(known) == 1:
        run.remarks.append("its evaluations may be of other weights: it has no model that they can be compared with")
        return
    run.evaluations = [found for found in run.evaluations if found.get("weights_sha256") == own is not None]
    if num_left_out := num_all - len(run.evaluations):
        reason = "of other weights" if own else "of different weights, and no model tells which are its own"
        run.remarks.append(f"{num_left_out} of {num_all} evaluations are left out: {reason}")


def _weights_of(run: Run) -> str | None:
    """The fingerprint of its model; None where it has none that can be loaded."""
    try:
        return weights_of(Path(run.model)) if run.model else None
    except (InputError, OSError, ValueError, RuntimeError, MemoryError):  # the others still compare
        return None
