"""Write a comparison as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

import html
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources

import numpy as np

from jpllm import __version__
from jpllm.terminal import harmless
from jpllm.tracking.compare.comparison import Comparison
from jpllm.tracking.compare.summary import loss_unit
from jpllm.tracking.compare.tables import Table
from jpllm.tracking.metrics import EVAL_GROUP_PREFIX, PLACES, Clock, Curve
from jpllm.tracking.runs import Run

SCRIPTS = ("dom.js", "tables.js", "samples.js", "axes.js", "frame.js", "chart.js", "curves.js", "page.js")
_MAX_POINTS, _MIN_POINTS, _MAX_LONG_POINTS = 1500, 200, 120_000
_MAX_CLOCK_POINTS = 1000
_NUM_DIGITS = 6
_LEAST_SEEN = 0.005  # of the height of a picture
_TITLES = {
    "loss": "training loss",
    "eval_loss": "held-out loss",
    "eval_bits_per_byte": "held-out bits per byte",
    "eval_masked_accuracy": "masked words filled in right",
    "eval_token_accuracy": "answer tokens right",
    "eval_answers_ended": "answers that end by themselves",
    "eval_answers_right": "right answers",
    "eval_accuracy": "validation accuracy",
    "eval_macro_f1": "validation macro-F1",
    "eval_pearson": "validation Pearson",
    "eval_spearman": "validation Spearman",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "kwh": "energy, kWh",
    "peak_host_bytes": "peak host memory, bytes",
    "peak_gpu_bytes": "peak GPU memory, bytes",
}
_FOLDED = frozenset(["learning_rate", "grad_norm", "tokens_per_second", "kwh", "peak_host_bytes", "peak_gpu_bytes"])


def to_html(found: Comparison) -> str:
    """Return the page of a comparison."""
    parts = resources.files("jpllm.tracking.compare") / "assets"
    text = {name: (parts / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *SCRIPTS)}
    page = text["page.html"]
    scripts = "\n".join(text[name] for name in SCRIPTS)
    for mark, content in (
        ("<!-- title -->", harmless(html.escape(found.title))),
        ("/* style */", text["page.css"]),
        ("/* scripts */", f'"use strict";\n{scripts}'),
        ("<!-- data -->", embedded(payload(found))),  # last: what runs are called is not searched for marks
    ):
        before, _, after = page.partition(mark)
        page = before + content + after
    return page


def embedded(value: object) -> str:
    """Return JSON that ends no script element, opens no comment and turns no line round, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return harmless(text)


def payload(found: Comparison) -> dict:
    """Return what the scripts of the page read."""
    num_points = points_per_curve(found.runs)
    tables = {
        "summary": [found.summary],
        "settings": found.settings,
        "environment": found.environment,
        "forgetting": found.forgetting,
        "mixture": [found.mixture] if found.mixture else [],
    }
    return {
        "title": found.title,
        "made": f"jpllm {__version__}, {time.strftime('%Y-%m-%d %H:%M')}",
        "runs": [_run(run, num_points) for run in found.runs],
        "metrics": metrics(found.runs),
        "tables": {name: [_table(table) for table in own] for name, own in tables.items()},
        "asked": {"note": found.asked_note, "prompts": [asdict(prompt) for prompt in found.asked]},
        "recorded": {"note": found.recorded_note, "prompts": [asdict(prompt) for prompt in found.recorded]},
        "refused": [asdict(refused) for refused in found.refused],
    }


def points_per_curve(runs: Sequence[Run]) -> int:
    """Return how many points a curve may have for the page to stay small, however many runs there are."""
    num_long = sum(len(curve.steps) > _MIN_POINTS for run in runs for curve in run.curves.values())
    return max(_MIN_POINTS, min(_MAX_POINTS, _MAX_LONG_POINTS // max(1, num_long)))


def metrics(runs: Sequence[Run]) -> list[dict]:
    """Return key and title of each curve, whether it is shown at first, and the levels to compare it with."""
    found = dict.fromkeys(key for run in runs for key in run.curves)
    known = [*_TITLES][:3]
    order = [*known, *sorted(key for key in found if key.startswith(EVAL_GROUP_PREFIX)), *_TITLES]
    keys = [key for key in dict.fromkeys(order) if key in found]
    keys += sorted(found.keys() - set(keys))
    return [
        {
            "key": key,
            "title": _title(key, runs),
            "isShown": key not in _FOLDED and ("/" not in key or key.startswith(EVAL_GROUP_PREFIX)),
            "isNoisy": not key.startswith("eval_"),
            "levels": _levels(key, runs),
        }
        for key in keys
    ]


def _title(key: str, runs: Sequence[Run]) -> str:
    if key in ("loss", "eval_loss"):
        units = {loss_unit(run) for run in runs if key in run.curves} - {None}
        return f"{_TITLES[key]}, {units.pop() if len(units) == 1 else 'units differ'}" if units else _TITLES[key]
    if key in _TITLES:
        return _TITLES[key]
    if key.startswith(EVAL_GROUP_PREFIX):
        return f"bits per byte, {key.removeprefix(EVAL_GROUP_PREFIX)} texts"
    name = key.removeprefix("eval_").replace("_", " ")
    return name.replace("/", ", ", 1)


def _levels(key: str, runs: Sequence[Run]) -> list[dict]:
    """Return the levels of a picture: what a compressor or chance reaches, where all runs that know it agree."""
    wanted = {
        "eval_bits_per_byte": (("xz -9", ("xz_bits_per_byte",)),),
        "eval_accuracy": (("chance", ("validation", "chance")), ("majority", ("validation", "majority"))),
    }
    found = []
    for label, path in wanted.get(key, ()):
        values = {run.result(*path) for run in runs} - {None}
        if len(values) == 1:
            found.append({"label": label, "value": values.pop()})
    return found


def _run(run: Run, num_points: int) -> dict:
    return {
        "name": run.name,
        "state": run.state,
        "remarks": run.remarks,
        "clock": drawn_clock(run.clock),
        "curves": {key: drawn(curve, num_points) for key, curve in run.curves.items()},
    }


def _table(table: Table) -> dict:
    """Return a table without its empty values: a page of many runs has many cells."""
    rows = [{**asdict(row), "cells": [cell and _filled(asdict(cell)) for cell in row.cells]} for row in table.rows]
    return {**asdict(table), "rows": rows}


def _filled(values: dict) -> dict:
    return {key: value for key, value in values.items() if value is not None and value is not False}


def drawn(curve: Curve, num_points: int) -> dict[str, list]:
    """Return at most `num_points` points for a picture: `step` as differences, and `mean`.

    A curve with more is cut into runs of neighbouring rows. So that no peak is lost these also have `low` and `high`,
    unless nobody would see them apart.
    """
    num_rows = len(curve.steps)
    if num_rows <= num_points:
        return {"step": differences(curve.steps), "mean": rounded(curve.values)}
    starts = np.arange(num_points) * num_rows // num_points
    counts = np.diff(starts, append=num_rows)
    is_known = np.isfinite(curve.values)
    num_known = np.add.reduceat(is_known.astype(np.int64), starts)
    sums = np.add.reduceat(np.where(is_known, curve.values, 0.0), starts)
    means = np.where(num_known > 0, sums / np.maximum(num_known, 1), np.nan)
    low = np.minimum.reduceat(np.where(is_known, curve.values, np.inf), starts)
    high = np.maximum.reduceat(np.where(is_known, curve.values, -np.inf), starts)
    found = {"step": differences(curve.steps[starts + counts // 2]), "mean": rounded(means)}
    seen = num_known > 0
    if seen.any() and (high - low)[seen].max() > _LEAST_SEEN * (high[seen].max() - low[seen].min()):
        found |= {"low": rounded(low), "high": rounded(high)}
    return found


def drawn_clock(clock: Clock) -> dict[str, list]:
    """Return the places at as many steps as a page needs to convert the others between them; training time in hours."""
    if not len(clock):
        return {}
    num_points = min(len(clock), _MAX_CLOCK_POINTS)
    chosen = np.linspace(0, len(clock) - 1, num_points).round().astype(np.int64)
    found = {place: clock.places[place][chosen] for place in PLACES}
    return {
        "step": differences(found["step"]),
        "tokens": rounded(found["tokens"], 12),
        "epoch": rounded(found["epoch"]),
        "hours": rounded(found["training_seconds"] / 3600),
    }


def differences(steps: np.ndarray) -> list[int | float]:
    """Return the first step, and what each of the others adds."""
    return [int(step) if step.is_integer() else step for step in np.diff(steps, prepend=0.0).tolist()]


def rounded(values: np.ndarray, num_digits: int = _NUM_DIGITS) -> list[int | float | None]:
    """Return numbers with `num_digits` significant digits, whole ones as integers, and None for what is not finite."""
    found: list[int | float | None] = []
    for value in values.tolist():
        short = float(f"{value:.{num_digits}g}")
        found.append(None if not math.isfinite(short) else int(short) if short.is_integer() else short)
    return found
