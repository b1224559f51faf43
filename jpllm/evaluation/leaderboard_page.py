"""The tables of `jpllm.evaluation.leaderboard` on the terminal, as Markdown, and as a page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import markdown
from jpllm.evaluation.leaderboard import Table
from jpllm.runtime import InputError, write_whole

if TYPE_CHECKING:
    import rich.table

SUFFIXES = (".md", ".html")


def write(file: Path, tables: Sequence[Table]) -> None:
    """Write the tables in the format that the file's name ends with; whole or not at all.

    Raises:
        InputError: the name ends with something else.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(f"output: {file}: write a file name that ends with {' or '.join(SUFFIXES)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, to_markdown(tables) if file.suffix == ".md" else page(tables))


def terminal(tables: Sequence[Table]) -> list[rich.table.Table]:
    """For `rich`, the notes as captions."""
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
    """The lines below the models in italics."""
    parts = ["# Leaderboard"]
    for table in tables:
        notes = "\n".join(f"- {markdown.escaped(note)}" for note in table.notes)
        text = markdown.table(table.header, table.rows, table.lines)
        parts.append(f"## {table.title}\n\n{text}\n{notes}".rstrip())
    return "\n\n".join(parts) + "\n"


def page(tables: Sequence[Table]) -> str:
    """A page that needs nothing else; wide tables are moved sideways below the names of the models, which stay."""
    return _PAGE.replace("<!--body-->", "\n".join(map(_section, tables)))


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
