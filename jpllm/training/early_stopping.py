"""Stop when evaluations bring nothing better, and never lose the model of the best one.

The best model lies in `best-STEP` of the run folder until the run is finished. Each checkpoint says in its manifest
which one it needs and what is in it, and a best model stays for as long as there is a checkpoint that needs it. So a
run that goes on from any of them ends with a model; it does not go on from one whose best model is damaged.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from jpllm import runtime, whole_files
from jpllm.models import adapters
from jpllm.runtime import InputError
from jpllm.tracking.metrics import METRICS_NAME, read_rows
from jpllm.training import checkpoint, engine
from jpllm.training.checkpoint import Checkpoint
from jpllm.training.run_folder import UNPROVED_NAME

if TYPE_CHECKING:
    from jpllm.training.trainer import BaseTrainer

_PREFIX = "best-"
_UNFINISHED_NAME = "best.unfinished"
logger = logging.getLogger(__name__)


class TrainingIsOver(Exception):
    """Raised before the first step of a run that goes on from a checkpoint at which it had stopped already."""


class EarlyStopping(TrainerCallback):
    """Saves the model at each evaluation that is the best so far; stops after `patience` evaluations without one.

    Attributes:
        best_step: step of the best evaluation; None before the first.
    """

    def __init__(self, trainer: BaseTrainer, output_dir: Path, patience: int) -> None:
        self.best_step: int | None = None
        self._trainer, self._output_dir, self._patience = trainer, output_dir, patience
        self._key, self._sign = f"eval_{trainer.best_figure}", trainer.best_sign
        self._best, self._num_worse, self._files = -float("inf"), 0, {}

    def refuse_lost(self, start: Checkpoint) -> None:
        """Raise InputError if the best model that a checkpoint needs is not there, whole; unless `resume_changed`."""
        known = self._record_of(start.manifest)
        if known and not self._trainer.config.resume_changed and (problem := self._problem_of(known)):
            raise InputError(
                f"{start.directory}: its best model until then is lost ({problem}); name a new output_dir, or go on as "
                "if the evaluations until then had not been, with resume_changed: true"
            )

    def go_on_from(self, start: Checkpoint | None) -> None:
        """Take up the best evaluation until a checkpoint, and remove models that belong to no checkpoint."""
        known = None
        if runtime.is_main_process():
            known = self._record_of(start.manifest) if start else None
            if start and known and self._trainer.config.resume_changed and (problem := self._problem_of(known)):
                logger.warning(
                    "evaluations up to step %d do not count: their best model is lost: %s", start.step, problem
                )
                known = None
            if known and known["step"] is not None and not known["files"]:  # of jpllm 0.1.0
                if self._was_moved(known["step"]):
                    (self._output_dir / UNPROVED_NAME).rename(self._directory_of(known["step"]))
                known["files"] = checkpoint.sync_and_digest(self._directory_of(known["step"]))
        known = engine.from_main_process(known, self._trainer.args)
        if known:
            self.best_step, self._best, self._num_worse = known["step"], known["figure"], known["num_worse"]
            self._files = known["files"]
        if runtime.is_main_process():
            shutil.rmtree(self._output_dir / _UNFINISHED_NAME, ignore_errors=True)
            self.prune()

    def record(self) -> dict:
        """Return what the manifest of a checkpoint says of the best evaluation until then."""
        return {
            "step": self.best_step,
            "key": self._key,
            "figure": self._best if self.best_step is not None else None,
            "num_worse": self._num_worse,
            "files": self._files,
        }

    def prune(self) -> None:
        """Delete the best models that neither this run nor any of its checkpoints needs; in the main process."""
        found = checkpoint.manifests(self._trainer.checkpoints_dir)
        known = (manifest["best"] or self._record_of(manifest) for manifest in found)
        needed = {str(step) for step in (self.best_step, *(record["step"] for record in known if record))}
        for directory in best_models(self._output_dir):
            if directory.name.removeprefix(_PREFIX) not in needed:
                shutil.rmtree(directory, ignore_errors=True)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if self._num_worse >= self._patience:
            raise TrainingIsOver

    def on_evaluate(self, args, state, control, metrics: Any = None, **kwargs) -> None:
        if self._note(state.global_step, metrics[self._key]):
            self._save()
        control.should_training_stop |= self._num_worse >= self._patience

    @property
    def directory(self) -> Path:
        """Folder of the model of the best evaluation."""
        return self._directory_of(self.best_step)

    def _save(self) -> None:
        """Write the model as the best one; what others need is left alone."""
        unfinished = self._output_dir / _UNFINISHED_NAME
        cache, self._trainer.model.config.use_cache = self._trainer.model.config.use_cache, True
        with whole_files.removed_on_failure(unfinished):
            self._trainer.save_best(unfinished)  # for whoever loads it to generate with the cache
        self._trainer.model.config.use_cache = cache
        self._trainer.accelerator.wait_for_everyone()
        if runtime.is_main_process():
            (unfinished / "training_args.bin").unlink(missing_ok=True)  # a pickle that holds paths of this machine
            self._files = checkpoint.sync_and_digest(unfinished)
            shutil.rmtree(self.directory, ignore_errors=True)
            unfinished.rename(self.directory)
            self.prune()
        self._trainer.accelerator.wait_for_everyone()

    def _note(self, step: int, figure: float) -> bool:
        """Take note of an evaluation, and return whether it is the best so far."""
        if self._sign * figure <= self._best:
            self._num_worse += 1
            return False
        self.best_step, self._best, self._num_worse = step, self._sign * figure, 0
        return True

    def _record_of(self, manifest: Mapping) -> dict | None:
        """Return what `record` gave for a checkpoint; None where it had no early stopping, or by another figure.

        jpllm 0.1.0 did not write it down; the rows of the metrics up to the checkpoint say it.
        """
        if (known := manifest["best"]) is not None:
            figure = -float("inf") if known["figure"] is None else known["figure"]
            return known | {"figure": figure} if known["key"] == self._key else None
        if manifest["version"] > 1 or not manifest["facts"]["configuration"].get("early_stopping_evals"):
            return None
        return self._replayed(manifest["logs"].get(METRICS_NAME, 0))

    def _replayed(self, num_bytes: int | None = None) -> dict:
        """Return the record that the evaluations in the first bytes of the metrics make, without files."""
        replay = EarlyStopping(self._trainer, self._output_dir, self._patience)
        file = self._output_dir / METRICS_NAME
        for row in read_rows(file, num_bytes) if file.exists() else []:
            if self._key in row:
                replay._note(row["step"], row[self._key])
        return replay.record() | {"figure": replay._best}

    def _problem_of(self, known: Mapping) -> str:
        """Return why the best model of a record cannot be used; "" where it can, or where none is needed."""
        if known["step"] is None:
            return ""
        directory = self._directory_of(known["step"])
        if known["files"]:
            try:
                checkpoint.refuse_other_content(directory, known["files"])
            except InputError as error:
                return str(error)
        elif not (_is_model(directory) or self._was_moved(known["step"])):
            return f"there is no {directory}"
        return ""

    def _was_moved(self, step: int) -> bool:
        """Return whether the best model is what jpllm 0.1.0 had moved to be proved when the run was ended."""
        unproved = self._output_dir / UNPROVED_NAME
        if self._directory_of(step).exists() or not _is_model(unproved):
            return False
        return self._replayed()["step"] == step

    def _directory_of(self, step: int | None) -> Path:
        return self._output_dir / f"{_PREFIX}{step}"


def best_models(output_dir: Path) -> list[Path]:
    """Return the folders of best models in a run folder."""
    return [path for path in output_dir.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]


def _is_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("config.json", adapters.CONFIG_NAME)) and any(
        directory.glob("*.safetensors")
    )
