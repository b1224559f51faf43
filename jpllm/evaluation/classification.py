"""A classifier's predictions for rows whose labels are known, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from jpllm.data.labels.encoding import AnyRow, batches_by_length
from jpllm.evaluation.distributed import sum_over_processes
from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.score_rows import interval, standard_error

if TYPE_CHECKING:
    import torch

MakeBatch = Callable[[Sequence[AnyRow]], "dict[str, torch.Tensor]"]


def predict(
    model: torch.nn.Module,
    rows: Sequence[AnyRow],
    make_batch: MakeBatch,
    batch_size: int,
    *,
    autocast: AbstractContextManager | None = None,
    rank: int = 0,
    num_ranks: int = 1,
) -> np.ndarray:
    """Return the outputs of `model`, in evaluation mode, for each row: float32 (rows, classes), or (rows, 1).

    For questions with choices, a row of which has a sequence for each choice, the shape is (rows, choices).
    Rows of about equal length are computed together. With several processes each takes every `num_ranks`-th batch, and
    all of them return the outputs of all rows. They call the model equally often, as a model whose weights they share
    needs.
    """
    from jpllm.models.evaluating import evaluating

    device = next(model.parameters()).device
    batches = batches_by_length(rows, batch_size)
    outputs: np.ndarray | None = None
    with evaluating(model, autocast):
        for start in range(0, len(batches), num_ranks):
            own = batches[start + rank : start + rank + 1]
            indices = own[0] if own else batches[0]
            batch = {name: values.to(device) for name, values in make_batch([rows[i] for i in indices]).items()}
            logits = model(**batch).logits.float().cpu().numpy().reshape(len(indices), -1)
            if outputs is None:
                outputs = np.zeros((len(rows), logits.shape[1]), np.float32)
            if own:
                outputs[indices] = logits
    assert outputs is not None, "there are no rows"
    return sum_over_processes(outputs, model, num_ranks)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Return the softmax over the classes, float64 (rows, classes)."""
    shifted = outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ClassScore:
    """Predicted and true classes.

    Args:
        outputs: float (rows, classes).
        targets: indices of the true classes.
    """

    outputs: np.ndarray
    targets: Sequence[int]

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per row."""
        own = probabilities(self.outputs)[np.arange(len(self.targets)), list(self.targets)]
        return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())

    @cached_property
    def confusion(self) -> np.ndarray:
        """Rows by true class (first axis) and predicted class, int (classes, classes)."""
        num_classes = self.outputs.shape[1]
        places = np.array(self.targets) * num_classes + self.outputs.argmax(axis=1)
        return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)

    @property
    def accuracy(self) -> float:
        """Share of rows whose class is predicted right."""
        return float(np.trace(self.confusion) / len(self.targets))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the accuracy; None for a single row, and where all rows are right, or all wrong."""
        return standard_error("acc", list(zip(self.targets, self.outputs.argmax(axis=1).tolist(), strict=True)))

    @property
    def majority(self) -> float:
        """Accuracy of always naming the most frequent class."""
        return float(self.confusion.sum(axis=1).max() / len(self.targets))

    @property
    def precision(self) -> np.ndarray:
        """For each class the share of the rows predicted as it that belong to it; 0 where there are none."""
        return _shares(np.diag(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> np.ndarray:
        """For each class the share of its rows that are predicted as it; 0 where it has none."""
        return _shares(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> np.ndarray:
        """For each class the harmonic mean of precision and recall; 0 where both are 0."""
        return _shares(2 * np.diag(self.confusion), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes; each counts the same, however few rows it has."""
        return float(self.f1.mean())

    @property
    def figures(self) -> dict[str, float]:
        """Figures that an evaluation logs."""
        return {"loss": self.loss, "accuracy": self.accuracy, "macro_f1": self.macro_f1}

    def report(self, names: Sequence[str]) -> dict:
        """Return all scores, as the results hold them."""
        counts = self.confusion.sum(axis=1).tolist()
        columns = zip(names, self.precision.tolist(), self.recall.tolist(), self.f1.tolist(), counts, strict=True)
        return {
            "num_rows": len(self.targets),
            **self.figures,
            "standard_error": self.standard_error,
            "interval": interval("acc", self.accuracy, self.standard_error, len(self.targets), None),
            "chance": 1 / len(names),
            "majority": self.majority,
            "classes": {
                name: {"precision": precision, "recall": recall, "f1": f1, "num_rows": count}
                for name, precision, recall, f1, count in columns
            },
            "confusion": {
                name: dict(zip(names, row, strict=True))
                for name, row in zip(names, self.confusion.tolist(), strict=True)
            },
        }


@dataclass(frozen=True)
class ChoiceScore(ClassScore):
    """Chosen and right choices. A choice is known by its place alone, so there is nothing to say of each class.

    Args:
        outputs: float (rows, choices).
        targets: indices of the right choices.
    """

    @property
    def figures(self) -> dict[str, float]:
        """Figures that an evaluation logs."""
        return {"loss": self.loss, "accuracy": self.accuracy}

    def report(self, names: Sequence[str]) -> dict:
        """Return all scores, as the results hold them; `majority` is that of always choosing the same place."""
        whole = super().report(names)
        return {key: value for key, value in whole.items() if key not in ("macro_f1", "classes", "confusion")}


@dataclass(frozen=True)
class RegressionScore:
    """Predicted and true numbers.

    Args:
        outputs: float (rows, 1).
        targets: the true numbers.
    """

    outputs: np.ndarray
    targets: Sequence[float]

    @property
    def loss(self) -> float:
        """Mean squared error."""
        return float(((self._predicted - self._true) ** 2).mean())

    @property
    def pearson(self) -> float:
        """Correlation of the numbers; 0 where either side is constant."""
        return metrics.pearson(self._pairs)

    @property
    def spearman(self) -> float:
        """Correlation of the ranks; equal numbers share the mean of their ranks."""
        return metrics.spearman(self._pairs)

    @property
    def figures(self) -> dict[str, float]:
        """Figures that an evaluation logs."""
        return {"loss": self.loss, "pearson": self.pearson, "spearman": self.spearman}

    def report(self) -> dict:
        """Return all scores, as the results hold them; `mean_loss` is that of always predicting the mean."""
        return {"num_rows": len(self.targets), **self.figures, "mean_loss": float(self._true.var())}

    @property
    def _pairs(self) -> metrics.Pairs:
        return np.stack([self._true, self._predicted], axis=1)

    @cached_property
    def _predicted(self) -> np.ndarray:
        return self.outputs[:, 0].astype(np.float64)

    @cached_property
    def _true(self) -> np.ndarray:
        return np.array(self.targets, np.float64)


def _shares(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.where(wholes > 0, parts / np.maximum(wholes, 1), 0.0)
