"""The metrics file of a run: one JSON object a line, the source of truth for plots and reports."""

from __future__ import annotations

import json
from pathlib import Path

METRICS_NAME = "metrics.jsonl"
SAMPLES_NAME = "samples.jsonl"
GROUP_PREFIX = "group_bits_per_byte/"  # of figures of a group of texts; the name of the group follows
EVAL_GROUP_PREFIX = f"eval_{GROUP_PREFIX}"  # of their keys in a row


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


class GrowingRows:
    """The rows of a file that grows, and is cut back when a run goes on from a checkpoint; reads what is new."""

    def __init__(self, file: Path, offset: int = 0) -> None:
        """`offset`: bytes that are passed over."""
        self._file, self._begin = file, offset
        self._forget()

    def _forget(self) -> None:
        self._rows: list[dict] = []
        self._offset, self._last_line = self._begin, b""

    def read(self) -> list[dict]:
        """All whole rows that have a step; none where there is no file."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._offset - len(self._last_line))
                if stream.read(len(self._last_line)) != self._last_line:  # cut back, and perhaps grown again
                    self._forget()
                    stream.seek(self._offset)
                new = stream.read()
        except OSError:
            self._forget()
            return []
        whole = new[: new.rfind(b"\n") + 1]
        lines = whole.splitlines(keepends=True)
        self._rows += [row for row in map(_row, lines) if row]
        self._offset += len(whole)
        self._last_line = lines[-1] if lines else self._last_line
        return self._rows


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int | float) else None
