"""Write a report at Weights & Biases that compares runs which were mirrored there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import markdown, whole_files
from jpllm.runtime import InputError
from jpllm.tracking.runs import Run
from jpllm.tracking.wandb.content import REPORT_AXES, REPORT_TABLES
from jpllm.tracking.wandb.mirror import has_login

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot, Report

_MAX_TITLE = 128
_GRID_COLUMNS, _PLOT_ROWS, _TABLE_ROWS = 24, 8, 12


def save(runs: Sequence[Run], target: str) -> str:
    """Save the report of the runs in `target`, ENTITY/PROJECT, and return its address.

    Raises:
        InputError: no login, no such project, no network, no mirrored run, or wandb-workspaces is not installed.
    """
    found = report(runs, *entity_and_project(target))
    if not has_login():
        raise InputError("wandb: no login; run wandb login, or write the report to a file with wandb_dry_run")
    try:
        found.save()
    except Exception as error:  # W&B's own, those of the network, those of the interface: what they say is all there is
        raise InputError(f"wandb: the report cannot be saved in {target}: {error}") from error
    return found.url


def write(runs: Sequence[Run], target: str, file: Path) -> None:
    """Write the JSON that `save` would send, without any network.

    Raises:
        InputError: no mirrored run, or wandb-workspaces is not installed.
    """
    found = report(runs, *entity_and_project(target))
    model = found._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))  # as its own `save` makes it
    content = {"entity": found.entity, "project": found.project, "title": found.title, "spec": spec}
    whole_files.write_whole(file, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def entity_and_project(target: str) -> list[str]:
    """Return the two parts of ENTITY/PROJECT. Raises InputError where these are not two."""
    parts = target.split("/")
    if len(parts) != 2 or not all(parts):
        raise InputError(f"wandb: write ENTITY/PROJECT, not {target}")
    return parts


def report(runs: Sequence[Run], entity: str, project: str) -> Report:
    """Return the report: runs by name, curves against tokens and steps, settings that differ, samples and scores.

    Raises:
        InputError: none of the runs was mirrored, or wandb-workspaces is not installed.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise InputError("wandb: the report needs the package wandb-workspaces: pip install 'jpllm[wandb]'")
    mirrored = [run for run in runs if run.wandb_id]
    if not mirrored:
        raise InputError("wandb: none of the runs was mirrored to W&B; train with report_to: wandb")
    from wandb_workspaces import expr
    from wandb_workspaces.reports import v2

    def grid(panels: list) -> v2.PanelGrid:
        # no project: that of the report, so that no network is needed to look it up
        ids = expr.Metric("ID").isin([run.wandb_id for run in mirrored])
        return v2.PanelGrid(runsets=[v2.Runset(name="compared runs", filters=expr.And(ids))], panels=panels)

    title = f"Comparison of {', '.join(run.name for run in mirrored)}"
    scores, others = metrics(mirrored)
    tables = [
        v2.WeavePanelSummaryTable(table_name=name, layout=_layout(index)) for index, name in enumerate(REPORT_TABLES)
    ]
    return v2.Report(
        entity=entity,
        project=project,
        title=title if len(title) <= _MAX_TITLE else f"{title[: _MAX_TITLE - 1]}…",
        width="fluid",
        blocks=[
            v2.MarkdownBlock(_named(runs)),
            v2.H2("Losses and scores"),
            grid(_line_plots(scores, len(mirrored))),
            v2.H2("Settings that differ"),
            grid([v2.RunComparer(diff_only="split", layout=v2.Layout(w=_GRID_COLUMNS, h=_TABLE_ROWS))]),
            v2.H2("Samples and evaluations"),
            grid(tables),
            v2.H2("Speed, memory and gradients"),
            grid(_line_plots(others, len(mirrored))),
        ],
    )


def metrics(runs: Iterable[Run]) -> tuple[list[str], list[str]]:
    """Return the metrics of the runs: losses with the figures of evaluations, and the others."""
    names = sorted({name for run in runs for name in run.curves})
    scores = [name for name in names if name == "loss" or name.startswith("eval_")]
    first = [name for name in ("loss", "eval_loss", "eval_bits_per_byte") if name in scores]
    return list(dict.fromkeys(first + scores)), [name for name in names if name not in scores]


def _line_plots(names: Sequence[str], num_runs: int) -> list[LinePlot]:
    """Return plots of each metric of all runs against tokens, and beside it against steps."""
    from wandb_workspaces.reports import v2

    width = _GRID_COLUMNS // len(REPORT_AXES)
    return [
        v2.LinePlot(
            title=f"{name} by {axis}",
            x=axis,
            y=[name],
            max_runs_to_show=num_runs,  # else W&B draws ten
            layout=v2.Layout(x=column * width, y=row * _PLOT_ROWS, w=width, h=_PLOT_ROWS),
        )
        for row, name in enumerate(names)
        for column, axis in enumerate(REPORT_AXES)
    ]


def _layout(index: int):
    from wandb_workspaces.reports import v2

    return v2.Layout(y=index * _TABLE_ROWS, w=_GRID_COLUMNS, h=_TABLE_ROWS)


def _named(runs: Sequence[Run]) -> str:
    """Return a Markdown table of which run is which at W&B."""
    rows = [(run.name, run.wandb_id or "not mirrored, so not below", run.state) for run in runs]
    return markdown.table(("run", "id at W&B", "state"), rows)
