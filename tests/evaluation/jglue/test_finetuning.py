"""Runs of a fine-tuning become a mean: which learning rate is taken, and every figure from its definition."""

import math

import numpy as np
import pytest

from jpllm.evaluation.jglue.finetuning import FinetunedRun, best_learning_rate, clusters_of, pairs_of, score_rows
from jpllm.evaluation.jglue.lm_eval_tasks import items as official


def run(rate, seed, right_in_validation, right_in_test):
    """Ten rows on each side, of which so many are answered right."""

    def pairs(num_right):
        return [(1, 1)] * num_right + [(0, 1)] * (10 - num_right)

    return FinetunedRun(rate, seed, pairs(right_in_validation), pairs(right_in_test))


def test_the_learning_rate_is_chosen_on_held_out_training_rows():
    """And not on the rows that are scored, where the other one is better."""
    runs = [run(1e-5, 0, 9, 2), run(1e-5, 1, 7, 4), run(1e-3, 0, 7, 10), run(1e-3, 1, 8, 10)]
    assert best_learning_rate("jnli", runs) == 1e-5
    (row,) = score_rows("jnli", runs)
    assert (row["learning_rate"], row["num_seeds"], row["n"]) == (1e-5, 2, 10)
    assert row["value"] == pytest.approx(0.3)
    assert row["standard_deviation"] == pytest.approx(math.sqrt(2) / 10)  # of 0.2 and 0.4, with n − 1
    errors = [math.sqrt(share * (1 - share) / 9) for share in (0.2, 0.4)]
    assert row["standard_error"] == pytest.approx(np.mean(errors))
    assert [(one["learning_rate"], one["seed"], one["validation"], one["value"]) for one in row["runs"]] == [
        (1e-5, 0, 0.9, 0.2),
        (1e-5, 1, 0.7, 0.4),
        (1e-3, 0, 0.7, 1.0),
        (1e-3, 1, 0.8, 1.0),
    ]
    assert best_learning_rate("jnli", [run(1e-3, 0, 5, 5), run(1e-5, 0, 5, 5)]) == 1e-5  # the lowest of equal ones


def test_a_learning_rate_with_a_run_that_diverged_is_not_chosen():
    runs = [run(1e-3, 0, 9, 9), FinetunedRun(1e-3, 1, None, None), run(1e-5, 0, 5, 4), run(1e-5, 1, 5, 6)]
    (row,) = score_rows("jnli", runs)
    assert (row["learning_rate"], row["value"], row["num_seeds"]) == (1e-5, pytest.approx(0.5), 2)
    assert [one["value"] for one in row["runs"]] == [0.9, None, 0.4, 0.6]
    assert best_learning_rate("jnli", runs[:2]) is None
    assert score_rows("jnli", runs[:2]) == []


def test_lines_to_compare_with():
    (row,) = score_rows("jcommonsenseqa", [FinetunedRun(1e-5, 0, [(0, 0)], [(0, 0), (3, 1), (3, 0), (3, 3)])])
    assert (row["value"], row["chance"], row["majority"]) == (0.5, 0.2, 0.75)
    assert (row["standard_deviation"], row["is_constant"]) == (None, False)
    constant = FinetunedRun(1e-5, 0, [(0, 0)], [(0, 2), (2, 2)] * 20)
    assert score_rows("jnli", [constant])[0]["is_constant"]


def test_correlations_of_jsts_and_jcola():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 51, 60) / 10
    given = gold + rng.normal(size=60)
    pairs = [*zip(gold.tolist(), given.tolist(), strict=True)]
    rows = {row["metric"]: row for row in score_rows("jsts", [FinetunedRun(1e-5, 0, pairs, pairs)])}
    assert rows["pearson"]["value"] == pytest.approx(stats.pearsonr(gold, given).statistic)
    assert rows["spearman"]["value"] == pytest.approx(stats.spearmanr(gold, given).statistic)
    assert (rows["pearson"]["chance"], rows["pearson"]["majority"]) == (0.0, 0.0)
    right, wrong = [(1, 1)] * 30 + [(0, 0)] * 10, [(1, 0)] * 6 + [(0, 1)] * 4
    rows = {row["metric"]: row for row in score_rows("jcola", [FinetunedRun(1e-5, 0, right, right + wrong)])}
    expected = (30 * 10 - 4 * 6) / math.sqrt((30 + 4) * (30 + 6) * (10 + 4) * (10 + 6))
    assert rows["mcc"]["value"] == pytest.approx(expected)
    assert rows["acc"]["value"] == 0.8


def test_rows_about_one_text_are_no_independent_ones():
    """Residuals of 4 right of 6 are 1/3 and −2/3; of the texts they are 2/3, −1/3, −1/3 in sum."""
    test = [(1, 1), (1, 1), (1, 1), (0, 1), (1, 1), (0, 1)]
    one = FinetunedRun(1e-5, 0, test, test, clusters=["a", "a", "b", "b", "c", "c"])
    (row,) = score_rows("jnli", [one])
    assert row["standard_error"] == pytest.approx(math.sqrt(3 / 2 * (4 + 1 + 1) / 9) / 6)
    other = FinetunedRun(1e-5, 1, test, test, clusters=list("abcdef"))
    errors = [row["standard_error"], math.sqrt(2 / 3 * 1 / 3 / 5)]
    assert score_rows("jnli", [one, other])[0]["standard_error"] == pytest.approx(np.mean(errors))


def test_which_rows_are_about_one_text():
    """The same two sentences in any order, or the same question or sentence; as for prompts."""
    pairs = [("海", "山"), ("山", "海"), ("山", "川"), ("海", "山")]
    rows = [{"text": text, "text_pair": pair, "label": "neutral"} for text, pair in pairs]
    items = [{"sentence1": text, "sentence2": pair} for text, pair in pairs]
    first, second, third, fourth = found = clusters_of(rows)
    assert first == second == fourth != third
    assert found == [official.text_key("jnli", item) for item in items]
    first, second, third = clusters_of([{"text": text, "choices": ["a", "b"]} for text in ("問い", "別の問い", "問い")])
    assert first == third != second


def test_pairs_are_indices_numbers_or_places():
    assert pairs_of("jnli", [{"label": "neutral", "predicted": "entailment"}]) == [(2, 0)]
    assert pairs_of("jcola", [{"label": "0", "predicted": "1"}]) == [(0, 1)]
    assert pairs_of("jsts", [{"label": 4.5, "predicted": 3.25}]) == [(4.5, 3.25)]
    assert pairs_of("jcommonsenseqa", [{"label": 4, "predicted": 0}]) == [(4, 0)]
