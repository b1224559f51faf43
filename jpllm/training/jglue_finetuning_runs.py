"""The runs of recipes/classify.py on one task: which are there, which are of something else, and doing one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from jpllm import runtime
from jpllm.evaluation import finetuned
from jpllm.evaluation.finetuned import FinetunedRun
from jpllm.evaluation.jglue_data import TaskData
from jpllm.runtime import InputError
from jpllm.tracking.metrics import read_rows
from jpllm.training import recipe_process
from jpllm.training.classifier_report import DIVERGED_NAME, PREDICTIONS_NAME
from jpllm.training.jglue_finetuning_arguments import FinetuneConfig
from jpllm.training.run_folder import CHECKPOINTS_NAME, CONFIG_NAME, MODEL_NAME, RESULTS_NAME

SUBJECT_NAME = "of.json"  # what model, tokenizer and data the runs are of
_NOT_DECIDING = (
    *("model", "train_file", "test_file"),
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "activation_checkpointing",
)


@dataclass(frozen=True)
class Plan:
    """The runs of a task.

    Attributes:
        folder: that of the task; each run has one in it.
        subject: what model, tokenizer and data the runs are of.
        settings: keys of recipes/classify.py, the same for all runs.
    """

    data: TaskData
    folder: Path
    subject: dict[str, object]
    settings: dict[str, object]
    config: FinetuneConfig

    @property
    def runs(self) -> dict[Path, dict[str, object]]:
        """Folder and settings of each run."""
        return {
            self.folder / f"lr{rate:g}_seed{seed}": {**self.settings, "learning_rate": rate, "seed": seed}
            for rate in self.config.finetune_learning_rates
            for seed in self.config.finetune_seeds
        }

    def refuse_others(self) -> None:
        """Raise InputError if there are runs of something else, or of other settings."""
        _refuse_another(self.folder, _read(self.folder / SUBJECT_NAME), self.subject)
        for run_dir in [*self.runs, *self._runs_done()]:
            there, wanted = _read(run_dir / CONFIG_NAME), self.runs.get(run_dir, self.settings)
            if there and _is_done(run_dir):
                there, wanted = _deciding(there), _deciding(wanted)
            _refuse_another(run_dir, there, wanted)

    def fine_tune(self, classify: Path, number: int) -> None:
        """Do a run, unless it is there already."""
        run_dir, settings = list(self.runs.items())[number]
        rate, seed = settings["learning_rate"], settings["seed"]
        if not _is_done(run_dir):
            what = f"run {number + 1} of {len(self.runs)}: learning rate {rate:g}, seed {seed}"
            runtime.announce(f"{self.data.task}, {what}")
            self.folder.mkdir(parents=True, exist_ok=True)
            runtime.write_whole(self.folder / SUBJECT_NAME, json.dumps(self.subject, indent=2) + "\n")
            words = _arguments({**settings, "output_dir": run_dir})
            try:
                recipe_process.run([sys.executable, str(classify), *words], run_dir)
            except InputError:
                if not (run_dir / DIVERGED_NAME).is_file():
                    raise
                runtime.announce(f"{self.data.task}, {what}: diverged; this learning rate is not chosen")
        for name in () if self.config.finetune_keep_models else (MODEL_NAME, CHECKPOINTS_NAME):
            shutil.rmtree(run_dir / name, ignore_errors=True)

    def runs_there(self) -> list[FinetunedRun]:
        """All runs, those of earlier commands too, by learning rate and seed."""
        found = []
        for run_dir in self._runs_done():
            settings = _read(run_dir / CONFIG_NAME)
            of = settings["learning_rate"], settings["seed"]
            if not (run_dir / RESULTS_NAME).is_file():
                found.append(FinetunedRun(*of, None, None))
                continue
            rows = read_rows(run_dir / PREDICTIONS_NAME)
            held_out, scored = ([row for row in rows if row["split"] == name] for name in ("validation", "test"))
            pairs = [finetuned.pairs_of(self.data.task, part) for part in (held_out, scored)]
            results = json.loads((run_dir / RESULTS_NAME).read_text(encoding="utf-8"))
            num_cut = results.get("num_cut", {}).get("test")
            found.append(FinetunedRun(*of, *pairs, num_cut, finetuned.clusters_of(scored)))
        return sorted(found, key=lambda run: (run.learning_rate, run.seed))

    def _runs_done(self) -> list[Path]:
        return [run_dir for run_dir in self.folder.glob("lr*_seed*") if _is_done(run_dir)]


def _arguments(settings: Mapping[str, object]) -> list[str]:
    words = []
    for key, value in settings.items():
        if value is not None:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _is_done(run_dir: Path) -> bool:
    return (run_dir / RESULTS_NAME).is_file() or (run_dir / DIVERGED_NAME).is_file()


def _deciding(settings: Mapping[str, object]) -> dict[str, object]:
    """Of a run that is done: no paths, for the subject says what it is of, and not how its batches fit the memory."""
    rows = settings.get("per_device_train_batch_size", 1) * settings.get("gradient_accumulation_steps", 1)
    return {"batch_size": rows, **{key: value for key, value in settings.items() if key not in _NOT_DECIDING}}


def _read(file: Path) -> dict:
    """A file of YAML, of which JSON is a part; nothing of one that is not there."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}


def _refuse_another(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raise InputError if there are values, and others than wanted."""
    if found and (changed := [key for key, value in wanted.items() if found.get(key) != value]):
        key = changed[0]
        raise InputError(
            f"{folder}: fine-tuned with another {', '.join(changed)} ({found.get(key)!r:.60}, not "
            f"{wanted[key]!r:.60}); name another output_dir, or remove this folder"
        )
