"""Choose, of what runs wrote for the same prompts, as much as a page can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from jpllm.tracking.runs import Run, number

MAX_PROMPTS = 12
_MAX_TIMES = 20  # evaluations of a run, of which there may be hundreds
_MAX_TEXTS = 1600
_MAX_CHARACTERS = 500
_MAX_LAST_CHARACTERS = 2000


@dataclass(frozen=True)
class Sample:
    """A text at some point of a training.

    Attributes:
        step, tokens: None where it was not written during a training.
        ended: whether the model ended it itself; None where that was not recorded.
    """

    text: str
    step: float | None = None
    tokens: float | None = None
    ended: bool | None = None


@dataclass(frozen=True)
class Prompt:
    """The texts of all runs for a prompt, the latest last; none of a run that was not asked.

    Attributes:
        wanted: the known answer.
        num_times: how often each run was asked, which may be more often than there are texts.
    """

    prompt: str
    texts: list[list[Sample]]
    wanted: str | None = None
    num_times: list[int] = field(default_factory=list)


def prompts_of(runs: Sequence[Run]) -> tuple[list[Prompt], str]:
    """Return the prompts that most runs were asked, and a note on those that are not shown."""
    rows_of_run = [_by_prompt(run.samples) for run in runs]
    num_runs: dict[str, int] = {}
    for own in rows_of_run:
        for prompt in own:
            num_runs[prompt] = num_runs.get(prompt, 0) + 1
    chosen = sorted(num_runs, key=lambda prompt: -num_runs[prompt])[:MAX_PROMPTS]
    most_times = max(2, min(_MAX_TIMES, _MAX_TEXTS // max(1, len(chosen) * len(runs))))
    found = []
    for prompt in chosen:
        rows = [own.get(prompt, []) for own in rows_of_run]
        wanted = next((row["wanted"] for own in rows for row in own if isinstance(row.get("wanted"), str)), None)
        found.append(Prompt(prompt, [_thinned(own, most_times) for own in rows], wanted, list(map(len, rows))))
    note = f"{len(chosen)} of {len(num_runs):,} prompts" if len(num_runs) > len(chosen) else ""
    return found, note


def _by_prompt(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the rows of each prompt, one for each step."""
    found: dict[str, dict[float, dict]] = {}
    for row in rows:
        found.setdefault(row["prompt"], {})[row["step"]] = row
    return {prompt: [own[step] for step in sorted(own)] for prompt, own in found.items()}


def _thinned(rows: Sequence[dict], most_times: int) -> list[Sample]:
    """Return the samples of the first row, of the last one, and of rows evenly between them."""
    if not rows:
        return []
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most_times)).round().astype(int))
    return [_sample(rows[place], place == len(rows) - 1) for place in places]


def _sample(row: dict, is_last: bool) -> Sample:
    most = _MAX_LAST_CHARACTERS if is_last else _MAX_CHARACTERS
    text = row["text"] if len(row["text"]) <= most else row["text"][:most] + "…"
    ended = row.get("ended")
    return Sample(text, row["step"], number(row.get("tokens")), ended if isinstance(ended, bool) else None)
