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


def test_a_single_row_has_no_error():
    assert closing_line(0).startswith("validation: accuracy 100.00% (50.00% before), macro-F1 0.5000; 1 rows")
