"""Scores of models that were fine-tuned on JGLUE: the runs of a task become a mean and a standard deviation.

The learning rate is the one whose runs are best on held-out training rows; the rows that are scored have no say in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.lm_eval_tasks.items import joined_texts
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.evaluation.jglue.score_rows import interval, score_row

# In the order in which they are fine-tuned on: pairs of sentences first.
FINETUNED_TASKS = sorted(
    (name for name, task in TASKS.items() if task.finetuning_metrics),
    key=lambda name: len(TASKS[name].text_columns),
    reverse=True,
)
if TYPE_CHECKING:
    FinetunedTaskName = str
else:
    FinetunedTaskName = Literal[tuple(FINETUNED_TASKS)]


@dataclass(frozen=True)
class FinetunedRun:
    """The predictions of one fine-tuning run.

    Args:
        validation: pairs of what is right and what was predicted, for the held-out training rows; None where the run
            diverged.
        test: such pairs for the rows to score; None where the run diverged.
        num_cut: how many rows to score were longer than what the model was given; None where it is unknown.
        clusters: the text that each row to score is about, by default one of its own; see `standard_error`.
    """

    learning_rate: float
    seed: int
    validation: metrics.Pairs | None
    test: metrics.Pairs | None
    num_cut: int | None = None
    clusters: Sequence[Hashable] | None = None


def classify_keys(task: str) -> dict[str, object]:
    """Return the keys of recipes/classify.py that say what it learns from the official files of a task."""
    row = TASKS[task]
    keys: dict[str, object] = dict(zip(("text_column", "pair_column"), row.text_columns, strict=False))
    if row.kind == "choice":
        keys |= {"task": "multiple_choice", "choice_columns": list(row.choice_columns)}
    elif row.kind == "similarity":
        keys |= {"task": "regression"}
    return keys


def pairs_of(task: str, predictions: Sequence[Mapping]) -> metrics.Pairs:
    """Return pairs from rows with `label` and `predicted`: two numbers, two places of choices, or two class indices."""
    names = list(map(str, TASKS[task].labels))
    convert = float if TASKS[task].kind == "similarity" else names.index if names else int
    return [(convert(row["label"]), convert(row["predicted"])) for row in predictions]


def clusters_of(predictions: Sequence[Mapping]) -> list[str]:
    """Return the text that each row is about, from its `text` and, where there is one, its `text_pair`."""
    return [joined_texts([row["text"], row.get("text_pair", "")]) for row in predictions]


def best_learning_rate(task: str, runs: Sequence[FinetunedRun]) -> float | None:
    """Return the learning rate with the highest mean score on held-out training rows; of equals the lowest.

    A learning rate of which a run diverged is left out; None is returned where that leaves none.
    """
    score = metrics.SCORES[TASKS[task].finetuning_metrics[0]]
    diverged = {run.learning_rate for run in runs if run.validation is None}
    by_rate: dict[float, list[float]] = {}
    for run in runs:
        if run.validation is not None and run.learning_rate not in diverged:
            by_rate.setdefault(run.learning_rate, []).append(score(run.validation))
    if not by_rate:
        return None
    return max(sorted(by_rate), key=lambda rate: np.mean(by_rate[rate]))


def score_rows(task: str, runs: Sequence[FinetunedRun]) -> list[dict]:
    """Return one row per metric, as JSON holds it: shares and correlations, not per cent.

    `value` is the mean over the seeds at the chosen learning rate, `standard_deviation` that between them (None with
    one seed), `standard_error` and `interval` those of a single run, from its n rows and the texts that they are
    about. `chance` and `majority` are explained at `score_row`; `is_constant` means that every run gives nearly always
    one answer. `runs` lists all learning rates, with None for the scores of runs that diverged. The list is empty where
    no learning rate can be chosen.
    """
    rate = best_learning_rate(task, runs)
    if rate is None:
        return []
    chosen = [run for run in runs if run.learning_rate == rate]
    return [_score_row_of_runs(task, metric, chosen, runs) for metric in TASKS[task].finetuning_metrics]


def _score_row_of_runs(task: str, metric: str, chosen: Sequence[FinetunedRun], runs: Sequence[FinetunedRun]) -> dict:
    """Return the row of one metric; `chosen` are the runs at the chosen learning rate, `runs` those at all."""
    score = metrics.SCORES[metric]
    tests = [run.test for run in chosen if run.test is not None]
    assert len(tests) == len(chosen), "a learning rate of which a run diverged is never chosen"
    scored = [score_row(task, metric, score(test), test, run.clusters) for run, test in zip(chosen, tests, strict=True)]
    values, errors = ([row[key] for row in scored] for key in ("value", "standard_error"))
    value, error = float(np.mean(values)), None if None in errors else float(np.mean(errors))
    return {
        "task": task,
        "metric": metric,
        "value": value,
        "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "standard_error": error,
        "interval": interval(metric, value, error, len(tests[0]), chosen[0].clusters),
        "chance": scored[0]["chance"],
        "majority": scored[0]["majority"],
        "is_constant": all(row["is_constant"] for row in scored),
        "n": len(tests[0]),
        "num_cut": chosen[0].num_cut,
        "learning_rate": chosen[0].learning_rate,
        "num_seeds": len(chosen),
        "runs": [
            {
                "learning_rate": run.learning_rate,
                "seed": run.seed,
                "validation": None if run.validation is None else score(run.validation),
                "value": None if run.test is None else score(run.test),
            }
            for run in runs
        ],
    }
