"""The benchmark items that a search found, as a table and as the content of a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from jpllm.evaluation.contamination.search import Findings, Part

if TYPE_CHECKING:
    from rich.table import Table

_EXCERPT_CHARACTERS = 30


def file_content(findings: Sequence[Findings]) -> list[dict]:
    """Return for each benchmark its file, the ids of the items found (to leave out of a score), and all hits."""
    return [
        {
            "name": one.benchmark.label,
            "path": str(one.benchmark.path),
            "sha256": hashlib.sha256(one.benchmark.path.read_bytes()).hexdigest(),
            "id_column": one.benchmark.id_column,
            "context": one.benchmark.context,
            "num_items": len(one.benchmark.items),
            "leave_out": [one.benchmark.items[item].id for item in sorted(one.parts[one.whole].hits)],
            "parts": {part.name: _part_content(one, part) for part in one.parts},
        }
        for one in findings
    ]


def terminal_table(findings: Sequence[Findings]) -> Table:
    """Return a table with a line for each part of each benchmark, and the first hit as an example."""
    from rich.table import Table

    table = Table(title="Benchmark items in the documents")
    for name in ("benchmark", "part"):
        table.add_column(name, overflow="fold")
    for name in ("looked for", "too short", "found", "share"):
        table.add_column(name, justify="right")
    table.add_column("example")
    for one in findings:
        for number, part in enumerate(one.parts):
            first = "" if number else one.benchmark.label
            table.add_row(first, part.name, *_counts(one, part), _example(one, part), end_section=part is one.parts[-1])
    return table


def _part_content(findings: Findings, part: Part) -> dict:
    hits = [{"item": findings.benchmark.items[item].id, **asdict(hit)} for item, hit in sorted(part.hits.items())]
    return {
        "num_looked_for": _num_looked_for(findings, part),
        "num_only_with_choices": part.num_only_with_choices,
        "num_too_short": part.num_too_short,
        "num_found": len(hits),
        "hits": hits,
    }


def _num_looked_for(findings: Findings, part: Part) -> int:
    return len(findings.benchmark.items) - part.num_too_short


def _counts(findings: Findings, part: Part) -> Iterator[str]:
    num_looked_for = _num_looked_for(findings, part)
    yield f"{num_looked_for:,}"
    yield f"{part.num_too_short:,}"
    yield f"{len(part.hits):,}"
    yield f"{len(part.hits) / num_looked_for:.2%}" if num_looked_for else "–"


def _example(findings: Findings, part: Part) -> str:
    if not part.hits:
        return ""
    item, hit = min(part.hits.items())
    text = hit.excerpt if len(hit.excerpt) <= _EXCERPT_CHARACTERS else hit.excerpt[: _EXCERPT_CHARACTERS - 1] + "…"
    return f"{findings.benchmark.items[item].id} in {hit.source}:{hit.document} {text}"
