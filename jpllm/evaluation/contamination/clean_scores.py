"""Scores without the items that occur in training texts.

They are computed from files alone, without asking the model again: a report of `jpllm data contamination` names the
items that it found, and an evaluation keeps every answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jpllm.evaluation.jglue.harness import ANSWERS_FOLDER
from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.score_rows import interval, standard_error
from jpllm.runtime import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a contamination report says of one file of a benchmark.

    Attributes:
        num_items: how many the file has.
        items: ids of the items that occur in the training texts.
        contexts: ids of the items whose context occurs in them; empty where there are no contexts.
    """

    name: str
    num_items: int
    items: frozenset[str]
    contexts: frozenset[str]
    has_contexts: bool


@dataclass(frozen=True)
class Report:
    """A report of `jpllm data contamination`; `found` is by the SHA-256 of the benchmark's file."""

    file: Path
    sha256: str
    found: dict[str, Found]


class Answer(NamedTuple):
    """The right and the given answer of an item, and the number of the text that it is about."""

    pair: tuple
    cluster: int


def read_report(file: Path) -> Report:
    """Read the report that `jpllm data contamination` wrote.

    Raises:
        InputError: there is no such file, it is broken or no such report, or it has only numbers of rows for its items.
    """
    if not file.is_file():
        raise InputError(f"contamination: {file}: no such file; jpllm data contamination writes it (output)")
    content = file.read_bytes()
    try:
        benchmarks = {one["sha256"]: _found(file, one) for one in json.loads(content)["benchmarks"]}
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"contamination: {file}: not a whole report of jpllm data contamination ({error!r}); run that again"
        ) from error
    return Report(file, hashlib.sha256(content).hexdigest(), benchmarks)


def add_scores_without_hits(rows: list[dict], report: Report, output_dir: Path) -> None:
    """Add `without_hits` to the JGLUE rows whose file the report covers, from the answers in `output_dir`.

    `without_hits` has an entry without the items found, and for tasks with contexts a second one that also leaves out
    the items whose context was found. An entry says what was left out and how many, and has `n`, `value`,
    `standard_error` and `interval` (None where no item is left). Rows whose answers are missing are left as they are,
    with a warning.

    Raises:
        InputError: the report covers none of the files, answers do not give the score of their row, or more of the
            items found lack an answer than were left out when the model was asked.
    """
    known = [row for row in rows if row["data_sha256"]["valid"] in report.found]
    if not known:
        names = ", ".join(one.name for one in report.found.values())
        raise InputError(
            f"contamination: {report.file}: its benchmarks ({names}) are not the files that were scored; search for "
            "the validation files of jglue_dir"
        )
    for row in known:
        file = output_dir / ANSWERS_FOLDER / row.get("answers", "")
        if not file.is_file():
            logger.warning("%s: no such file; %s, %s stays as it is", file, row["task"], row["metric"])
            continue
        found, answers = report.found[row["data_sha256"]["valid"]], _answers(row, file)
        _refuse_other_names(report, found, row, answers)
        row["without_hits"] = [_score(row["metric"], answers, *left_out) for left_out in _left_out(found)]
        row["contamination_sha256"] = report.sha256
    if others := sorted({row["task"] for row in rows} - {row["task"] for row in known}):
        logger.warning("%s: nothing is known of the files of %s", report.file, ", ".join(others))


def _found(file: Path, benchmark: dict) -> Found:
    items, context = frozenset(benchmark["leave_out"]), benchmark["context"]
    hits = benchmark["parts"][context]["hits"] if context else []
    if benchmark["id_column"] is None:
        raise InputError(
            f"contamination: {file}: {benchmark['name']} names items by their row; search again with its id_column"
        )
    contexts = frozenset(hit["item"] for hit in hits)
    return Found(benchmark["name"], benchmark["num_items"], items, contexts, context is not None)


def _refuse_other_names(report: Report, found: Found, row: dict, answers: dict[str, Answer]) -> None:
    """Raise InputError if items found have no answer, although only fewer items than these were not asked."""
    absent = sorted((found.items | found.contexts) - answers.keys())
    num_not_asked = found.num_items - len(answers)  # examples, and what the task leaves out
    if row["limit"] is None and len(absent) > num_not_asked:
        raise InputError(
            f"contamination: {report.file}: {found.name}: {len(absent):,} items found ({absent[0]!r}, …) have no "
            f"answer, but only {num_not_asked:,} of all {found.num_items:,} were not asked: their names are others; "
            f"search again with the id_column of {row['task']}"
        )


def _left_out(found: Found) -> Iterator[tuple[str, frozenset[str]]]:
    yield "items", found.items
    if found.has_contexts:
        yield "items and contexts", found.items | found.contexts


def _score(metric: str, answers: dict[str, Answer], what: str, left_out: frozenset[str]) -> dict:
    kept = [answer for name, answer in answers.items() if name not in left_out]
    pairs, clusters = [answer.pair for answer in kept], [answer.cluster for answer in kept]
    value, error = metrics.SCORES[metric](pairs) if kept else None, standard_error(metric, pairs, clusters)
    return {
        "left_out": what,
        "num_left_out": len(answers) - len(kept),
        "n": len(kept),
        "value": value,
        "standard_error": error,
        "interval": None if value is None else interval(metric, value, error, len(kept), clusters),
    }


def _answers(row: dict, file: Path) -> dict[str, Answer]:
    """Return the answers by the ids of their items.

    Raises:
        InputError: the file is broken, or its answers do not give the score of the row.
    """
    try:
        kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        answers = {one["id"]: Answer((one["gold"], one["answer"]), one["cluster"]) for one in kept}
        value = metrics.SCORES[row["metric"]]([answer.pair for answer in answers.values()])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: broken ({error!r}); score {row['task']} again into a new output_dir") from error
    if len(answers) != row["n"] or not math.isclose(value, row["value"], abs_tol=1e-9):
        raise InputError(
            f"{file}: {len(answers):,} answers with {row['metric']} {value:.4f}, but the score is {row['value']:.4f} "
            f"(n {row['n']:,}): it was changed; score {row['task']} again into a new output_dir"
        )
    return answers
