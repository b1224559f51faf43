"""Figures of a classifier, against their definitions and, where it is installed, against SciPy."""

import math

import numpy as np
import pytest
import torch

from jpllm.data.labels.encoding import EncodedChoices, sequences_of
from jpllm.evaluation.classification import ChoiceScore, ClassScore, RegressionScore, predict, probabilities
from tests.data.labels.test_encoding import encoded

RNG = np.random.default_rng(0)


def test_figures_of_classes_by_hand():
    predicted, true = [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]
    outputs = np.zeros((6, 3), np.float32)
    outputs[np.arange(6), predicted] = math.log(8)  # 0.8, 0.1, 0.1
    score = ClassScore(outputs, true)
    assert score.confusion.tolist() == [[1, 1, 0], [1, 3, 0], [0, 0, 0]]
    assert score.accuracy == pytest.approx(4 / 6)
    assert score.loss == pytest.approx(-(4 * math.log(0.8) + 2 * math.log(0.1)) / 6)
    assert score.precision.tolist() == pytest.approx([1 / 2, 3 / 4, 0])
    assert score.recall.tolist() == pytest.approx([1 / 2, 3 / 4, 0])
    assert score.f1.tolist() == pytest.approx([1 / 2, 3 / 4, 0])
    assert score.macro_f1 == pytest.approx((1 / 2 + 3 / 4) / 3)
    assert score.majority == pytest.approx(4 / 6)
    assert score.standard_error == pytest.approx(math.sqrt(4 / 6 * 2 / 6 / 5))
    report = score.report(["a", "b", "c"])
    assert report["confusion"]["b"] == {"a": 1, "b": 3, "c": 0}
    assert report["classes"]["b"] == {"precision": 0.75, "recall": 0.75, "f1": 0.75, "num_rows": 4}
    assert (report["num_rows"], report["chance"]) == (6, pytest.approx(1 / 3))


def test_figures_of_classes_by_definition():
    outputs, true = RNG.normal(size=(200, 4)).astype(np.float32), RNG.integers(0, 4, 200)
    score = ClassScore(outputs, true.tolist())
    predicted = outputs.argmax(1)
    f1 = []
    for c in range(4):
        hits = ((predicted == c) & (true == c)).sum()
        f1.append(2 * hits / ((predicted == c).sum() + (true == c).sum()))
    assert score.f1.tolist() == pytest.approx(f1)
    assert score.accuracy == (predicted == true).mean()
    assert score.standard_error == pytest.approx(np.std(predicted == true, ddof=1) / math.sqrt(200))
    assert ClassScore(outputs[:1], true[:1].tolist()).standard_error is None
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(outputs).double(), torch.from_numpy(true)).item()
    assert score.loss == pytest.approx(loss)
    assert probabilities(outputs).sum(axis=1) == pytest.approx(np.ones(200))


def test_a_hopeless_row_has_a_finite_loss():
    assert math.isfinite(ClassScore(np.array([[1000.0, -1000.0]]), [1]).loss)


def test_correlations_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    true = RNG.integers(0, 6, 300) / 2  # with many ties
    predicted = (true + RNG.normal(size=300)).round(1)
    score = RegressionScore(predicted[:, None], true.tolist())
    assert score.pearson == pytest.approx(stats.pearsonr(predicted, true).statistic)
    assert score.spearman == pytest.approx(stats.spearmanr(predicted, true).statistic)


def test_figures_of_numbers_by_hand():
    score = RegressionScore(np.array([[1.0], [2.0], [2.0], [5.0]]), [1.0, 2.0, 3.0, 4.0])
    assert score.loss == pytest.approx((0 + 0 + 1 + 1) / 4)
    x, y = np.array([-1.5, -0.5, -0.5, 2.5]), np.array([-1.5, -0.5, 0.5, 1.5])
    assert score.pearson == pytest.approx((x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum()))
    ranks = np.array([-1.5, 0, 0, 1.5])  # 1, 2.5, 2.5, 4
    assert score.spearman == pytest.approx((ranks * y).sum() / math.sqrt((ranks**2).sum() * (y**2).sum()))
    assert score.report()["mean_loss"] == pytest.approx(1.25)
    assert RegressionScore(np.ones((3, 1)), [1.0, 2.0, 3.0]).pearson == 0.0


def test_figures_of_choices():
    """Places are no classes: what is chosen is right or wrong, and no place has a figure of its own."""
    outputs = np.log(np.array([[8, 1, 1], [1, 8, 1], [8, 1, 1], [1, 1, 8]], np.float32))
    report = ChoiceScore(outputs, [0, 1, 2, 2]).report(["x", "y", "z"])
    assert report == {
        "num_rows": 4,
        "loss": pytest.approx(-(3 * math.log(0.8) + math.log(0.1)) / 4),
        "accuracy": 0.75,
        "standard_error": pytest.approx(math.sqrt(0.75 * 0.25 / 3)),
        "interval": pytest.approx([0.3006, 0.9544], abs=5e-5),
        "chance": pytest.approx(1 / 3),
        "majority": 0.5,
    }
    assert set(ChoiceScore(outputs, [0, 1, 2, 2]).figures) == {"loss", "accuracy"}


class LengthModel(torch.nn.Module):
    """Its output is the number of real tokens, and the width of the batch that they came in."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.widths = []

    def forward(self, attention_mask):
        assert not self.training
        self.widths.append(attention_mask.shape)
        return type("Output", (), {"logits": attention_mask.sum(1, keepdim=True) * self.weight})


def test_outputs_are_in_the_order_of_the_rows():
    model = LengthModel().train()

    def batch(rows):
        mask = torch.zeros(len(rows), max(map(len, rows)))
        for index, row in enumerate(rows):
            mask[index, : len(row)] = 1
        return {"attention_mask": mask}

    outputs = predict(model, encoded(2, 7, 3, 1, 6), batch, batch_size=2)
    assert outputs[:, 0].tolist() == [2, 7, 3, 1, 6]
    assert model.widths == [(2, 7), (2, 3), (1, 1)]
    assert model.training

    def batch_of_choices(rows):
        return batch(sequences_of(rows))

    rows = [EncodedChoices(None, encoded(*lengths), 0) for lengths in [(2, 7), (3, 1), (6, 4)]]
    outputs = predict(model, rows, batch_of_choices, batch_size=2)
    assert outputs.tolist() == [[2, 7], [3, 1], [6, 4]]
    assert model.widths[3:] == [(4, 7), (2, 3)]
