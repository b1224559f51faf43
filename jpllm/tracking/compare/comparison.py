"""A comparison of runs: everything that its page shows, and the same as Markdown and as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jpllm import markdown
from jpllm.tracking.compare.samples import Prompt, prompts_of
from jpllm.tracking.compare.summary import summary
from jpllm.tracking.compare.tables import (
    Cell,
    Row,
    Table,
    environment_tables,
    forgetting_tables,
    mixture_table,
    settings_tables,
)
from jpllm.tracking.runs import Refused, Run

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Comparison:
    """What a comparison of runs holds.

    Attributes:
        refused: folders that could not be.
        asked: answers to prompts that were asked for the comparison.
        asked_note: how they were asked.
        recorded: answers of the trainings' own samples.
    """

    runs: Sequence[Run]
    refused: Sequence[Refused]
    summary: Table
    settings: list[Table]
    environment: list[Table]
    forgetting: list[Table]
    mixture: Table | None
    recorded: list[Prompt]
    recorded_note: str = ""
    asked: list[Prompt] = field(default_factory=list)
    asked_note: str = ""

    @property
    def title(self) -> str:
        """The names of the runs while there are few, else their number."""
        names = [run.name for run in self.runs]
        return ", ".join(names) if len(names) <= 4 else f"{len(names)} runs"


def compare(
    runs: Sequence[Run], refused: Sequence[Refused] = (), asked: Sequence[Prompt] = (), asked_note: str = ""
) -> Comparison:
    """Return everything that is to be shown of these runs."""
    recorded, note = prompts_of(runs)
    return Comparison(
        runs=runs,
        refused=refused,
        summary=summary(runs),
        settings=settings_tables(runs),
        environment=environment_tables(runs),
        forgetting=forgetting_tables(runs),
        mixture=mixture_table(runs),
        recorded=recorded,
        recorded_note=note,
        asked=list(asked),
        asked_note=asked_note,
    )


MAX_COLUMNS = 6  # more runs than these stand below each other
CUT_MARK = " [cut]"
BEST_MARK = "● "
_EVIDENT_GROUPS = frozenset(["Size and cost", "On its held-out texts", "JGLUE"])


def to_markdown(found: Comparison) -> str:
    """Return the comparison as Markdown, without curves and the samples before the end of a training."""
    names = [run.name for run in found.runs]
    tables = [*found.settings, *found.environment, *found.forgetting, *([found.mixture] if found.mixture else [])]
    parts = [f"# {markdown.escaped(found.title)}", _markdown_table(found.summary, names)]
    for table in (table for table in tables if not table.is_secondary):
        parts += [f"## {markdown.escaped(table.title)}", _markdown_table(table, names)]
    for title, prompts, note in (
        ("Answers", found.asked, found.asked_note),
        ("Samples at the end of the training", found.recorded, found.recorded_note),
    ):
        if prompts:
            parts += [f"## {title}", _samples_table(prompts, names), *([markdown.escaped(note)] if note else [])]
    remarks = [(run.name, remark) for run in found.runs for remark in run.remarks]
    remarks += [(refused.name, f"not compared: {refused.reason}") for refused in found.refused]
    if remarks:
        parts += ["## Remarks", markdown.table(["run", "remark"], remarks)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def to_terminal(found: Comparison) -> RichTable:
    """Return the summary as a table for the terminal."""
    shown = markdown.terminal_table(*_oriented(found.summary, [run.name for run in found.runs]))
    shown.caption = found.summary.note or None
    return shown


def _markdown_table(table: Table, names: Sequence[str]) -> str:
    text = markdown.table(*_oriented(table, names))
    return f"{text}\n{markdown.escaped(table.note)}" if table.note else text


def _oriented(table: Table, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: runs side by side or, where there are many, below each other."""
    columns = names if table.columns is None else table.columns
    head, rows = ["", *columns], [[_title(row), *map(_shown, row.cells)] for row in table.rows]
    if table.columns is None and len(columns) > MAX_COLUMNS:
        head, *rows = map(list, zip(head, *rows, strict=True))
    return head, rows


def _title(row: Row) -> str:
    title = f"{row.title} ({row.note})" if row.note else row.title
    return f"{row.group}: {title}" if row.group and row.group not in _EVIDENT_GROUPS else title


def _shown(cell: Cell | None) -> str:
    return "" if cell is None else f"{BEST_MARK if cell.is_best else ''}{cell.text}"


def _samples_table(prompts: Sequence[Prompt], names: Sequence[str]) -> str:
    rows = []
    for prompt in prompts:
        latest = [own[-1] if own else None for own in prompt.texts]
        texts = ["" if one is None else one.text.strip() + (CUT_MARK if one.ended is False else "") for one in latest]
        rows.append([prompt.prompt, *texts])
    return markdown.table(["prompt", *names], rows)
