"""Fine-tuning on JGLUE: a run of recipes/classify.py for each task, learning rate and seed.

Each run is a process and a folder of its own, so its memory is given back, an interrupted one goes on, and one that is
finished or has diverged is not repeated. It learns from the training file but for a held-out share, which chooses the
learning rate; the validation file is scored once by each run, at its end.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import yaml

from jpllm import runtime
from jpllm.data.labels import DEFAULT_VALIDATION_SHARE
from jpllm.evaluation import finetuned, identity, jglue_data, report
from jpllm.evaluation.finetuned import FinetunedRun
from jpllm.evaluation.jglue import data as jglue_files
from jpllm.evaluation.jglue_data import TaskData
from jpllm.runtime import InputError
from jpllm.tracking.metrics import read_rows
from jpllm.training import recipe_process
from jpllm.training.classifier_report import DIVERGED_NAME, PREDICTIONS_NAME
from jpllm.training.jglue_finetuning_arguments import FinetuneConfig, FinetuneTask
from jpllm.training.run_folder import CHECKPOINTS_NAME, CONFIG_NAME, MODEL_NAME, RESULTS_NAME

FOLDER_NAME = "finetuned"
SUBJECT_NAME = "of.json"  # what model, tokenizer and data the runs of a task are of
MAX_ROW_TOKENS = 512  # the longest that JGLUE's own runs have, those on MARC-ja
_PAIR = {"text_column": "sentence1", "pair_column": "sentence2"}
_COLUMNS: dict[FinetuneTask, dict[str, object]] = {
    "jnli": _PAIR,
    "jsts": {"task": "regression", **_PAIR},
    "jcommonsenseqa": {
        "task": "multiple_choice",
        "text_column": "question",
        "choice_columns": [f"choice{place}" for place in range(5)],
    },
    "marc_ja": {"text_column": "sentence"},
    "jcola": {"text_column": "sentence"},
}


@dataclass(frozen=True)
class Chosen:
    """What is fine-tuned on, and why a task is not."""

    tasks: list[TaskData]
    skipped: dict[str, str]


def choose_tasks(config: FinetuneConfig, jglue_dir: Path, any_content: bool) -> Chosen:
    """The tasks, their files checked.

    Raises:
        InputError: several processes, see `jglue_data.find_all`, or a task that is named has no training file.
    """
    if runtime.num_processes() > 1:
        raise InputError("jglue_finetuned: each run is a process of its own; start python recipes/evaluate.py once")
    known: tuple[FinetuneTask, ...] = get_args(FinetuneTask)
    present = [task for task in known if jglue_files.find_files(task, jglue_dir)]
    tasks, skipped = [], {}
    for data in jglue_data.find_all(jglue_dir, config.finetune_tasks or present or list(known), any_content):
        if "train" in data.sha256 or config.finetune_split_validation:
            tasks.append(data)
            continue
        reason = (
            f"no {jglue_files.FILES[data.task][1]} beside its validation file; put it there, or cut the validation "
            "file with finetune_split_validation: true"
        )
        if config.finetune_tasks:
            raise InputError(f"finetune_tasks: {data.task}: {reason}")
        skipped[data.task] = reason
        runtime.announce(f"{data.task} is skipped: {reason}")
    return Chosen(tasks, skipped)


def add_missing(
    results: dict,
    chosen: Chosen,
    config: FinetuneConfig,
    max_row_tokens: int,
    classify: Path,
    output_dir: Path,
) -> None:
    """Fine-tune the model that `results` are of wherever a run is not there yet, and add the scores of the tasks.

    `max_row_tokens` is what the model can read, `classify` is recipes/classify.py. Runs are in
    `output_dir/finetuned/TASK`; scores are of all that are there. The results are saved after each task.

    Raises:
        InputError: runs of other weights, data or settings are there, or one failed otherwise than by diverging.
        StoppedEarly: a run was stopped, with a checkpoint.
    """
    import torch

    torch.cuda.empty_cache()  # the runs have the GPU for themselves
    model = {key: results[key] for key in identity.SUMS}
    plans = []
    for data in chosen.tasks:
        settings = _settings(data, config, results["model"], min(max_row_tokens, MAX_ROW_TOKENS))
        folder = output_dir / FOLDER_NAME / data.task
        plans.append(Plan(data, folder, {**model, "data_sha256": data.sha256}, settings, config))
    for plan in plans:
        plan.refuse_others()
    skipped = dict(chosen.skipped)
    for plan in plans:
        for number in range(len(plan.runs)):
            plan.fine_tune(classify, number)
        found = finetuned.score_rows(plan.data.task, plan.runs_there())
        if not found:
            skipped[plan.data.task] = "each learning rate has a run that diverged; name lower ones"
        described = {**_described(plan.data, config), "max_row_tokens": plan.settings["max_row_tokens"]}
        rows = [{**row, **described, **identity.measured_with()} for row in found]
        others = [row for row in results.get("jglue_finetuned", []) if row["task"] != plan.data.task]
        results["jglue_finetuned"] = others + rows
        report.save(results, output_dir)
    scored = {row["task"] for row in results.get("jglue_finetuned", [])}
    results["jglue_finetuned_skipped"] = {task: why for task, why in skipped.items() if task not in scored}


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
        _refuse_another(self.folder / SUBJECT_NAME, self.subject)
        for run_dir in [*self.runs, *self._runs_done()]:
            settings = self.runs.get(run_dir, self.settings)
            _refuse_another(run_dir / CONFIG_NAME, _compared(run_dir, settings))

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
            parts = ([row for row in rows if row["split"] == name] for name in ("validation", "test"))
            pairs = [finetuned.pairs_of(self.data.task, part) for part in parts]
            results = json.loads((run_dir / RESULTS_NAME).read_text(encoding="utf-8"))
            found.append(FinetunedRun(*of, *pairs, results.get("num_cut", {}).get("test")))
        return sorted(found, key=lambda run: (run.learning_rate, run.seed))

    def _runs_done(self) -> list[Path]:
        return [run_dir for run_dir in self.folder.glob("lr*_seed*") if _is_done(run_dir)]


def _settings(data: TaskData, config: FinetuneConfig, model: str, max_row_tokens: int) -> dict[str, object]:
    """The keys of recipes/classify.py that are the same for all runs of a task."""
    files = jglue_files.find_files(data.task, data.folder.resolve())
    is_cut = "train" not in files
    return {
        "model": str(Path(model).resolve()) if Path(model).exists() else model,
        **_COLUMNS[data.task],
        "train_file": str(files["valid" if is_cut else "train"]),
        "test_file": None if is_cut else str(files["valid"]),
        "validation_share": DEFAULT_VALIDATION_SHARE,
        "max_train_rows": config.finetune_max_train_rows,
        "trainable": config.finetune_trainable,
        "max_row_tokens": max_row_tokens,
        "epochs": config.finetune_epochs,
        "per_device_train_batch_size": config.finetune_batch_size,
        "save_total_limit": 1,
    }


def _described(data: TaskData, config: FinetuneConfig) -> dict[str, object]:
    """What the figures of a task are of, for the results."""
    return {
        "scored": "validation file" if "train" in data.sha256 else "a fifth of the validation file",
        "data_version": data.version,
        "data_sha256": data.sha256,
        "epochs": config.finetune_epochs,
        "batch_size": config.finetune_batch_size,
        "trainable": config.finetune_trainable,
        "max_train_rows": config.finetune_max_train_rows,
    }


def _arguments(settings: Mapping[str, object]) -> list[str]:
    words = []
    for key, value in settings.items():
        if value is not None:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _is_done(run_dir: Path) -> bool:
    return (run_dir / RESULTS_NAME).is_file() or (run_dir / DIVERGED_NAME).is_file()


def _compared(run_dir: Path, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings that a run has to have; of one that is done no paths, for the subject says what it is of."""
    paths = ("model", "train_file", "test_file") if _is_done(run_dir) else ()
    return {key: value for key, value in settings.items() if key not in paths}


def _read(file: Path) -> dict:
    """A file of YAML, of which JSON is a part."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _refuse_another(file: Path, wanted: Mapping[str, object]) -> None:
    """Raise InputError if the values in a file are others than wanted."""
    found = _read(file) if file.is_file() else wanted
    if changed := [key for key, value in wanted.items() if found.get(key) != value]:
        key = changed[0]
        raise InputError(
            f"{file.parent}: fine-tuned with another {', '.join(changed)} ({found.get(key)!r:.60}, not "
            f"{wanted[key]!r:.60}); name another output_dir, or remove this folder"
        )
