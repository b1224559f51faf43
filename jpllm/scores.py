"""Scores of benchmarks as they are shown: what tasks and metrics are called, and how a score is written."""

from __future__ import annotations

from collections.abc import Mapping

TASK_NAMES = {
    "jcommonsenseqa": "JCommonsenseQA",
    "jnli": "JNLI",
    "jsquad": "JSQuAD",
    "jsts": "JSTS",
    "marc_ja": "MARC-ja",
    "jcola": "JCoLA",
    "jaqket": "JAQKET",
}
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
    """`JNLI accuracy`."""
    return f"{TASK_NAMES.get(task, task)} {METRIC_NAMES.get(metric, metric)}"


def score_text(metric: str, value: float | None) -> str:
    """A share in per cent, a correlation as it is, and nothing of nothing."""
    return "" if value is None else f"{100 * value:.1f} %" if metric in SHARES else f"{value:.3f}"


def score_with_error(metric: str, value: float, standard_error: float | None) -> str:
    """`41.2 ± 1.0 %`, or the score alone where there is no standard error."""
    text = score_text(metric, value)
    if standard_error is None:
        return text
    number, *unit = text.split(" ")
    return " ".join([number, "±", *score_text(metric, standard_error).split(" ")[:1], *unit])


def without_hits_text(metric: str, entry: Mapping) -> str:
    """An entry of `without_hits`: a score of the items that stand in no training text, `n` of them."""
    left_out = f"{entry['num_left_out']:,.0f} {entry['left_out']} left out"
    if entry["value"] is None:
        return f"none is left, {left_out}"
    return f"{score_with_error(metric, entry['value'], entry['standard_error'])} (n {entry['n']:,.0f}, {left_out})"
