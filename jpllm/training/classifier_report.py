"""What a run of a classifier leaves behind beside the model: figures in words, predictions, a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from jpllm.data.labels.encoding import AnyRow
from jpllm.data.labels.rows import LabelledRow
from jpllm.evaluation.classification import ClassScore, RegressionScore, probabilities
from jpllm.tracking import plot as plots
from jpllm.tracking.metrics import METRICS_NAME, read_rows

PREDICTIONS_NAME = "predictions.jsonl"
DIVERGED_NAME = "diverged.txt"
PLOT_NAME = "scores.png"


def report(score: ClassScore | RegressionScore, class_names: Sequence[str] | None) -> dict:
    """All figures of a split."""
    return score.report() if class_names is None else score.report(class_names)


def columns(row: LabelledRow) -> dict[str, object]:
    """A row for a file."""
    pair = {} if row.pair is None else {"text_pair": row.pair}
    choices = {"choices": list(row.choices)} if row.choices else {}
    return {"text": row.text, **pair, **choices, "label": row.label}


def rows_of(
    split: str, rows: Sequence[AnyRow], score: ClassScore | RegressionScore, class_names: Sequence[str] | None
) -> Iterator[dict]:
    """A row for each row of a split: what it is, what was predicted, and how sure the model is."""
    if class_names is None:
        predicted = [{"predicted": float(output)} for output in score.outputs[:, 0]]
    else:
        labels = range(len(class_names)) if rows[0].row.choices else class_names
        predicted = [
            {
                "predicted": labels[own.argmax()],
                "probabilities": dict(zip(class_names, own.round(6).tolist(), strict=True)),
            }
            for own in probabilities(score.outputs)
        ]
    for row, found in zip(rows, predicted, strict=True):
        yield {"split": split, "place": row.row.place, **columns(row.row), **found}


def plot(output_dir: Path, names: Sequence[str]) -> None:
    """Draw these figures of the evaluations over the epochs."""
    plots.plot_figures(read_rows(output_dir / METRICS_NAME), names, output_dir / PLOT_NAME, output_dir.name)


def closing_text(results: dict) -> str:
    """The figures of both splits beside those before the training; for classes a table of the confusions."""
    lines = []
    for split in ("validation", "test"):
        if found := results.get(split):
            before = results["before"] if split == "validation" else None
            lines.append(f"{split}: " + (_classes if "accuracy" in found else _numbers)(found, before))
    found = results.get("test") or results["validation"]
    if "confusion" in found:
        lines += _table(found["confusion"])
    return "\n".join(lines)


def _classes(found: dict, before: dict | None) -> str:
    earlier = f" ({before['accuracy']:.2%} before)" if before else ""
    is_of_choices = "macro_f1" not in found
    macro_f1 = "" if is_of_choices else f", macro-F1 {found['macro_f1']:.4f}"
    most_frequent = "choosing always the same place" if is_of_choices else "the most frequent class"
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.2%}"
    return (
        f"accuracy {found['accuracy']:.2%}{error}{earlier}{macro_f1}; "
        f"{found['num_rows']:,} rows, chance {found['chance']:.2%}, {most_frequent} {found['majority']:.2%}"
    )


def _numbers(found: dict, before: dict | None) -> str:
    earlier = f" ({before['pearson']:.4f} / {before['spearman']:.4f} before)" if before else ""
    return (
        f"Pearson {found['pearson']:.4f} / Spearman {found['spearman']:.4f}{earlier}, squared error "
        f"{found['loss']:.4f}; {found['num_rows']:,} rows, squared error of the mean label {found['mean_loss']:.4f}"
    )


def _table(confusion: dict[str, dict[str, int]]) -> list[str]:
    width = max(8, *map(len, confusion))
    corner = "true ↓ predicted →"
    lines = ["  ".join([f"{corner:<{max(width, len(corner))}}", *(f"{name:>{width}}" for name in confusion)])]
    for name, counts in confusion.items():
        cells = (f"{count:>{width},}" for count in counts.values())
        lines.append("  ".join([f"{name:<{max(width, len(corner))}}", *cells]))
    return lines
