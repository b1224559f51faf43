"""How far a score would be off on other items, given that some of them are about the same text."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from jpllm.evaluation.jglue import metrics

NUM_RESAMPLES = 1000


def standard_error(metric: str, pairs: metrics.Pairs, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Standard error of a score; None for a single cluster.

    Items of one cluster, such as the questions on one paragraph, may be right or wrong together; `clusters` says of
    each pair which one it is in, by default its own. Of a mean the error comes from the residuals, added up in each
    cluster (Liang and Zeger 1986, https://doi.org/10.1093/biomet/73.1.13), else from 1,000 bootstrap samples of
    clusters.
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
        sums = np.bincount(places, values - values.mean(), num_clusters)
        return float(np.sqrt(num_clusters / (num_clusters - 1) * (sums**2).sum()) / len(pairs))
    members = [np.flatnonzero(places == number) for number in range(num_clusters)]
    draws = np.random.default_rng(0).integers(0, num_clusters, (NUM_RESAMPLES, num_clusters))
    samples = (np.concatenate([members[number] for number in draw]) for draw in draws)
    return float(np.std([score([pairs[place] for place in sample]) for sample in samples], ddof=1))
