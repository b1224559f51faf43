"""Rows of scores as Markdown tables, and scores as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jpllm.evaluation import published

JGLUE_COLUMNS = {
    "task": "task",
    "style": "style",
    "num_fewshot": "shots",
    "metric": "metric",
    "value": "score",
    "standard_error": "standard error",
    "n": "n",
    "chance": "chance",
    "majority": "majority",
    "remarks": "remarks",
}
FINETUNED_COLUMNS = {
    "task": "task",
    "metric": "metric",
    "score": "score, mean ± deviation of the seeds",
    "num_seeds": "seeds",
    "learning_rate": "learning rate",
    "epochs": "epochs",
    "n": "n",
    "standard_error": "standard error",
    "chance": "chance",
    "majority": "majority",
    **{model: f"{model}, published" for model in published.FINE_TUNED},
    "remarks": "remarks",
}
FINETUNED_SOURCE = f"Published: {published.FINE_TUNED_SOURCE}. {published.FINE_TUNED_SETTINGS}"
SHARES = ("acc", "balanced_acc", "exact_match", "f1")  # the other scores are correlations


def markdown_table(rows: Sequence[dict], columns: Mapping[str, str]) -> str:
    """Rows as a Markdown table; `columns` has key and title of each column."""
    lines = ["| " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * (len(columns) - 1)]
    lines += ["| " + " | ".join(cell_text(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def jglue_table(rows: Sequence[dict]) -> str:
    """Rows of `jpllm.evaluation.harness`: shares in per cent, correlations as they are, and what to beware of."""

    def remarks(row: dict) -> str:
        found = [f"one answer in {100 * row['commonest_answer']:.0f} %"] if row["is_constant"] else []
        found += [f"{row['num_cut']:,} prompts cut"] if row.get("num_cut") else []
        found += ["examples from valid"] if row["num_fewshot"] and row["shots_from"] == "valid" else []
        return ", ".join(found)

    scores = ("value", "standard_error", "chance", "majority")
    cells = [
        {**row, **{key: score_text(row["metric"], row[key]) for key in scores}, "remarks": remarks(row)} for row in rows
    ]
    columns = dict(JGLUE_COLUMNS)
    if any("without_hits" in row for row in rows):
        columns["without_hits"] = "without items in the training texts"
        for row, cell in zip(rows, cells, strict=True):
            cell["without_hits"] = "; ".join(
                without_hits_text(row["metric"], one) for one in row.get("without_hits", [])
            )
    return markdown_table(cells, columns)


def finetuned_table(rows: Sequence[dict], skipped: Mapping[str, str]) -> str:
    """Rows of `jpllm.evaluation.finetuned` beside published ones, and why tasks are not among them."""
    lines = [markdown_table(list(map(finetuned_cells, rows)), FINETUNED_COLUMNS), FINETUNED_SOURCE] if rows else []
    return "\n\n".join([*lines, *(f"{task} was skipped: {reason}." for task, reason in skipped.items())])


def finetuned_cells(row: Mapping) -> dict:
    """A row of `jpllm.evaluation.finetuned`, and what others published, as `FINETUNED_COLUMNS` shows them."""
    metric = row["metric"]
    shown = {key: score_text(metric, row.get(key)) for key in ("standard_error", "chance", "majority")}
    for model, scores in published.FINE_TUNED.items():
        known = scores.get((row["task"], metric))
        shown[model] = score_text(metric, known and known.value)
    found = [f"trained on {row['max_train_rows']:,} rows"] if row.get("max_train_rows") else []
    found += [f"only {row['trainable']} trained"] if row["trainable"] != "all" else []
    found += [f"scored on {row['scored']}"] if row["scored"] != "validation file" else []
    found += [f"{row['num_cut']:,} rows cut"] if row.get("num_cut") else []
    found += ["nearly always one answer"] if row.get("is_constant") else []
    return {
        **row,
        **shown,
        "score": score_with_error(metric, row["value"], row.get("standard_deviation")),
        "learning_rate": f"{row['learning_rate']:g}",
        "epochs": f"{row['epochs']:g}" if "epochs" in row else "",
        "remarks": ", ".join(found),
    }


def score_text(metric: str, value: float | None) -> str:
    """A share in per cent, a correlation as it is, and nothing of nothing."""
    return "" if value is None else f"{100 * value:.1f} %" if metric in SHARES else f"{value:.3f}"


def score_with_error(metric: str, value: float, standard_error: float | None) -> str:
    """`41.2 ± 1.0 %`, or the score alone where there is no standard error."""
    text = score_text(metric, value)
    if standard_error is None:
        return text
    number, *unit = text.split(" ")
    return " ".join([number, "±", *score_text(metric, standard_error).split(" ")[:1], *unit])


def without_hits_text(metric: str, entry: Mapping) -> str:
    """An entry of `without_hits`, which `jpllm.evaluation.clean_scores` adds to rows."""
    left_out = f"{entry['num_left_out']:,} {entry['left_out']} left out"
    if not entry["n"]:
        return f"none is left, {left_out}"
    return f"{score_with_error(metric, entry['value'], entry['standard_error'])} (n {entry['n']:,}, {left_out})"


def cell_text(value: object) -> str:
    """A number with four decimals, or with commas; anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.4f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
