"""The scores of a model as tables, with the settings that they were got with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jpllm import markdown
from jpllm.scores import WITHOUT_HITS, score_text, without_hits_text
from jpllm.sharing.card_text import Facts, group_changes
from jpllm.tracking.compare.scores import without_hits
from jpllm.tracking.compare.summary import loss_unit
from jpllm.tracking.quantities import four_decimals
from jpllm.tracking.runs import number, rows_of

HELD_OUT = "held-out texts of the training data"
# Figures of the held-out texts: key of the results → its name, and what is the best.
_HELD_OUT_FIGURES = {
    "bits_per_byte": "bits per byte, the lower the better",
    "xz_bits_per_byte": "bits per byte of xz -9 on the same texts",
    "masked_accuracy": "hidden words filled in right",
    "token_accuracy": "answer tokens right",
}
SPLIT_FIGURES = ("accuracy", "macro_f1", "pearson", "spearman")
# Of the rows of an evaluation: key → title of its column.
_PERPLEXITY_COLUMNS = {
    "text": "text",
    "num_bytes": "bytes",
    "bits_per_byte": "bits/byte",
    "bits_per_character": "bits/character",
    "perplexity": "perplexity",
    "xz_bits_per_byte": "xz -9 bits/byte",
    "window": "window, step (tokens)",
}
_JGLUE_COLUMNS = {
    "task": "task",
    "data_version": "version of the data",
    "style": "style",
    "num_fewshot": "shots",
    "n": "items",
    "metric": "metric",
    "value": "score",
    "standard_error": "standard error",
    "chance": "chance",
    "majority": "majority",
    "remarks": "",
}
_FINETUNED_COLUMNS = {
    "task": "fine-tuned on",
    "metric": "metric",
    "value": "mean of the seeds",
    "standard_error": "standard error",
    "num_seeds": "seeds",
    "learning_rate": "learning rate",
    "n": "items",
    "chance": "chance",
}
_SCORES = ("value", "standard_error", "chance", "majority")


def scores(facts: Facts) -> str:
    """All scores as Markdown; says so where nothing was measured."""
    parts = [*_held_out(facts), *_splits(facts)]
    for evaluation in facts.run.evaluations:
        parts += [*_perplexity(evaluation), *_jglue(evaluation), *_finetuned(evaluation), *_forgetting(evaluation)]
    return "\n".join(parts) or "Nothing was measured."


def _held_out(facts: Facts) -> Iterator[str]:
    found = [(name, facts.run.result(key)) for key, name in _HELD_OUT_FIGURES.items()]
    unit = loss_unit(facts.run)
    found += [(f"loss, {unit}", facts.run.result("loss")), (f"{unit}, before", facts.run.result("loss_before"))]
    rows = [(name, f"{value:.4f}") for name, value in found if value is not None]
    for key, name in (("answers_ended", "answers that end by themselves"), ("answers_right", "right answers")):
        first, last = (facts.run.result(key, when) for when in ("before", "after"))
        if first is not None and last is not None:
            rows.append((name, f"{last:.1%} ({first:.1%} before)"))
    if rows:
        yield markdown.table([f"on {HELD_OUT}", ""], rows)
    if changes := group_changes(facts.run):
        table = [(name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}") for name, old, new in changes]
        yield markdown.table(["texts, bits per byte", "before", "after", "change (above 0: forgotten)"], table)


def _splits(facts: Facts) -> Iterator[str]:
    head = ["rows", "number", *SPLIT_FIGURES, "standard error", "chance", "most frequent class"]
    rows = []
    for split in ("validation", "test"):
        if facts.run.result(split, "num_rows") is None:
            continue
        keys = (*SPLIT_FIGURES, "standard_error", "chance", "majority")
        figures = [facts.run.result(split, key) for key in keys]
        shown = ["" if value is None else f"{value:.4f}" for value in figures]
        rows.append([split, f"{facts.run.result(split, 'num_rows'):,.0f}", *shown])
    if rows:
        used = [column for column in range(len(head)) if any(row[column] for row in rows)]
        yield markdown.table([head[c] for c in used], [[row[c] for c in used] for row in rows])


def _perplexity(evaluation: dict) -> Iterator[str]:
    rows = [row for row in rows_of(evaluation.get("perplexity")) if number(row.get("num_bytes")) is not None]
    shown = [{**row, "window": f"{row.get('context_length')}, {row.get('stride')}"} for row in rows]
    if rows:
        yield _table(_PERPLEXITY_COLUMNS, shown)


def _jglue(evaluation: dict) -> Iterator[str]:
    rows, columns = rows_of(evaluation.get("jglue")), dict(_JGLUE_COLUMNS)
    if any(map(without_hits, rows)):
        columns["without_hits"] = WITHOUT_HITS
    if rows:
        yield f"Answers by lm-evaluation-harness {rows[0].get('lm_eval')}.\n"
        yield _table(columns, [{**row, "remarks": _remarks(row), "without_hits": _clean(row)} for row in rows])


def _finetuned(evaluation: dict) -> Iterator[str]:
    if rows := rows_of(evaluation.get("jglue_finetuned")):
        yield "Classifiers that were made of this model on the training data of each task:\n"
        yield _table(_FINETUNED_COLUMNS, [{**row, "learning_rate": str(row.get("learning_rate"))} for row in rows])


def _forgetting(evaluation: dict) -> Iterator[str]:
    found = evaluation.get("forgetting")
    models, groups = (found.get(key) if isinstance(found, dict) else None for key in ("models", "bits_per_byte"))
    if not (isinstance(models, list) and isinstance(groups, dict)):
        return
    names = [_model_name(str(name)) for name in models[:-1]] + ["this model"]
    rows = [[group, *map(_decimal, values)] for group, values in groups.items() if isinstance(values, list)]
    yield markdown.table(["texts, bits per byte", *names], rows)


def _table(columns: Mapping[str, str], rows: Sequence[Mapping]) -> str:
    return markdown.table(list(columns.values()), [[_cell(row, key) for key in columns] for row in rows])


def _cell(row: Mapping, key: str) -> str:
    """A score as its metric is written; other numbers with commas or decimals."""
    value = row.get(key)
    if key in _SCORES:
        return score_text(str(row.get("metric")), number(value))
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else _decimal(value)


def _clean(row: dict) -> str:
    """The scores of the items that stand in no training text."""
    return "; ".join(without_hits_text(str(row.get("metric")), entry) for entry in without_hits(row))


def _remarks(row: dict) -> str:
    found = ["almost always the same answer"] if row.get("is_constant") else []
    found += [f"{row['num_cut']:,} prompts cut"] if row.get("num_cut") else []
    found += [f"the first {row['limit']} items only"] if row.get("limit") else []
    found += (
        ["examples from the validation file"] if row.get("shots_from") == "valid" and row.get("num_fewshot") else []
    )
    return ", ".join(found)


def _decimal(value: object) -> str:
    found = number(value)
    return "" if found is None else four_decimals(found)


def _model_name(name: str) -> str:
    """The name of a model without the folders that it was in."""
    parts = [part for part in Path(name).parts if part != "model"]
    return parts[-1] if parts else name
