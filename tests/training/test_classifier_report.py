"""What the end of a classifier's training says."""

import numpy as np

from jpllm.evaluation.classification import ClassScore
from jpllm.training.classifier import closing_text


def closing_line(*predicted):
    outputs = np.eye(2, dtype=np.float32)[list(predicted)]
    scored = ClassScore(outputs, [0] * len(predicted)).report(["a", "b"])
    return closing_text({"validation": scored, "before": {"accuracy": 0.5}}).splitlines()[0]


def test_an_accuracy_with_its_error():
    """Of 3 right of 4 it is √(3/4 · 1/4 / 3); F1 of a is 2 · 3 / (3 + 4)."""
    assert closing_line(0, 0, 1, 0) == (
        "validation: accuracy 75.00% ± 25.00% (50.00% before), macro-F1 0.4286; 4 rows, chance 50.00%, "
        "the most frequent class 100.00%"
    )


def test_all_rows_right_are_no_certainty():
    """Wilson's interval of n right of n is from n / (n + 1.96²)."""
    for number, low in ((1, "20.65%"), (10, "72.25%")):
        line = closing_line(*[0] * number)
        expected = f"validation: accuracy 100.00% (95 % interval {low} to 100.00%; 50.00% before), macro-F1 0.5000"
        assert line.startswith(expected)
