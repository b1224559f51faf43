"""Fine-tuning on JGLUE: a run of recipes/classify.py for each task, learning rate and seed.

Each run is a process and a folder of its own, so its memory is freed at its end, an interrupted run goes on, and one
that is finished or has diverged is not repeated. It learns from the training file without a held-out share, which
chooses the learning rate; each run scores the validation file once, at its end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from jpllm import runtime, whole_files
from jpllm.config.settings import option
from jpllm.data.labels.rows import DEFAULT_VALIDATION_SHARE
from jpllm.evaluation import report
from jpllm.evaluation.jglue import files, finetuning
from jpllm.evaluation.jglue.files import JglueConfig, TaskData
from jpllm.evaluation.jglue.finetuning import FINETUNED_TASKS, FinetunedRun, FinetunedTaskName
from jpllm.evaluation.jglue.lm_eval_tasks.items import find_files
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.evaluation.results import SUMS, measured_with
from jpllm.evaluation.texts import ReadingConfig
from jpllm.models.classifier import Trainable
from jpllm.processes import END_SIGNALS, environment_of_child, is_heeded
from jpllm.runtime import EXIT_STOPPED_EARLY, InputError, StoppedEarly
from jpllm.tracking.metrics import read_rows
from jpllm.tracking.runs import CONFIG_NAME, MODEL_NAME
from jpllm.training.run_folder import CHECKPOINTS_NAME, DIVERGED_NAME, PREDICTIONS_NAME, RESULTS_NAME

FOLDER_NAME = "finetuned"
SUBJECT_NAME = "of.json"  # what model, tokenizer and data the runs are of
MAX_ROW_TOKENS = 512  # the longest that JGLUE's own runs have, those on MARC-ja
_KEYS_OF_BOTH_PARTS = ("jglue_dir", "any_jglue_content")  # they act on the parts jglue and jglue_finetuned
_HANDED_ON = (signal.SIGINT, *END_SIGNALS)
_EXITS_WITHOUT_CHECKPOINT = (*(128 + number for number in _HANDED_ON), *(-number for number in _HANDED_ON))
_OF_A_LAUNCHER = re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+")
_NOT_DECIDING = (
    *("model", "train_file", "test_file"),
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "activation_checkpointing",
)


@dataclass
class FinetuneConfig:
    """Fine-tuning, for the part jglue_finetuned"""

    finetune_tasks: list[FinetunedTaskName] | None = option(
        None, "Tasks to fine-tune on; by default those whose training files are in jglue_dir."
    )
    finetune_learning_rates: list[float] = option(
        default_factory=lambda: [2e-5, 5e-5],
        help="Peak learning rates; the one that is best on held-out training rows is reported.",
        above=0,
    )
    finetune_seeds: list[int] = option(
        default_factory=lambda: [0, 1, 2], help="Seeds of head, order and dropout; a run for each of them.", minimum=0
    )
    finetune_epochs: float = option(4.0, "Passes over the training rows.", above=0)
    finetune_batch_size: int = option(32, "Rows that a step learns from; a question counts as one.", minimum=1)
    finetune_gradient_accumulation_steps: int = option(
        1, "Forward passes that share the rows of a step: the same step in less memory.", minimum=1
    )
    finetune_activation_checkpointing: bool = option(
        False, "Recompute activations in the backward pass: less memory, about a third more time."
    )
    finetune_optimizer: Literal["adamw", "adamw_8bit"] = option(
        "adamw", "adamw_8bit keeps AdamW's moments in a quarter of the memory (GPU)."
    )
    finetune_trainable: Trainable = option("all", "What learns: all, or the head with or without the last layer.")
    finetune_max_train_rows: int | None = option(
        None, "Train on so many of the rows, chosen by chance: for a quick try.", minimum=1
    )
    finetune_split_validation: bool = option(
        False,
        "Where a training file is absent, cut the validation file into training, held-out and test rows (7 : 1 : 2).",
    )
    finetune_keep_models: bool = option(False, "Keep the model of each run beside its figures and predictions.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for no run or a run named twice, and for forward passes with different numbers of rows."""
        for key in ("finetune_tasks", "finetune_learning_rates", "finetune_seeds"):
            values = getattr(self, key)
            if values is not None and (not values or len(set(values)) < len(values)):
                yield key, f"{values}: name at least one, and each once"
        rows, passes = self.finetune_batch_size, self.finetune_gradient_accumulation_steps
        if rows % passes:
            yield (
                "finetune_gradient_accumulation_steps",
                f"{passes} passes cannot share the {rows} rows of finetune_batch_size equally; name a divisor",
            )


def problems_of_keys(
    parts: set[str],
    output_dir: Path | None,
    reading: ReadingConfig,
    jglue: JglueConfig,
    finetuning: FinetuneConfig,
) -> Iterator[str]:
    """Yield what is wrong with the keys of recipes/evaluate.py, given the parts that are to be measured.

    A problem is a key that one of the parts lacks, or one for JGLUE that acts on none of them.
    """
    if {"perplexity", "forgetting"} & parts and not reading.texts:
        yield "texts: name at least one text, or choose --parts samples"
    if {"jglue", "jglue_finetuned"} & parts and not jglue.jglue_dir:
        yield "jglue_dir: name the folder with the official files; docs/evaluation.md says where they are"
    if jglue.contamination and not output_dir:
        yield "contamination: the answers that it needs are in output_dir; name that too"
    for keys, part in ((jglue, "jglue"), (finetuning, "jglue_finetuned")):
        default = vars(type(keys)())
        for key, value in vars(keys).items():
            acts_on = {"jglue", "jglue_finetuned"} if key in _KEYS_OF_BOTH_PARTS else {part}
            if value != default[key] and not acts_on & parts:
                yield f"{key}: acts only on the part {part}; add it to parts, or remove this"


@dataclass(frozen=True)
class FinetuningTasks:
    """The tasks to fine-tune on, and for each task that is skipped the reason."""

    tasks: list[TaskData]
    skipped: dict[str, str]


def choose_tasks(config: FinetuneConfig, jglue_dir: Path, any_content: bool) -> FinetuningTasks:
    """Return the tasks to fine-tune on, with their files checked.

    Raises:
        InputError: several processes are running, a task that is named has no training file, or `files.find_all`
            refuses the files.
    """
    if runtime.num_processes() > 1:
        raise InputError("jglue_finetuned: each run is a process of its own; start python recipes/evaluate.py once")
    present = [task for task in FINETUNED_TASKS if find_files(task, jglue_dir)]
    tasks, skipped = [], {}
    for data in files.find_all(jglue_dir, config.finetune_tasks or present or FINETUNED_TASKS, any_content):
        if "train" in data.sha256 or config.finetune_split_validation:
            tasks.append(data)
            continue
        reason = (
            f"no {TASKS[data.task].files['train']} beside its validation file; put it there, or cut the validation "
            "file with finetune_split_validation: true"
        )
        if config.finetune_tasks:
            raise InputError(f"finetune_tasks: {data.task}: {reason}")
        skipped[data.task] = reason
        runtime.announce(f"{data.task} is skipped: {reason}")
    return FinetuningTasks(tasks, skipped)


def add_missing(
    results: dict,
    chosen: FinetuningTasks,
    config: FinetuneConfig,
    max_row_tokens: int,
    classify: Path,
    output_dir: Path,
) -> None:
    """Do the fine-tuning runs that are missing for the model of `results`, and add the scores of all tasks to it.

    `max_row_tokens` is the number of tokens that the model can read, `classify` is recipes/classify.py. Runs are in
    `output_dir/finetuned/TASK`; scores are of all runs there. The results are saved after each task.

    Raises:
        InputError: there are runs of other weights, data or settings, or a run failed without diverging.
        StoppedEarly: a run was stopped, with a checkpoint.
    """
    import torch

    torch.cuda.empty_cache()  # the runs have the GPU for themselves
    model = {key: results[key] for key in SUMS}
    all_runs = []
    for data in chosen.tasks:
        settings = _settings(data, config, results["model"], min(max_row_tokens, MAX_ROW_TOKENS))
        folder = output_dir / FOLDER_NAME / data.task
        all_runs.append(TaskRuns(data, folder, {**model, "data_sha256": data.sha256}, settings, config))
    for runs in all_runs:
        runs.refuse_others()
    skipped = dict(chosen.skipped)
    for runs in all_runs:
        for number in range(len(runs.wanted)):
            runs.fine_tune(classify, number)
        task = runs.data.task
        found = finetuning.score_rows(task, runs.done())
        if not found:
            skipped[task] = "each learning rate has a run that diverged; name lower ones"
        described = {**_described(runs.data, config), "max_row_tokens": runs.settings["max_row_tokens"]}
        rows = [{**row, **described, **measured_with()} for row in found]
        others = [row for row in results.get("jglue_finetuned", []) if row["task"] != task]
        results["jglue_finetuned"] = others + rows
        report.save(results, output_dir)
    scored = {row["task"] for row in results.get("jglue_finetuned", [])}
    results["jglue_finetuned_skipped"] = {task: why for task, why in skipped.items() if task not in scored}


@dataclass(frozen=True)
class TaskRuns:
    """The fine-tuning runs of a task: those that are done, and those that are wanted.

    Attributes:
        folder: the folder of the task, in which each run has a folder.
        subject: checksums of the model, tokenizer and data of the runs.
        settings: keys of recipes/classify.py that all runs share.
    """

    data: TaskData
    folder: Path
    subject: dict[str, object]
    settings: dict[str, object]
    config: FinetuneConfig

    @property
    def wanted(self) -> dict[Path, dict[str, object]]:
        """Folder and settings of each run that is wanted."""
        return {
            self.folder / f"lr{rate:g}_seed{seed}": {**self.settings, "learning_rate": rate, "seed": seed}
            for rate in self.config.finetune_learning_rates
            for seed in self.config.finetune_seeds
        }

    def refuse_others(self) -> None:
        """Raise InputError if there are runs of another model, tokenizer or data, or with other settings."""
        _refuse_another(self.folder, _read(self.folder / SUBJECT_NAME), self.subject)
        for run_dir in [*self.wanted, *self._done_folders()]:
            there, wanted = _read(run_dir / CONFIG_NAME), self.wanted.get(run_dir, self.settings)
            if there and _is_done(run_dir):
                there, wanted = _deciding(there), _deciding(wanted)
            _refuse_another(run_dir, there, wanted)

    def fine_tune(self, classify: Path, number: int) -> None:
        """Do the run with this number, unless it is done already."""
        run_dir, settings = list(self.wanted.items())[number]
        rate, seed = settings["learning_rate"], settings["seed"]
        if not _is_done(run_dir):
            what = f"run {number + 1} of {len(self.wanted)}: learning rate {rate:g}, seed {seed}"
            runtime.announce(f"{self.data.task}, {what}")
            self.folder.mkdir(parents=True, exist_ok=True)
            whole_files.write_whole(self.folder / SUBJECT_NAME, json.dumps(self.subject, indent=2) + "\n")
            words = _arguments({**settings, "output_dir": run_dir})
            try:
                run_recipe([sys.executable, str(classify), *words], run_dir)
            except InputError:
                if not (run_dir / DIVERGED_NAME).is_file():
                    raise
                runtime.announce(f"{self.data.task}, {what}: diverged; this learning rate is not chosen")
        for name in () if self.config.finetune_keep_models else (MODEL_NAME, CHECKPOINTS_NAME):
            shutil.rmtree(run_dir / name, ignore_errors=True)

    def done(self) -> list[FinetunedRun]:
        """Return all runs, also those of earlier commands, by learning rate and seed."""
        found = []
        for run_dir in self._done_folders():
            settings = _read(run_dir / CONFIG_NAME)
            of = settings["learning_rate"], settings["seed"]
            if not (run_dir / RESULTS_NAME).is_file():
                found.append(FinetunedRun(*of, None, None))
                continue
            rows = read_rows(run_dir / PREDICTIONS_NAME)
            held_out, scored = ([row for row in rows if row["split"] == name] for name in ("validation", "test"))
            pairs = [finetuning.pairs_of(self.data.task, part) for part in (held_out, scored)]
            results = json.loads((run_dir / RESULTS_NAME).read_text(encoding="utf-8"))
            num_cut = results.get("num_cut", {}).get("test")
            found.append(FinetunedRun(*of, *pairs, num_cut, finetuning.clusters_of(scored)))
        return sorted(found, key=lambda run: (run.learning_rate, run.seed))

    def _done_folders(self) -> list[Path]:
        return [run_dir for run_dir in self.folder.glob("lr*_seed*") if _is_done(run_dir)]


def run_recipe(command: Sequence[str], run_dir: Path) -> None:
    """Wait for a command that works in `run_dir`; what it prints goes to stderr.

    SIGTERM, SIGHUP and Ctrl-C are handed on to it, and it stops when this process is gone. It is in a session of its
    own, so that the terminal does not send it Ctrl-C a second time. It is no process of the launcher (torchrun) that
    started this one, whose meeting point it would else take for its own.

    Raises:
        StoppedEarly: it was stopped with a checkpoint.
        KeyboardInterrupt: it was stopped before it had one.
        InputError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if not _OF_A_LAUNCHER.fullmatch(name)}
    environment |= environment_of_child()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True, env=environment
    ) as process:

        def hand_on(number: int, frame: object) -> None:
            process.send_signal(number)

        handlers = {number: signal.signal(number, hand_on) for number in _HANDED_ON if is_heeded(number)}
        try:
            code = process.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if code == EXIT_STOPPED_EARLY:
        raise StoppedEarly(f"{run_dir}: stopped; the same command goes on with it")
    if code in _EXITS_WITHOUT_CHECKPOINT:
        raise KeyboardInterrupt
    if code != 0:
        raise InputError(f"{run_dir}: {Path(command[1]).name} ended with exit code {code}; it says above why")


def _settings(data: TaskData, config: FinetuneConfig, model: str, max_row_tokens: int) -> dict[str, object]:
    """Return the keys of recipes/classify.py that all runs of a task share."""
    found = find_files(data.task, data.folder.resolve())
    is_cut = "train" not in found
    return {
        "model": str(Path(model).resolve()) if Path(model).exists() else model,
        **finetuning.classify_keys(data.task),
        "train_file": str(found["valid" if is_cut else "train"]),
        "test_file": None if is_cut else str(found["valid"]),
        "validation_share": DEFAULT_VALIDATION_SHARE,
        "max_train_rows": config.finetune_max_train_rows,
        "trainable": config.finetune_trainable,
        "max_row_tokens": max_row_tokens,
        "epochs": config.finetune_epochs,
        "per_device_train_batch_size": config.finetune_batch_size // config.finetune_gradient_accumulation_steps,
        "gradient_accumulation_steps": config.finetune_gradient_accumulation_steps,
        "activation_checkpointing": config.finetune_activation_checkpointing,
        "optimizer": config.finetune_optimizer,
        "save_total_limit": 1,
    }


def _described(data: TaskData, config: FinetuneConfig) -> dict[str, object]:
    """Return the data and settings that the scores of a task are of, for the results."""
    return {
        "scored": "validation file" if "train" in data.sha256 else "a fifth of the validation file",
        "data_version": data.version,
        "data_sha256": data.sha256,
        "epochs": config.finetune_epochs,
        "batch_size": config.finetune_batch_size,
        "optimizer": config.finetune_optimizer,
        "trainable": config.finetune_trainable,
        "max_train_rows": config.finetune_max_train_rows,
    }


def _arguments(settings: Mapping[str, object]) -> list[str]:
    """Return settings as words of a command line, without those that are None."""
    words = []
    for key, value in settings.items():
        if value is not None:
            words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _is_done(run_dir: Path) -> bool:
    return (run_dir / RESULTS_NAME).is_file() or (run_dir / DIVERGED_NAME).is_file()


def _deciding(settings: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings that decide the figures of a finished run.

    These are no paths (the subject says what the run is of), and not how the batch is divided to fit the memory.
    """
    rows = settings.get("per_device_train_batch_size", 1) * settings.get("gradient_accumulation_steps", 1)
    return {"batch_size": rows, **{key: value for key, value in settings.items() if key not in _NOT_DECIDING}}


def _read(file: Path) -> dict:
    """Read a YAML or JSON file; an absent or empty one is {}."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}


def _refuse_another(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Raise InputError if `found` has values, and they differ from the wanted ones."""
    if found and (changed := [key for key, value in wanted.items() if found.get(key) != value]):
        key = changed[0]
        raise InputError(
            f"{folder}: fine-tuned with another {', '.join(changed)} ({found.get(key)!r:.60}, not "
            f"{wanted[key]!r:.60}); name another output_dir, or remove this folder"
        )
