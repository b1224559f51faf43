"""The scores of a model as tables, with the settings that they were got with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jpllm import markdown
from jpllm.sharing.card_text import Facts, group_changes
from jpllm.tracking.compare.scores import SHARES
from jpllm.tracking.compare.summary import loss_unit
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
    if not rows:
        return
    keys = ("bits_per_byte", "bits_per_character", "perplexity", "xz_bits_per_byte")
    head = ["text", "bytes", "bits/byte", "bits/character", "perplexity", "xz -9 bits/byte", "window, step (tokens)"]
    table = [
        [
            str(row.get("text")),
            f"{row['num_bytes']:,}",
            *(_decimal(row.get(key)) for key in keys),
            f"{row.get('context_length')}, {row.get('stride')}",
        ]
        for row in rows
    ]
    yield markdown.table(head, table)


def _jglue(evaluation: dict) -> Iterator[str]:
    head = [
        "task",
        "version of the data",
        "style",
        "shots",
        "items",
        "metric",
        "score",
        "standard error",
        "chance",
        "majority",
        "",
    ]
    table = [
        [
            str(row.get("task")),
            str(row.get("data_version")),
            *(str(row.get(key)) for key in ("style", "num_fewshot", "n", "metric")),
            *(_score(row, key) for key in ("value", "standard_error", "chance", "majority")),
            _remarks(row),
        ]
        for row in rows_of(evaluation.get("jglue"))
    ]
    if table:
        yield f"Answers by lm-evaluation-harness {evaluation['jglue'][0].get('lm_eval')}.\n"
        yield markdown.table(head, table)


def _finetuned(evaluation: dict) -> Iterator[str]:
    head = [
        "fine-tuned on",
        "metric",
        "mean of the seeds",
        "standard error",
        "seeds",
        "learning rate",
        "items",
        "chance",
    ]
    table = [
        [
            str(row.get("task")),
            str(row.get("metric")),
            *(_score(row, key) for key in ("value", "standard_error")),
            *(str(row.get(key, "")) for key in ("num_seeds", "learning_rate", "n")),
            _score(row, "chance"),
        ]
        for row in rows_of(evaluation.get("jglue_finetuned"))
    ]
    if table:
        yield "Classifiers that were made of this model on the training data of each task:\n"
        yield markdown.table(head, table)


def _forgetting(evaluation: dict) -> Iterator[str]:
    found = evaluation.get("forgetting")
    models, groups = (found.get(key) if isinstance(found, dict) else None for key in ("models", "bits_per_byte"))
    if not (isinstance(models, list) and isinstance(groups, dict)):
        return
    names = [_model_name(str(name)) for name in models[:-1]] + ["this model"]
    rows = [[group, *map(_decimal, values)] for group, values in groups.items() if isinstance(values, list)]
    yield markdown.table(["texts, bits per byte", *names], rows)


def _score(row: dict, key: str) -> str:
    value = number(row.get(key))
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if row.get("metric") in SHARES else f"{value:.3f}"


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
    return "" if found is None else f"{found:.4f}" if found < 1000 else f"{found:,.0f}"


def _model_name(name: str) -> str:
    """The name of a model without the folders that it was in."""
    parts = [part for part in Path(name).parts if part != "model"]
    return parts[-1] if parts else name
