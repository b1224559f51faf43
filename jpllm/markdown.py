"""Tables in Markdown that show any text as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table; texts are escaped."""
    lines = [list(map(escaped, head)), ["---"] * len(head), *(list(map(escaped, row)) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def escaped(text: str) -> str:
    """Text that a cell of a table shows as it is, line breaks included."""
    plain = text.replace("&", "&amp;")  # or it would begin an entity
    shown = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#~$" else letter for letter in plain)
    return "<br>".join(shown.splitlines())
