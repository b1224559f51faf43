"""`jpllm doctor`: whether this machine is ready to train, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import terminal
from jpllm.config.parse import parse
from jpllm.config.settings import option

EXIT_NOT_READY = 1
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass
class DoctorConfig:
    """Doctor"""

    folder: Path = option(Path(), "Where runs will be written: the free space of its disk is looked at.")


def doctor(argv: Sequence[str]) -> None:
    """Look whether this machine is ready to train, and say what to do where it is not."""
    (settings,) = parse(
        [DoctorConfig],
        argv,
        prog="jpllm doctor",
        description=f"{doctor.__doc__} Exit code 0: nothing is in the way, 1: something is, 2: bad input.",
    )
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from jpllm.planning.checkup import examine

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    findings = list(examine(settings.folder))
    for finding in findings:
        status = Text(finding.status, style=_COLOURS[finding.status])
        table.add_row(finding.subject, status, Text(finding.found), Text(finding.fix))
    terminal.console().print(table)
    if any(finding.status == "fail" for finding in findings):
        raise SystemExit(EXIT_NOT_READY)
