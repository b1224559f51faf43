"""Fine-tuning on JGLUE: a run of recipes/classify.py for each task, learning rate and seed.

Each run is a process and a folder of its own, so its memory is given back, an interrupted one goes on, and one that is
finished or has diverged is not repeated. It learns from the training file but for a held-out share, which chooses the
learning rate; the validation file is scored once by each run, at its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from jpllm import runtime
from jpllm.data.labels import DEFAULT_VALIDATION_SHARE
from jpllm.evaluation import finetuned, identity, jglue_data, report
from jpllm.evaluation.jglue import data as jglue_files
from jpllm.evaluation.jglue_data import TaskData
from jpllm.runtime import InputError
from jpllm.training.jglue_finetuning_arguments import FinetuneConfig, FinetuneTask
from jpllm.training.jglue_finetuning_runs import Plan

FOLDER_NAME = "finetuned"
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
        "per_device_train_batch_size": config.finetune_batch_size // config.finetune_gradient_accumulation_steps,
        "gradient_accumulation_steps": config.finetune_gradient_accumulation_steps,
        "activation_checkpointing": config.finetune_activation_checkpointing,
        "optimizer": config.finetune_optimizer,
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
        "optimizer": config.finetune_optimizer,
        "trainable": config.finetune_trainable,
        "max_train_rows": config.finetune_max_train_rows,
    }
