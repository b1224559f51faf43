"""The leaderboard: results of several models in one table, beside published ones, as text, Markdown or a web page.

A column holds scores that were measured alike: the same task, wording, examples, items and data. Scores that were
measured differently have a column of their own, and the lines below the models say how.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import markdown
from jpllm.evaluation.jglue.lm_eval_tasks.metrics import SCORES
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import (
    PUBLISHED_SETTINGS,
    PUBLISHED_SOURCE,
    TASKS,
    published_by_model,
)
from jpllm.evaluation.results import Results, actual_limit, read
from jpllm.evaluation.score_tables import FINETUNED_COLUMNS, FINETUNED_NOTE, cell_text, finetuned_cells
from jpllm.runtime import InputError
from jpllm.scores import WITHOUT_HITS, interval_of, score_text, score_title, score_with_error, without_hits_text
from jpllm.terminal import harmless
from jpllm.whole_files import write_whole

if TYPE_CHECKING:
    import rich.table

SUFFIXES = (".md", ".html")
_CONSTANT = "(constant)"
_SETTINGS = ("style", "num_fewshot", "limit", "shots_from", "data_version", "data_sha256", "task_version", "n")
_LIBRARIES = ("jpllm", "torch", "transformers", "lm_eval")


@dataclass(frozen=True)
class Table:
    """A table of the leaderboard, in whatever format it is shown.

    Attributes:
        rows: one per model; the first cell names it.
        lines: rows below the models, which describe the columns: chance, number of items, settings.
        notes: sentences below the table.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    lines: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_text: bool = False


def tables(paths: Sequence[Path]) -> list[Table]:
    """Return the tables of the results in folders that recipes/evaluate.py wrote.

    They are those of texts and questions with the published ones, that of fine-tuning, and a list of what is broken.

    Raises:
        InputError: no results can be read.
    """
    found: dict[Path, Results] = {}
    broken: list[list[str]] = []
    for path in {path.resolve(): path for path in paths}.values():
        try:
            found[path] = read(path)
        except InputError as error:
            broken.append([str(path), str(error)])
    if not found:
        raise InputError("\n".join(reason for _, reason in broken) or "leaderboard: name at least one result folder")
    labels = [results.label for results in found.values()]
    several = [
        replace(one, label=f"{one.label} ({path})") if labels.count(one.label) > 1 else one
        for path, one in found.items()
    ]
    asked = [one for one in several if one.perplexity or one.jglue]
    shown = [_own_table(asked), _published_table()] if asked else []
    shown += [_finetuned_table(several)] if any(one.jglue_finetuned for one in several) else []
    return [*shown, Table("Not compared", ["results", "reason"], broken, is_text=True)] if broken else shown


def write(file: Path, tables: Sequence[Table]) -> None:
    """Write the tables in the format that the file's name ends with; whole or not at all.

    Raises:
        InputError: the name ends neither with .md nor with .html.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(f"output: {file}: write a file name that ends with {' or '.join(SUFFIXES)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, to_markdown(tables) if file.suffix == ".md" else page(tables))


def terminal(tables: Sequence[Table]) -> list[rich.table.Table]:
    """Return the tables for `rich`, with the notes as captions."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = []
    for table in tables:
        one = RichTable(title=table.title, caption=Text("\n".join(table.notes)), caption_justify="left")
        for number, name in enumerate(table.header):
            one.add_column(Text(name), overflow="fold", justify="right" if number and not table.is_text else "left")
        for row in table.rows:
            one.add_row(*map(Text, row), end_section=row is table.rows[-1])
        for row in table.lines:
            one.add_row(*map(Text, row), style="dim")
        shown.append(one)
    return shown


def to_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as Markdown, with the lines below the models in italics."""
    parts = ["# Leaderboard"]
    for table in tables:
        notes = "\n".join(f"- {markdown.escaped(note)}" for note in table.notes)
        text = markdown.table(table.header, table.rows, table.lines)
        parts.append(f"## {table.title}\n\n{text}\n{notes}".rstrip())
    return "\n\n".join(parts) + "\n"


def page(tables: Sequence[Table]) -> str:
    """Return a self-contained web page; wide tables scroll sideways while the names of the models stay in sight."""
    return _PAGE.replace("<!--body-->", harmless("\n".join(map(_section, tables))))


def _own_table(results: Sequence[Results]) -> Table:
    columns = [*_text_columns(results), *_task_columns(results)]
    rows = []
    for number, one in enumerate(results):
        rows.append([one.label, *(column.cell(number) for column in columns)])
        if any(row.get("without_hits") for row in one.jglue):
            rows.append([f"{one.label}, {WITHOUT_HITS}", *(column.cell_without_hits(number) for column in columns)])
    names = list(dict.fromkeys(name for column in columns for name in column.lines()))
    lines = [[name, *(column.lines().get(name, "") for column in columns)] for name in names]
    notes = ["Behind ± stands the standard error, in brackets the 95 % interval where there is none."]
    notes.append("Columns whose lines differ were got in different ways.")
    if any(_CONSTANT in cell for row in rows for cell in row):
        notes.append("constant: nearly all answers are the same one, so the score tells nothing apart.")
    return Table("Results", ["model", *_titles(columns)], rows, lines, notes + _versions(results))


def _published_table() -> Table:
    published = published_by_model(finetuned=False)
    keys = list(dict.fromkeys(key for scores in published.values() for key in scores))
    rows = []
    for model, scores in published.items():
        cells = [score_with_error(key[1], *scores[key]) if key in scores else "" for key in keys]
        rows.append([f"{model}, published", *cells])
    notes = [f"Source: {PUBLISHED_SOURCE}.", PUBLISHED_SETTINGS]
    notes.append("So these compare with the results above in size only, not to the point.")
    return Table("Published", ["model", *(score_title(*key) for key in keys)], rows, [], notes)


def _finetuned_table(results: Sequence[Results]) -> Table:
    """Return a table with a row for each score of each model, beside published scores of the same task and metric."""
    order = {key: place for place, key in enumerate([*TASKS, *SCORES])}
    rows = [(one.label, finetuned_cells(row)) for one in results for row in one.jglue_finetuned]
    rows.sort(key=lambda row: (order.get(row[1]["task"], math.inf), order[row[1]["metric"]]))
    cells = [[label, *(cell_text(row.get(key, "")) for key in FINETUNED_COLUMNS)] for label, row in rows]
    notes = ["Each standard error is that of one run, from its n items."]
    return Table("Fine-tuned", ["model", *FINETUNED_COLUMNS.values()], cells, [], [*notes, FINETUNED_NOTE])


class _TextColumn:
    """Bits per byte on one text; a model may have several values, with different windows."""

    def __init__(self, rows: dict[int, list[dict]]) -> None:
        self.rows, self.first = rows, next(iter(rows.values()))[0]
        self.title = f"{self.first['text']}, bits/byte"
        windows = {(row["context_length"], row["stride"]) for own in rows.values() for row in own}
        self.windows = next(iter(windows)) if len(windows) == 1 else None

    def cell(self, number: int) -> str:
        return "; ".join(map(self._text, self.rows.get(number, [])))

    def _text(self, row: dict) -> str:
        own = "" if self.windows else f" (context {row['context_length']:,}, stride {row['stride']:,})"
        return f"{row['bits_per_byte']:.4f}{own}"

    def cell_without_hits(self, number: int) -> str:
        return ""

    def lines(self) -> dict[str, str]:
        windows = "each its own" if not self.windows else "{:,}, stride {:,}".format(*self.windows)
        found = {"size": f"{self.first['num_bytes']:,} bytes", "context": windows}
        baseline = self.first.get("xz_bits_per_byte")
        return {"xz -9": f"{baseline:.4f}", **found} if isinstance(baseline, float) else found


class _TaskColumn:
    """Scores by one metric of a task that were measured alike."""

    def __init__(self, rows: dict[int, dict]) -> None:
        self.rows, self.first = rows, next(iter(rows.values()))
        self.metric = self.first["metric"]
        self.title = score_title(self.first["task"], self.metric)

    def cell(self, number: int) -> str:
        if number not in self.rows:
            return ""
        row = self.rows[number]
        parts = [score_with_error(self.metric, row["value"], row.get("standard_error") or None, interval_of(row))]
        parts += [_CONSTANT] if row.get("is_constant") else []
        parts += [f"({row['num_cut']:,} prompts cut)"] if row.get("num_cut") else []
        return " ".join(parts)

    def cell_without_hits(self, number: int) -> str:
        entries = self.rows.get(number, {}).get("without_hits") or []
        return "; ".join(without_hits_text(self.metric, one) for one in entries)

    def lines(self) -> dict[str, str]:
        row = self.first
        sha256 = row.get("data_sha256")
        valid = f" ({sha256['valid'][:8]}…)" if isinstance(sha256, dict) and "valid" in sha256 else ""
        examples = f"{row['num_fewshot']}, from {row.get('shots_from')}" if row["num_fewshot"] else "0"
        return {
            "chance": score_text(self.metric, row["chance"]),
            "majority": score_text(self.metric, row["majority"]),
            "size": f"{row['n']:,} items" + (f", the first {row['limit']:,}" if row.get("limit") else ""),
            "prompt": row["style"],
            "examples": examples,
            "data": f"version {row['data_version']}{valid}",
        }


def _text_columns(results: Sequence[Results]) -> list[_TextColumn]:
    """Return a column for each text; texts of the same name but different bytes have one each."""
    found: dict[str, dict[int, list[dict]]] = {}
    for number, one in enumerate(results):
        for row in one.perplexity:
            settings = [row.get(key) for key in ("text", "num_bytes", "xz_bits_per_byte")]
            found.setdefault(json.dumps(settings), {}).setdefault(number, []).append(row)
    return list(map(_TextColumn, found.values()))


def _task_columns(results: Sequence[Results]) -> list[_TaskColumn]:
    """Return a column for each metric of a task and each set of settings, sorted by task and metric."""
    found: dict[str, dict[int, dict]] = {}
    for number, one in enumerate(results):
        for row in one.jglue:
            row = {**row, "limit": actual_limit(row)}
            settings = [row.get(key) for key in ("task", "metric", *_SETTINGS)]
            found.setdefault(json.dumps(settings, sort_keys=True), {})[number] = row
    order = {key: place for place, key in enumerate([*TASKS, *SCORES])}
    columns = map(_TaskColumn, found.values())
    return sorted(columns, key=lambda column: (order.get(column.first["task"], math.inf), order[column.metric]))


def _titles(columns: Sequence[_TextColumn | _TaskColumn]) -> Iterator[str]:
    """Yield the titles of columns, numbered where several have the same."""
    titles = [column.title for column in columns]
    for place, title in enumerate(titles):
        is_one_of_several = titles.count(title) > 1
        yield f"{title} [{titles[: place + 1].count(title)}]" if is_one_of_several else title


def _versions(results: Sequence[Results]) -> list[str]:
    """Return the library versions of the results: one line, or one for each model where they differ."""
    texts = ["; ".join(map(_libraries, one.versions)) for one in results]
    if len(set(texts)) == 1:
        return [f"Measured with {texts[0]}."] if texts[0] else []
    return [
        f"{one.label}: measured with {text or 'unknown versions'}." for one, text in zip(results, texts, strict=True)
    ]


def _libraries(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in _LIBRARIES if name in versions)


def _section(table: Table) -> str:
    head = _html_row("th", table.header)
    rows = "\n".join(_html_row("td", row) for row in table.rows)
    lines = "\n".join(_html_row("td", row) for row in table.lines)
    foot = f"<tfoot>\n{lines}\n</tfoot>" if lines else ""
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    kind = "text" if table.is_text else "scores"
    table_text = f"<table class={kind}>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n{foot}</table>"
    return f"<h2>{html.escape(table.title)}</h2>\n<div class=wide>{table_text}</div>\n<ul>{notes}</ul>"


def _html_row(kind: str, cells: Iterable[str]) -> str:
    first, *others = map(html.escape, cells)
    return f"<tr><th>{first}</th>{''.join(f'<{kind}>{cell}</{kind}>' for cell in others)}</tr>"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>jpllm: leaderboard</title>
<style>
:root { color-scheme: light dark; --line: #8886; --paper: Canvas; }
body { font: 15px/1.5 system-ui, "Hiragino Sans", "Noto Sans JP", sans-serif; margin: 1.5em auto; padding: 0 1em; }
body { max-width: 90em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
td, th { padding: .3em .8em; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
.scores td { white-space: nowrap; }
.text td { text-align: left; overflow-wrap: anywhere; }
thead th { vertical-align: bottom; }
th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; overflow-wrap: anywhere; }
th:first-child { min-width: 12em; max-width: 18em; font-weight: 600; }
tfoot td, tfoot th { font-size: .9em; border-bottom-style: dotted; }
li { overflow-wrap: anywhere; }
@media (max-width: 40em) {
  body { font-size: 14px; padding: 0 .5em; }
  th:first-child { min-width: 7em; max-width: 9em; }
}
</style>
<h1>Leaderboard</h1>
<!--body-->
</html>
"""
