"""Standard errors against known formulas, and against scores of many independent samples."""

import numpy as np
import pytest

from jpllm.evaluation.jglue import metrics
from jpllm.evaluation.standard_error import standard_error


def test_of_a_share():
    pairs = [(0, 0)] * 30 + [(0, 1)] * 10
    assert standard_error("acc", pairs) == pytest.approx(np.std([1] * 30 + [0] * 10, ddof=1) / 40**0.5)
    assert standard_error("acc", pairs[:1]) is None


def test_of_a_correlation():
    """Of 400 pairs with correlation r about (1 − r²) / √n."""
    rng = np.random.default_rng(1)
    gold = rng.normal(size=400)
    pairs = list(zip(gold.tolist(), (gold + rng.normal(size=400)).tolist(), strict=True))
    r = metrics.pearson(pairs)
    assert standard_error("pearson", pairs) == pytest.approx((1 - r**2) / 20, rel=0.2)
    assert standard_error("pearson", pairs[:1]) is None


@pytest.mark.parametrize("metric", ["acc", "balanced_acc"])
def test_items_that_are_there_twice_tell_nothing_more(metric):
    """Each of 300 answers twice has the error of 300, not the smaller one of 600; the order does not matter."""
    rng = np.random.default_rng(0)
    pairs = list(zip(rng.integers(0, 3, 300).tolist(), rng.integers(0, 3, 300).tolist(), strict=True))
    once = standard_error(metric, pairs)
    assert standard_error(metric, pairs * 2, [*range(300)] * 2) == pytest.approx(once, rel=1e-9)
    assert standard_error(metric, pairs * 2) == pytest.approx(once / 2**0.5, rel=0.1)
    assert standard_error(metric, pairs * 2, ["one"] * 600) is None


def test_of_questions_on_paragraphs():
    """The deviation of the accuracy over many drawings of paragraphs of one to seven questions, alike in difficulty."""
    rng = np.random.default_rng(0)
    values, errors, naive = [], [], []
    for _ in range(300):
        sizes = rng.integers(1, 8, 100)
        chances = rng.uniform(size=100)
        right = [rng.uniform(size=size) < chance for size, chance in zip(sizes, chances, strict=True)]
        pairs = [(1, int(one)) for paragraph in right for one in paragraph]
        clusters = np.repeat(np.arange(100), sizes).tolist()
        values.append(metrics.accuracy(pairs))
        errors.append(standard_error("acc", pairs, clusters))
        naive.append(standard_error("acc", pairs))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
    assert np.mean(naive) < 0.8 * np.std(values)
