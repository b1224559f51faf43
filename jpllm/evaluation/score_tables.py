"""Rows of scores as tables: the header, and the texts of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jpllm.evaluation.jglue.lm_eval_tasks.tasks import FINETUNED_SETTINGS, FINETUNED_SOURCE, published_by_model
from jpllm.scores import WITHOUT_HITS, error_text, interval_of, score_text, score_with_error, without_hits_text

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
PUBLISHED_FINETUNED = published_by_model(finetuned=True)
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
    **{model: f"{model}, published" for model in PUBLISHED_FINETUNED},
    "remarks": "remarks",
}
TableTexts = tuple[list[str], list[list[str]]]
FINETUNED_NOTE = f"Published: {FINETUNED_SOURCE}. {FINETUNED_SETTINGS}"


def table(rows: Sequence[dict], columns: Mapping[str, str]) -> TableTexts:
    """Return header and rows as texts; `columns` has key and title of each column."""
    return list(columns.values()), [[cell_text(row.get(key, "")) for key in columns] for row in rows]


def jglue_table(rows: Sequence[dict]) -> TableTexts:
    """Return the rows of `jglue.harness` as a table: shares in per cent, correlations as they are, and remarks."""

    def remarks(row: dict) -> str:
        found = [f"one answer in {100 * row['commonest_answer']:.0f} %"] if row["is_constant"] else []
        found += [f"{row['num_cut']:,} prompts cut"] if row.get("num_cut") else []
        found += ["examples from valid"] if row["num_fewshot"] and row["shots_from"] == "valid" else []
        return ", ".join(found)

    scores = ("value", "chance", "majority")
    cells = [
        {
            **row,
            **{key: score_text(row["metric"], row[key]) for key in scores},
            "standard_error": error_text(row["metric"], row["standard_error"], interval_of(row)),
            "remarks": remarks(row),
        }
        for row in rows
    ]
    columns = dict(JGLUE_COLUMNS)
    if any("without_hits" in row for row in rows):
        columns["without_hits"] = WITHOUT_HITS
        for row, cell in zip(rows, cells, strict=True):
            cell["without_hits"] = "; ".join(
                without_hits_text(row["metric"], one) for one in row.get("without_hits", [])
            )
    return table(cells, columns)


def finetuned_table(rows: Sequence[dict]) -> TableTexts:
    """Return the rows of `jglue.finetuning` as a table, beside published scores."""
    return table(list(map(finetuned_cells, rows)), FINETUNED_COLUMNS)


def finetuned_cells(row: Mapping) -> dict:
    """Return the cells of a row of `jglue.finetuning` and of published scores, by the keys of `FINETUNED_COLUMNS`."""
    metric = row["metric"]
    shown = {key: score_text(metric, row.get(key)) for key in ("chance", "majority")}
    shown["standard_error"] = error_text(metric, row.get("standard_error"), interval_of(row))
    for model, scores in PUBLISHED_FINETUNED.items():
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


def cell_text(value: object) -> str:
    """Return a float with four decimals (without any from 1,000 on), an int with commas, anything else as it is."""
    if isinstance(value, float):
        return f"{value:,.4f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
