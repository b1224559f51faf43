"""Scores of models that were fine-tuned on JGLUE: the runs of a task become a mean and its deviation.

The learning rate is the one whose runs are best on held-out training rows; the rows that are scored have no say in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jpllm.evaluation import harness
from jpllm.evaluation.jglue import data, metrics
from jpllm.evaluation.jglue_data import Task

METRICS: dict[Task, tuple[str, ...]] = {  # the first one chooses the learning rate
    "jnli": ("acc",),
    "jsts": ("pearson", "spearman"),
    "jcommonsenseqa": ("acc",),
    "marc_ja": ("acc",),
    "jcola": ("acc", "mcc"),
}


@dataclass(frozen=True)
class FinetunedRun:
    """One fine-tuning.

    Args:
        validation: pairs of what is right and what was predicted, for the held-out training rows; None where the run
            diverged.
        test: those for the rows to score; None alike.
        num_cut: of the rows to score those that were longer than what the model was given; None where it is unknown.
        clusters: of each row to score the text that it is about, by default its own; see `standard_error`.
    """

    learning_rate: float
    seed: int
    validation: metrics.Pairs | None
    test: metrics.Pairs | None
    num_cut: int | None = None
    clusters: Sequence[Hashable] | None = None


def pairs_of(task: Task, predictions: Sequence[Mapping]) -> metrics.Pairs:
    """From rows with `label` and `predicted`: two numbers, two places of choices, or two indices of classes."""
    names = list(map(str, data.LABELS.get(task, ())))
    kind = float if task == "jsts" else names.index if names else int
    return [(kind(row["label"]), kind(row["predicted"])) for row in predictions]


def clusters_of(predictions: Sequence[Mapping]) -> list[str]:
    """Of rows with `text` and, of two sentences, `text_pair`: the text that each is about, as for prompts."""
    pairs = ({"sentence1": row["text"], "sentence2": row.get("text_pair", "")} for row in predictions)
    return list(map(data.text_key, pairs))


def best_learning_rate(task: Task, runs: Sequence[FinetunedRun]) -> float | None:
    """The one with the highest mean over its seeds on held-out training rows; the lowest of equal ones.

    None of whose runs diverged; None if there is no such learning rate.
    """
    score = metrics.SCORES[METRICS[task][0]]
    diverged = {run.learning_rate for run in runs if run.validation is None}
    by_rate: dict[float, list[float]] = {}
    for run in runs:
        if run.learning_rate not in diverged:
            by_rate.setdefault(run.learning_rate, []).append(score(run.validation))
    if not by_rate:
        return None
    return max(sorted(by_rate), key=lambda rate: np.mean(by_rate[rate]))


def score_rows(task: Task, runs: Sequence[FinetunedRun]) -> list[dict]:
    """One row per metric, as JSON holds it: shares and correlations, not per cent.

    `value` is the mean over the seeds at the chosen learning rate, `standard_deviation` that between them (None with
    one seed), `standard_error` that of a single run, from its n rows and the texts that they are about. `chance` and
    `majority` are those of `jpllm.evaluation.harness`; `is_constant` says that no run tells the rows apart. `runs` has
    all learning rates, and None for the scores of runs that diverged. No rows where none can be chosen.
    """
    rate = best_learning_rate(task, runs)
    if rate is None:
        return []
    chosen = [run for run in runs if run.learning_rate == rate]
    rows = []
    for metric in METRICS[task]:
        score = metrics.SCORES[metric]
        scored = [harness.score_row(task, metric, score(run.test), run.test, run.clusters) for run in chosen]
        values, errors = ([row[key] for row in scored] for key in ("value", "standard_error"))
        rows.append(
            {
                "task": task,
                "metric": metric,
                "value": float(np.mean(values)),
                "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "standard_error": None if None in errors else float(np.mean(errors)),
                "chance": scored[0]["chance"],
                "majority": scored[0]["majority"],
                "is_constant": all(row["is_constant"] for row in scored),
                "n": len(chosen[0].test),
                "num_cut": chosen[0].num_cut,
                "learning_rate": rate,
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
        )
    return rows
