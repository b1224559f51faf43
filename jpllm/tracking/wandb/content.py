"""Decide what Weights & Biases gets of a run: settings, rows, samples, results, evaluations, the model card.

Nothing else of this project decides it, and nothing here needs the library: `mirror` and `process` send what these
functions return. What names this machine or its user must not be among it, nor what a page or a terminal would obey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import cast

from jpllm.config.settings import shareable_values
from jpllm.terminal import harmless

PROJECT = "jpllm"
AXES = ("step", "tokens", "epoch")
STEP_AXIS = "tokens"  # what all other metrics are drawn over
REPORT_AXES = ("tokens", "step")
# Tables that a report shows: the samples of the training, and those of `evaluation_tables`.
REPORT_TABLES = (
    *("samples", "evaluation_samples", "evaluation_perplexity", "evaluation_forgetting"),
    *("evaluation_jglue", "evaluation_jglue_finetuned"),
)
CARD_TYPE = "model-card"
_SAMPLE_COLUMNS = ("step", "tokens", "prompt", "text", "wanted", "ended")
Rows = Sequence[Mapping[str, object]]


def settings(configuration: Sequence[object], sources: Sequence[str]) -> dict[str, object]:
    """Return the settings of a training without its paths; of its data the names of the `sources` only."""
    named = {"sources": list(map(harmless, sources))} if sources else {}
    return shareable_values(configuration, ("model", "tokenizer")) | named


def metrics(row: Mapping[str, object]) -> dict[str, object]:
    """Return what is logged of a row of `metrics.jsonl`: everything."""
    return {harmless(key): value for key, value in row.items()}


def samples(rows: Rows) -> tuple[dict[str, object], Rows, list[str]]:
    """Return, of the samples of one step, the place of the step on each axis, the table's rows and its columns."""
    shown = [{key: _harmless(value) for key, value in row.items()} for row in rows]
    return {axis: rows[0].get(axis) for axis in AXES}, shown, columns_of(rows, _SAMPLE_COLUMNS)


def results(found: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of `results.json` as they are named in the summary of the run."""
    numbers = {key: value for key, value in found.items() if isinstance(value, int | float)}
    return {f"result/{key}": value for key, value in numbers.items() if key not in AXES}


def evaluation_tables(found: Mapping[str, object]) -> dict[str, list[dict]]:
    """Return the rows in an `evaluation.json` as tables; of each row what is a number, a switch or a text.

    The matrix of what was forgotten is a table with a row for each group and model.
    """
    parts = {name: part for name, part in found.items() if isinstance(part, list) and part}
    if "forgetting" in found:
        parts["forgetting"] = _matrix_rows(**cast("dict", found["forgetting"]))
    return {
        f"evaluation_{name}": [
            {
                harmless(key): _harmless(value)
                for key, value in row.items()
                if value is None or isinstance(value, str | bool | int | float)
            }
            for row in rows
        ]
        for name, rows in parts.items()
        if all(isinstance(row, Mapping) for row in rows)
    }


def columns_of(rows: Rows, keys: Sequence[str] | None = None) -> list[str]:
    """Return the columns of a table: those of `keys`, or of all keys, that a row has."""
    known = dict.fromkeys(key for row in rows for key in row)
    return [key for key in (known if keys is None else keys) if key in known]


def _harmless(value: object) -> object:
    return harmless(value) if isinstance(value, str) else value


def _matrix_rows(models: Sequence[str], bits_per_byte: Mapping[str, Sequence[float]], **_: object) -> list[dict]:
    """Return a row for each group of texts and model; models are named by the last part that says something."""
    unsaying = {"model", "/", Path.home().name}
    names = [next((part for part in reversed(PurePath(model).parts) if part not in unsaying), "") for model in models]
    return [
        {"group": group, "model": name, "bits_per_byte": bits, "change": bits - row[0]}
        for group, row in bits_per_byte.items()
        for name, bits in zip(names, row, strict=True)
    ]
