"""Make the tables of a model card: sources, scores and forgetting as rows; the templates name the columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jpllm import markdown
from jpllm.scores import error_text, interval_of, score_text, without_hits_text
from jpllm.sharing.card.facts import TrainedOn, folder_name
from jpllm.tracking.compare.scores import without_hits
from jpllm.tracking.quantities import count, four_decimals, per_cent, three_digits
from jpllm.tracking.runs import Run, number, rows_of

SPLIT_FIGURES = ("accuracy", "macro_f1", "pearson", "spearman")
_SCORES = ("value", "chance", "majority")


@dataclass(frozen=True)
class Scores:
    """What an `evaluation.json` holds, a dictionary for each row of its tables.

    Attributes:
        harness: version of lm-evaluation-harness.
        has_without_hits: whether a row has a score of the items that stand in no training text.
        forgetting: names of the models, and the rows: a group of texts and the bits per byte of each model.
    """

    perplexity: Sequence[dict]
    jglue: Sequence[dict]
    harness: str
    has_without_hits: bool
    finetuned: Sequence[dict]
    forgetting: tuple[list[str], list[list[str]]]


def table(
    head: Sequence[str], rows: Sequence[Sequence[str | None]], unknown: str = "", num_kept: int | None = None
) -> str:
    """Return a Markdown table in which `unknown` stands for None.

    Of the columns behind the first `num_kept` (None: all are kept) those are left out that no row has a value in.
    """
    kept = len(head) if num_kept is None else num_kept
    columns = [place for place in range(len(head)) if place < kept or any(row[place] is not None for row in rows)]
    cells = [[unknown if (cell := row[place]) is None else cell for place in columns] for row in rows]
    return markdown.table([head[place] for place in columns], cells).rstrip("\n")


def score_table(titles: Mapping[str, str], rows: Sequence[Mapping]) -> str:
    """Return a Markdown table with a column for each key of `titles`."""
    return markdown.table(list(titles.values()), [[_cell(row, key) for key in titles] for row in rows]).rstrip("\n")


def source_rows(sources: Sequence[TrainedOn]) -> list[list[str | None]]:
    """Return name, licence, share of the tokens (the requested one in brackets), tokens and passes of each source."""
    rows: list[list[str | None]] = []
    for source in sources:
        requested = "" if source.requested_share is None else f" ({per_cent(source.requested_share)})"
        share = None if source.achieved_share is None else f"{per_cent(source.achieved_share)}{requested}"
        tokens = None if source.tokens is None else count(source.tokens)
        epochs = None if source.epochs is None else three_digits(source.epochs)
        rows.append([source.label, source.licence, share, tokens, epochs])
    return rows


def change_rows(changes: Mapping[str, tuple[float, float]]) -> list[list[str]]:
    """Return the name of each group of texts and its bits per byte before, after and between."""
    return [[name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"] for name, (old, new) in changes.items()]


def split_rows(run: Run) -> list[list[str | None]]:
    """Return name, number of rows and figures of the validation and test rows that a classifier was scored on."""
    rows: list[list[str | None]] = []
    for split in ("validation", "test"):
        if (num_rows := run.result(split, "num_rows")) is None:
            continue
        keys = (*SPLIT_FIGURES, "standard_error", "chance", "majority")
        figures = [run.result(split, key) for key in keys]
        rows.append([split, f"{num_rows:,.0f}", *(None if value is None else f"{value:.4f}" for value in figures)])
    return rows


def scores_of(evaluation: dict) -> Scores:
    """Return the rows of an evaluation with what their tables add to them."""
    texts = [row for row in rows_of(evaluation.get("perplexity")) if number(row.get("num_bytes")) is not None]
    jglue = rows_of(evaluation.get("jglue"))
    finetuned = rows_of(evaluation.get("jglue_finetuned"))
    return Scores(
        perplexity=[{**row, "window": f"{row.get('context_length')}, {row.get('stride')}"} for row in texts],
        jglue=[{**row, "remarks": _remarks(row), "without_hits": _without_hits(row)} for row in jglue],
        harness=str(jglue[0].get("lm_eval")) if jglue else "",
        has_without_hits=any(map(without_hits, jglue)),
        finetuned=[{**row, "learning_rate": str(row.get("learning_rate"))} for row in finetuned],
        forgetting=_forgetting(evaluation.get("forgetting")),
    )


def _cell(row: Mapping, key: str) -> str:
    """Return a score or its error as its metric is written; other numbers with commas or decimals."""
    value = row.get(key)
    if key == "standard_error":
        return error_text(str(row.get("metric")), number(value), interval_of(row))
    if key in _SCORES:
        return score_text(str(row.get("metric")), number(value))
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else _decimal(value)


def _decimal(value: object) -> str:
    found = number(value)
    return "" if found is None else four_decimals(found)


def _without_hits(row: dict) -> str:
    """Return the scores of the items that stand in no training text."""
    return "; ".join(without_hits_text(str(row.get("metric")), entry) for entry in without_hits(row))


def _remarks(row: dict) -> str:
    """Return what a reader of a JGLUE score has to know about how it came about."""
    found = {
        "almost always the same answer": row.get("is_constant"),
        f"{row.get('num_cut') or 0:,} prompts cut": row.get("num_cut"),
        f"the first {row.get('limit')} items only": row.get("limit"),
        "examples from the validation file": row.get("shots_from") == "valid" and row.get("num_fewshot"),
    }
    return ", ".join(words for words, applies in found.items() if applies)


def _forgetting(found: object) -> tuple[list[str], list[list[str]]]:
    """Return names and rows of `jpllm.evaluation.forgetting.Matrix`, empty where an evaluation has none."""
    models, groups = (found.get(key) if isinstance(found, dict) else None for key in ("models", "bits_per_byte"))
    if not (isinstance(models, list) and isinstance(groups, dict)):
        return [], []
    names = [folder_name(str(name)) or str(name) for name in models[:-1]]
    return names, [[group, *map(_decimal, values)] for group, values in groups.items() if isinstance(values, list)]
