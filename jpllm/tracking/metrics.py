"""The metrics file of a run: one JSON object a line, the source of truth for plots and reports."""

from __future__ import annotations

import json
from pathlib import Path

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"


def append_row(file: Path, row: dict) -> None:
    """Add one row and hand it to the operating system at once, so that a killed run keeps what it measured."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_rows(file: Path) -> list[dict]:
    """All complete rows; a last line cut off by a crash is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").split("\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
