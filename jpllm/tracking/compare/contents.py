"""A comparison of runs: everything that its page, its Markdown and its table in the terminal show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jpllm.tracking.compare.samples import Prompt, prompts_of
from jpllm.tracking.compare.summary import summary
from jpllm.tracking.compare.tables import Table, environment_tables, forgetting_tables, mixture_table, settings_tables
from jpllm.tracking.runs import Refused, Run


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
