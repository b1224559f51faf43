"""A score as a row of results: with its standard error, and with what chance or a constant answer would score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.scores import SHARES

NUM_RESAMPLES = 1000
_NORMAL_QUANTILE = 1.959964  # of 0.975
CONSTANT_SHARE = 0.95
_CHANCE_IS_A_SHARE = ("acc", "balanced_acc")


def standard_error(metric: str, pairs: metrics.Pairs, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Return the standard error of a score; None where it cannot be estimated.

    That is so of a single cluster, and where nothing varies, as when all answers are right: `share_interval` holds
    there too.

    Items of one cluster, such as the questions on one paragraph, may be right or wrong together; `clusters` names the
    cluster of each pair, by default one of its own. The error of a mean comes from the residuals, added up in each
    cluster (Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13); that of any other score comes from 1,000
    bootstrap samples of clusters.
    """
    score = metrics.SCORES[metric]
    names = list(range(len(pairs)) if clusters is None else clusters)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    places = np.array([numbers[name] for name in names], dtype=np.int64)
    num_clusters = len(numbers)
    if num_clusters < 2:
        return None
    if metric in metrics.MEANS:
        values = np.array([score([pair]) for pair in pairs])
        if np.ptp(values) == 0:
            return None
        sums = np.bincount(places, values - values.mean(), num_clusters)
        return float(np.sqrt(num_clusters / (num_clusters - 1) * (sums**2).sum()) / len(pairs))
    members = [np.flatnonzero(places == number) for number in range(num_clusters)]
    draws = np.random.default_rng(0).integers(0, num_clusters, (NUM_RESAMPLES, num_clusters))
    samples = (np.concatenate([members[number] for number in draw]) for draw in draws)
    return float(np.std([score([pairs[place] for place in sample]) for sample in samples], ddof=1)) or None


def share_interval(value: float, error: float | None, num_items: int, num_clusters: int) -> list[float]:
    """Return the 95 % confidence interval of a share, which is never a point, not even at 0 and 1.

    It is that of Wilson 1927 (https://doi.org/10.2307/2276774) for as many independent items as the standard error
    stands for, at most `num_items`; without a standard error these are the clusters.
    """
    number = min(num_items, value * (1 - value) / error**2 + 1) if error else num_clusters
    weight = _NORMAL_QUANTILE**2 / number
    middle = (value + weight / 2) / (1 + weight)
    half = (weight * (value * (1 - value) + weight / 4)) ** 0.5 / (1 + weight)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def interval(
    metric: str, value: float, error: float | None, num_items: int, clusters: Sequence[Hashable] | None
) -> list[float] | None:
    """Return the `share_interval` of a score, or None for a correlation; `clusters` as for `standard_error`."""
    num_clusters = num_items if clusters is None else len(set(clusters))
    return share_interval(value, error, num_items, num_clusters) if metric in SHARES else None


def score_row(
    task: str, metric: str, value: float, pairs: metrics.Pairs, clusters: Sequence[Hashable] | None = None
) -> dict:
    """Return a score with its standard error (for `clusters` see there), its interval and its baselines.

    `chance` is the score of guessing, `majority` that of always giving the most frequent right answer of these items.
    `commonest_answer` is the share of the answer that was given most often; from 0.95 on the row `is_constant`.
    """
    most_frequent = Counter(gold[0] if isinstance(gold, tuple) else gold for gold, _ in pairs).most_common(1)[0][0]
    error = standard_error(metric, pairs, clusters)
    share = Counter(_comparable(given) for _, given in pairs).most_common(1)[0][1] / len(pairs)
    return {
        "metric": metric,
        "value": float(value),
        "standard_error": error,
        "interval": interval(metric, float(value), error, len(pairs), clusters),
        "chance": 1 / TASKS[task].num_choices if metric in _CHANCE_IS_A_SHARE else 0.0,
        "majority": metrics.SCORES[metric]([(gold, most_frequent) for gold, _ in pairs]),
        "commonest_answer": share,
        "is_constant": share >= CONSTANT_SHARE,
    }


def _comparable(given: object) -> object:
    return metrics.comparable(given) if isinstance(given, str) else given
