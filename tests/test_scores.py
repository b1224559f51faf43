"""How scores are written."""

import pytest

from jpllm import scores
from jpllm.evaluation.jglue.lm_eval_tasks.metrics import SCORES
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS


def test_every_task_and_metric_has_a_name():
    names = ["JCommonsenseQA", "JNLI", "JSQuAD", "JSTS", "MARC-ja", "JCoLA", "JAQKET"]
    assert [scores.score_title(task, "acc").removesuffix(" accuracy") for task in TASKS] == names
    assert set(scores.METRIC_NAMES) == set(SCORES)
    assert scores.score_title("jsquad", "exact_match") == "JSQuAD exact match"
    assert scores.score_title("another", "rouge") == "another rouge"


@pytest.mark.parametrize(
    ("metric", "value", "error", "text"),
    [
        ("acc", 0.4115, 0.00984, "41.1 ± 1.0 %"),
        ("f1", 1.0, 0.0, "100.0 ± 0.0 %"),
        ("balanced_acc", 0.5, None, "50.0 %"),
        ("mcc", -0.0625, 0.02, "-0.062 ± 0.020"),
        ("pearson", 0.5, None, "0.500"),
    ],
)
def test_shares_are_per_cent_and_correlations_are_not(metric, value, error, text):
    assert scores.score_with_error(metric, value, error) == text
    assert scores.score_text(metric, None) == ""


def test_a_share_without_error_has_its_interval():
    assert scores.score_with_error("acc", 0.0, None, [0.0, 0.3903]) == "0.0 % (0.0 to 39.0 %)"
    assert scores.error_text("acc", 0.01, [0.1, 0.2]) == "1.0 %"
    assert scores.error_text("pearson", None, None) == ""
    for broken in (None, {}, {"interval": "0.1"}, {"interval": [0.1]}, {"interval": [0.1, None]}):
        assert scores.interval_of(broken) is None


def test_without_items_in_the_training_texts():
    entry = {"left_out": "items", "num_left_out": 1030, "n": 1400, "value": 0.39, "standard_error": 0.0123}
    assert scores.without_hits_text("acc", entry) == "39.0 ± 1.2 % (n 1,400, 1,030 items left out)"
    one = entry | {"left_out": "items and contexts", "n": 1, "standard_error": None}
    assert scores.without_hits_text("f1", one) == "39.0 % (n 1, 1,030 items and contexts left out)"
    none = entry | {"n": 0, "value": None, "standard_error": None}
    assert scores.without_hits_text("acc", none) == "none is left, 1,030 items left out"
