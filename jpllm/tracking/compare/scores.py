"""Make rows of a table of what evaluations found: benchmarks beside chance, and bits per byte of texts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from jpllm.scores import SHARES, interval_of, score_title, score_with_error, without_hits_text
from jpllm.tracking.compare.tables import Cell, Row
from jpllm.tracking.quantities import four_decimals, per_cent
from jpllm.tracking.runs import Run, number, rows_of

# What makes scores comparable: key of an evaluation → keys of its rows.
_KEYS = {
    "jglue": ("task", "metric", "n", "style", "num_fewshot", "data_sha256"),
    "jglue_finetuned": ("task", "metric", "n", "scored", "trainable", "max_train_rows", "data_sha256"),
}
_GROUPS = {"jglue": "JGLUE", "jglue_finetuned": "JGLUE, fine-tuned"}
_AGAIN = ", again "
Best = Literal["high", "low"]


def jglue_rows(runs: Sequence[Run]) -> list[Row]:
    """Return a row for each task and metric of the evaluations, and for each way that it was asked or trained.

    Behind it stand the scores without the items that stand in a run's training texts. None of them is the best one,
    for other items are left of each run.
    """
    return [row for part in _KEYS for row in _rows_of_part(runs, part)]


def without_hits(row: dict) -> list[dict]:
    """Return the entries that `evaluation.contamination.clean_scores` added to a row, as far as they are whole."""
    found = []
    for entry in rows_of(row.get("without_hits")):
        known = {key: number(entry.get(key)) for key in ("n", "num_left_out", "value", "standard_error")}
        is_counted = None not in (known["n"], known["num_left_out"])
        if is_counted and (known["value"] is None) == (known["n"] == 0):
            found.append({**known, "left_out": str(entry.get("left_out")), "interval": interval_of(entry)})
    return found


def _rows_of_part(runs: Sequence[Run], part: str) -> list[Row]:
    cells: dict[tuple, list[Cell | None]] = {}
    first: dict[tuple, dict] = {}
    for index, run in enumerate(runs):
        for row in (row for evaluation in run.evaluations for row in rows_of(evaluation.get(part))):
            for left_out, cell in _cells(row):
                key = (*(str(row.get(name)) for name in _KEYS[part]), left_out)
                _put(cells.setdefault(key, [None] * len(runs)), index, cell)
                first.setdefault(key, row)
    found = []
    for key in sorted(cells):
        title, left_out, row = score_title(*key[:2]), key[-1], first[key]
        if left_out:
            title, row = f"{title}, without {left_out} in its training texts", {**row, "n": None}
        found.append(Row(title, with_best(cells[key], None if left_out else "high"), _GROUPS[part], _note(row)))
    return found


def _note(row: dict) -> str:
    """Return how a score was got, as far as scores differ in it, and what chance gives."""
    parts = [f"{row['style']}, {row.get('num_fewshot')} shots"] if "style" in row else []
    parts += [f"{items:,.0f} items"] if (items := number(row.get("n"))) is not None else []
    parts += [f"{rows:,.0f} training rows"] if (rows := number(row.get("max_train_rows"))) is not None else []
    parts += [f"only {row['trainable']} trained"] if row.get("trainable", "all") != "all" else []
    parts += [f"chance {per_cent(chance)}"] if (chance := number(row.get("chance"))) else []
    return ", ".join(parts)


def _cells(row: dict) -> Iterator[tuple[str, Cell]]:
    """Yield the cell of a score, and of the scores without items in training texts, each with what was left out."""
    metric, value, chance = str(row.get("metric")), number(row.get("value")), number(row.get("chance"))

    def cell(text: str, value: float | None) -> Cell:
        if metric in SHARES:
            return Cell(text, value, bar=value, mark=chance or None)
        return Cell(text, value, bar=None if value is None else max(value, 0.0))

    if value is not None:
        constant = ", one answer" if row.get("is_constant") else ""
        error = number(row.get("standard_error")) or None  # 0 in results before there were intervals
        yield "", cell(score_with_error(metric, value, error, interval_of(row)) + constant, value)
        for entry in without_hits(row):
            yield entry["left_out"], cell(without_hits_text(metric, entry), entry["value"])


def text_rows(runs: Sequence[Run]) -> list[Row]:
    """Return rows of bits per byte of the texts that evaluations scored; equal name and length make the same text.

    Scores with another window or step of it, which give a token more or less to read before it, are rows of their own.
    """
    cells: dict[tuple, list[Cell | None]] = {}
    for index, run in enumerate(runs):
        for row in (row for evaluation in run.evaluations for row in rows_of(evaluation.get("perplexity"))):
            bits, num_bytes = number(row.get("bits_per_byte")), number(row.get("num_bytes"))
            if bits is not None and num_bytes is not None:
                key = (str(row.get("text")), num_bytes, number(row.get("context_length")), number(row.get("stride")))
                _put(cells.setdefault(key, [None] * len(runs)), index, Cell(four_decimals(bits), bits))
    rows = []
    for (text, num_bytes, window, stride), own in cells.items():
        parts = [f"{num_bytes:,.0f} bytes"]
        parts += [f"window {window:,.0f}"] if window is not None else []
        parts += [f"step {stride:,.0f} tokens"] if stride is not None else []
        rows.append(Row(text, with_best(own, "low"), "Bits per byte of other texts", ", ".join(parts)))
    return rows


def _put(cells: list[Cell | None], index: int, cell: Cell) -> None:
    """Put a score of a run in its place; one that was measured again with another result stands behind the first."""
    first = cells[index]
    if first is None:
        cells[index] = cell
    elif cell.text not in first.text.split(_AGAIN):
        cells[index] = replace(first, text=f"{first.text}{_AGAIN}{cell.text}")


def with_best(cells: list[Cell | None], best: Best | None) -> list[Cell | None]:
    """Return the cells with a mark at the best one, where there are several."""
    known = [cell for cell in cells if cell]
    if best is None or len(set(map(_figure_of, known))) < 2:
        return cells
    wanted = _figure_of((max if best == "high" else min)(known, key=lambda cell: cell.value))
    return [cell and replace(cell, is_best=_figure_of(cell) == wanted) for cell in cells]


def _figure_of(cell: Cell) -> str:
    """Return the number of a cell as precise as it is shown, without its error and remarks."""
    return re.split(r" [±%]|, ", cell.text)[0]
