"""`jpllm doctor`: whether this machine is ready to train, or a model to be trained, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime, terminal
from jpllm.config.parse import parse
from jpllm.config.settings import option

EXIT_NOT_READY = 1
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass
class DoctorConfig:
    """Doctor"""

    folder: Path = option(Path(), "Where runs will be written: the free space of its disk is looked at.")
    model: str | None = option(
        None, "Look at this model instead of the machine: a folder, or a name on the Hugging Face Hub."
    )
    tokenizer: str | None = option(None, "Its tokenizer, a folder or a name on the Hub; by default that of `model`.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield a problem for a tokenizer without a model."""
        if self.tokenizer and not self.model:
            yield "tokenizer", "acts with model only; name the model too, or remove it"


def doctor(argv: Sequence[str]) -> None:
    """Look whether this machine, or a model of somebody's, is ready to train, and say what to do where it is not."""
    (settings,) = parse(
        [DoctorConfig],
        argv,
        prog="jpllm doctor",
        description=f"{doctor.__doc__} Exit code 0: nothing is in the way, 1: something is, 2: bad input.",
    )
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if settings.model:
        runtime.configure_logging()
        from jpllm.planning.model_checkup import examine_model

        found = examine_model(settings.model, settings.tokenizer)
    else:
        from jpllm.planning.checkup import examine

        found = examine(settings.folder)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    findings = list(found)
    for finding in findings:
        status = Text(finding.status, style=_COLOURS[finding.status])
        table.add_row(finding.subject, status, Text(finding.found), Text(finding.fix))
    terminal.console().print(table)
    if any(finding.status == "fail" for finding in findings):
        raise SystemExit(EXIT_NOT_READY)
