"""Make the tables of a comparison, for every format: settings, forgetting, data, machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jpllm.tracking.metrics import EVAL_GROUP_PREFIX
from jpllm.tracking.quantities import count, four_decimals, per_cent
from jpllm.tracking.runs import Run, number, rows_of

_OWN_KEYS = frozenset(["output_dir"])  # another one in each run, and saying nothing
_SESSION_KEYS = frozenset(["started", "keys", "program", "sessions"])
_MAX_CHARACTERS = 300
_NOTEWORTHY_BITS = 0.001
_GROUP_TEXT_KEYS = ("old_texts", "replay_sources", "held_out_bytes")  # of instruction tuning: not in its held-out file
_OTHER_TEXTS = "the runs' texts may differ"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        value: what it is sorted by.
        bar: length of a bar, from 0 to 1, and `mark` a place on its scale: chance, or what was asked for.
        tone: whether it is good news.
        is_best: of the cells of its row.
    """

    text: str
    value: float | None = None
    bar: float | None = None
    mark: float | None = None
    tone: Literal["good", "bad"] | None = None
    is_best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table: what one thing is in each column; None where a column does not know it."""

    title: str
    cells: list[Cell | None]
    group: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table as rows of cells.

    Attributes:
        columns: their names; None where they are the runs.
        note: what is to be read with it.
        is_secondary: shown on demand.
    """

    title: str
    rows: list[Row]
    columns: list[str] | None = None
    note: str = ""
    is_secondary: bool = False


def settings_tables(runs: Sequence[Run]) -> list[Table]:
    """Return tables of the settings that differ."""
    flat = [dict(flattened(run.settings, _OWN_KEYS)) if run.settings else None for run in runs]
    return _differing(flat, "Settings that differ", "Settings that only some of the runs have")


def environment_tables(runs: Sequence[Run]) -> list[Table]:
    """Return tables of what differs in machines, versions and code."""
    flat = [dict(flattened(_environment(run), _SESSION_KEYS)) or None for run in runs]
    return _differing(flat, "Machines and versions that differ", "Recorded of some of the runs only")


def _differing(flat: Sequence[Mapping[str, str] | None], title: str, title_of_others: str) -> list[Table]:
    """Return what runs with a key differ in, then keys that only some have; `flat` has None where nothing is known."""
    known = [own for own in flat if own is not None]
    differing, others = [], []
    for key in dict.fromkeys(key for own in known for key in own):
        values = [own[key] for own in known if key in own]
        row = Row(key, [Cell(own[key]) if own is not None and key in own else None for own in flat])
        if len(set(values)) > 1:
            differing.append(row)
        elif len(values) < len(known):
            others.append(row)
    tables = [Table(title, differing), Table(title_of_others, others, is_secondary=True)]
    return [table for table in tables if table.rows]


def _environment(run: Run) -> dict:
    """Return the environment of the latest start, and what the results add to it."""
    sessions = rows_of(run.environment.get("sessions"))
    added = {key: run.results[key] for key in ("device", "engine", "versions") if key in run.results}
    return {**(sessions[-1] if sessions else run.environment), **added}


def flattened(value: object, without: frozenset[str] = frozenset(), key: str = "") -> Iterator[tuple[str, str]]:
    """Yield keys such as `sources[0].weight`, each with its value as a text."""
    if isinstance(value, Mapping) and (value or not key):
        for name, item in value.items():
            if key or name not in without:
                yield from flattened(item, without, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from flattened(item, without, f"{key}[{index}]")
    else:
        text = ", ".join(map(_text, value)) if isinstance(value, list) and value else _text(value)
        yield key, text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "…"


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def mixture_table(runs: Sequence[Run]) -> Table | None:
    """Return the shares of the training tokens by source, asked and achieved; None where no run has several."""
    uses = [{str(row.get("source")): row for row in rows_of(run.results.get("mixture"))} for run in runs]
    if all(len(own) < 2 for own in uses):
        return None
    sources = dict.fromkeys(source for own in uses for source in own)
    rows = [Row(source, [_use(own.get(source)) for own in uses]) for source in sources]
    note = "Share of the tokens that were trained on; the mark of a bar is what was asked for."
    return Table("Training data", rows, note=note)


def _use(row: dict | None) -> Cell | None:
    if row is None or (achieved := number(row.get("achieved_share"))) is None:
        return None
    requested, tokens, epochs = (number(row.get(key)) for key in ("requested_share", "tokens", "epochs"))
    asked = "" if requested is None else f" (asked {per_cent(requested)})"
    parts = [f"{per_cent(achieved)}{asked}"]
    parts += [f"{count(tokens)} tokens"] if tokens is not None else []
    parts += [f"{epochs:.2f} epochs"] if epochs is not None else []
    return Cell(", ".join(parts), achieved, bar=achieved, mark=requested)


def forgetting_tables(runs: Sequence[Run]) -> list[Table]:
    """Return tables of bits per byte of each group of texts before and after each run, and in evaluations."""
    changes = [group_changes(run) for run in runs]
    groups = dict.fromkeys(group for own in changes for group in own)
    rows = [
        Row(
            group,
            [change_cell(*own[group]) if group in own else None for own in changes],
            note=note_on_group(group, runs, changes),
        )
        for group in groups
    ]
    note = "Bits per byte of each group of texts, before → after. Above 0 something was forgotten."
    found = [Table("Learned and forgotten", rows, note=note)] if rows else []
    for run in runs:
        for evaluation in run.evaluations:
            if table := _matrix(run.name, evaluation.get("forgetting")):
                found.append(table)
    return found


def group_changes(run: Run) -> dict[str, tuple[float, float]]:
    """Return bits per byte of each group of texts in the first and in the last evaluation, where there are two."""
    known = run.results.get("groups")
    found = {}
    for group, change in known.items() if isinstance(known, dict) else ():
        before, after = (number(change.get(key)) if isinstance(change, dict) else None for key in ("before", "after"))
        if before is not None and after is not None:
            found[group] = (before, after)
    for key, curve in run.curves.items():
        before, after = (number(float(curve.values[index])) for index in (0, -1))
        is_change = key.startswith(EVAL_GROUP_PREFIX) and len(curve.values) > 1
        if is_change and before is not None and after is not None:
            found.setdefault(key.removeprefix(EVAL_GROUP_PREFIX), (before, after))
    return found


def change_cell(before: float, after: float) -> Cell:
    """Return the cell of a change of bits per byte: `0.9430 → 0.9489 (+0.0059)`."""
    change = after - before
    return Cell(f"{four_decimals(before)} → {four_decimals(after)} ({change:+.4f})", change, tone=tone_of(change))


def tone_of(change: float) -> Literal["good", "bad"] | None:
    """Return whether a change of bits per byte is good news; None where it is too small for either."""
    return None if abs(change) < _NOTEWORTHY_BITS else "bad" if change > 0 else "good"


def note_on_group(group: str, runs: Sequence[Run], changes: Sequence[Mapping[str, object]]) -> str:
    """Return a warning where runs may have other texts in a group of the same name; `changes` is by run."""
    texts = {_texts_of_groups(run) for run, own in zip(runs, changes, strict=True) if group in own}
    num_runs = sum(group in own for own in changes)
    return _OTHER_TEXTS if num_runs > 1 and (len(texts) > 1 or None in texts) else ""


def _texts_of_groups(run: Run) -> tuple[str, ...] | None:
    """Return what decides on the texts of a run's groups; None where that is not known."""
    asked = (json.dumps(run.settings.get(key), default=str, sort_keys=True) for key in _GROUP_TEXT_KEYS)
    return (run.held_out, *asked) if run.held_out else None


def _matrix(name: str, found: object) -> Table | None:
    """Return the table of a `jpllm.evaluation.forgetting.Matrix` in an evaluation; None where there is none."""
    models = found.get("models") if isinstance(found, dict) else None
    groups = found.get("bits_per_byte") if isinstance(found, dict) else None
    if not (isinstance(models, list) and models and isinstance(groups, dict)):
        return None
    rows = []
    for group, values in groups.items():
        numbers = [number(value) for value in values] if isinstance(values, list) else []
        bits = [value for value in numbers if value is not None]
        if not len(bits) == len(numbers) == len(models):
            continue
        rows.append(Row(group, [Cell(four_decimals(bits[0]), bits[0])] + [change_cell(bits[0], b) for b in bits[1:]]))
    note = "Bits per byte; changes are those from the first model."
    return Table(f"Forgetting, evaluation of {name}", rows, [str(model) for model in models], note) if rows else None
