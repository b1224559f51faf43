"""Write scores of benchmarks as text: the names of tasks and metrics, and values with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS

METRIC_NAMES = {
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy",
    "exact_match": "exact match",
    "f1": "F1",
    "mcc": "MCC",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
SHARES = ("acc", "balanced_acc", "exact_match", "f1")  # the other scores are correlations
WITHOUT_HITS = "without items in its training texts"


def score_title(task: str, metric: str) -> str:
    """Return the names of task and metric, such as `JNLI accuracy`; unknown ones as they are."""
    return f"{TASKS[task].title if task in TASKS else task} {METRIC_NAMES.get(metric, metric)}"


def score_text(metric: str, value: float | None) -> str:
    """Return a share in per cent, a correlation with three decimals, and an empty text for None."""
    return "" if value is None else f"{100 * value:.1f} %" if metric in SHARES else f"{value:.3f}"


def score_with_error(
    metric: str, value: float, standard_error: float | None, interval: Sequence[float] | None = None
) -> str:
    """Return a text such as `41.2 ± 1.0 %`; without a standard error `0.0 % (0.0 to 39.0 %)`, or the score alone."""
    text = score_text(metric, value)
    if standard_error is None:
        return f"{text} {error_text(metric, None, interval)}".rstrip()
    number, *unit = text.split(" ")
    return " ".join([number, "±", *score_text(metric, standard_error).split(" ")[:1], *unit])


def error_text(metric: str, standard_error: float | None, interval: Sequence[float] | None) -> str:
    """Return a text such as `1.0 %`; without a standard error the 95 % interval `(0.0 to 39.0 %)`, or an empty text."""
    if standard_error is not None or not interval:
        return score_text(metric, standard_error)
    low, high = (score_text(metric, value) for value in interval)
    return f"({low.removesuffix(' %')} to {high})"


def interval_of(row: object) -> list[float] | None:
    """Return the confidence interval of a row of results, or None where it has none that can be read."""
    found = row.get("interval") if isinstance(row, Mapping) else None
    is_whole = isinstance(found, list) and len(found) == 2 and all(isinstance(end, int | float) for end in found)
    return found if is_whole else None


def without_hits_text(metric: str, entry: Mapping) -> str:
    """Return the text of an entry of `without_hits`: the score of the `n` items that are in no training text."""
    left_out = f"{entry['num_left_out']:,.0f} {entry['left_out']} left out"
    if entry["value"] is None:
        return f"none is left, {left_out}"
    score = score_with_error(metric, entry["value"], entry["standard_error"] or None, interval_of(entry))
    return f"{score} (n {entry['n']:,.0f}, {left_out})"
