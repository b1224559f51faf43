"""Standard errors against known formulas, and against scores of many independent samples."""

import numpy as np
import pytest

from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.score_rows import share_interval, standard_error


def test_of_a_share():
    pairs = [(0, 0)] * 30 + [(0, 1)] * 10
    assert standard_error("acc", pairs) == pytest.approx(np.std([1] * 30 + [0] * 10, ddof=1) / 40**0.5)
    assert standard_error("acc", pairs[:1]) is None


def test_is_that_of_the_harness():
    """Its standard error of a mean is from the deviation with n − 1."""
    harness = pytest.importorskip("lm_eval.api.metrics")
    pairs = [(("海",), "海"), (("川", "大きな川"), "大川"), (("山",), "谷"), (("空",), "空の上")]
    for metric in ("exact_match", "f1"):
        values = [metrics.SCORES[metric]([pair]) for pair in pairs]
        assert standard_error(metric, pairs) == pytest.approx(harness.mean_stderr(values))


def test_of_clusters_is_that_of_a_regression_on_a_constant():
    """The sandwich (XᵀX)⁻¹ · Σ Xᵀuuᵀ X · (XᵀX)⁻¹, whose middle sums over the clusters g, times
    G / (G − 1) · (N − 1) / (N − K), as statistics packages report it for least squares.
    """
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 25, 90).tolist()
    right = rng.random(90) < np.array([rng.random(25)[name] for name in clusters])
    pairs = [(1, int(one)) for one in right]
    x, y = np.ones((90, 1)), right.astype(float)
    bread = np.linalg.inv(x.T @ x)
    residuals = y - x @ (bread @ x.T @ y)
    middle = np.zeros((1, 1))
    for name in set(clusters):
        own = np.array(clusters) == name
        score = x[own].T @ residuals[own]
        middle += np.outer(score, score)
    num_clusters, num_rows, num_parameters = len(set(clusters)), 90, 1
    correction = num_clusters / (num_clusters - 1) * (num_rows - 1) / (num_rows - num_parameters)
    expected = np.sqrt(correction * (bread @ middle @ bread)[0, 0])
    assert standard_error("acc", pairs, clusters) == pytest.approx(expected, rel=1e-12)


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


@pytest.mark.parametrize(
    ("right", "n", "expected"),
    [(0, 6, (0.0, 0.3903)), (10, 10, (0.7225, 1.0)), (3, 4, (0.3006, 0.9544)), (40, 100, (0.3094, 0.4980))],
)
def test_interval_of_a_share(right, n, expected):
    """Of independent items it is Wilson's own, as in tables; items that come in equal pairs count as half as many."""
    pairs = [(0, 0)] * right + [(0, 1)] * (n - right)
    error = standard_error("acc", pairs)
    assert (error is None) == (right in (0, n))
    assert share_interval(right / n, error, n, n) == pytest.approx(expected, abs=6e-5)
    twice = standard_error("acc", pairs * 2, [*range(n)] * 2)
    assert share_interval(right / n, twice, 2 * n, n) == pytest.approx(expected, abs=6e-5)
