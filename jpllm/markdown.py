"""Make tables that show any text as it is, in Markdown and in the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jpllm.terminal import harmless

if TYPE_CHECKING:
    import rich.table

# A low line between letters begins nothing, and names of files, tasks and settings are full of them.
_MARKS = re.compile(r"[\\`*\[\]<>|#~$]|_(?![^\W_])|(?<![^\W_])_")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], below: Iterable[Sequence[str]] = (), are_numbers: bool = False
) -> str:
    """Return the lines of a Markdown table; all texts are escaped.

    Args:
        below: rows at the end, in italics.
        are_numbers: the columns behind the first are aligned to the right.
    """
    edges = ["---", *["---:" if are_numbers else "---"] * (len(head) - 1)]
    lines = [list(map(escaped, head)), edges, *(list(map(escaped, row)) for row in rows)]
    lines += [[f"*{escaped(cell)}*" if cell else "" for cell in row] for row in below]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """Return Markdown that a cell of a table shows as the text itself, line breaks included, and made harmless."""
    plain = text.replace("&", "&amp;")  # or it would begin an entity
    return "<br>".join(map(harmless, _MARKS.sub(r"\\\g<0>", plain).splitlines()))


def terminal_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> rich.table.Table:
    """Return a table for `rich`; the columns behind the first are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    shown = Table()
    for number, title in enumerate(head):
        shown.add_column(Text(title), justify="right" if number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown
