"""JGLUE by lm-evaluation-harness: a model's answers and their scores."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jpllm import runtime
from jpllm.data.read.jsonl import write_jsonl
from jpllm.evaluation import report
from jpllm.evaluation.jglue.continuations import OnDone, PromptReader
from jpllm.evaluation.jglue.files import Style, TaskData
from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.lm_eval_tasks.items import text_key
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS
from jpllm.evaluation.jglue.score_rows import score_row
from jpllm.evaluation.results import actual_limit, measured_with
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from types import ModuleType

    from lm_eval.api.model import LM
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

TASK_FILES = Path(__file__).parent / "lm_eval_tasks"
ANSWERS_FOLDER = "answers"
_READ_AND_ASKED_BY = ("kind", "id_column", "text_columns", "choice_columns", "labels")  # fields of a row of TASKS
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """Scores and answers of one task with one style of prompts.

    Args:
        rows: one per metric, as JSON holds them; shares and correlations, not per cent.
        answers: one per item: `id`, `gold` and `answer` (indices of choices, texts or numbers), and `cluster`, which
            items about the same text share.
    """

    rows: list[dict]
    answers: list[dict]


def add_missing(
    results: dict,
    reader: PromptReader,
    tasks: Sequence[TaskData],
    style: Style,
    num_fewshot: int | None,
    limit: int | None,
    output_dir: Path | None,
) -> None:
    """Score a model on the tasks of which `results["jglue"]` has no rows with the same data, settings and task files.

    Rows that differ in nothing but the task files are replaced. With `output_dir` the results are saved after each
    task, and every answer is written to a file in `answers/`, whose name the rows hold.
    """
    rows = results.setdefault("jglue", [])
    for data in tasks:
        shots = board_shots(data, style) if num_fewshot is None else num_fewshot
        settings = {"task": data.task, "style": style, "num_fewshot": shots, "data_sha256": data.sha256}
        alike = [row for row in rows if all(row.get(key) == value for key, value in settings.items())]
        before = [row for row in alike if has_limit(row, limit)]
        settings["task_sha256"] = task_sha256(data, style)
        if any(row.get("task_sha256") == settings["task_sha256"] for row in before):
            logger.info("%s %s with %d examples: scored before", data.task, style, shots)
            continue
        scored = evaluate(reader, data, style, shots, limit)
        settings["limit"] = scored.rows[0]["limit"]
        added = {"task_sha256": settings["task_sha256"], "answers": answers_name(settings), **measured_with()}
        rows[:] = [row for row in rows if row not in before] + [{**row, **added} for row in scored.rows]
        if output_dir and runtime.is_main_process():
            write_jsonl(scored.answers, output_dir / ANSWERS_FOLDER / added["answers"])
            report.save(results, output_dir)


def has_limit(row: dict, limit: int | None) -> bool:
    """Whether a row is of the items that `limit` leaves; one above the number of items leaves all, as None does."""
    row_limit = actual_limit(row)
    return row_limit == limit or (row_limit is None and limit is not None and row["n"] <= limit)


def answers_name(settings: Mapping) -> str:
    """Return the name of the file of answers for these settings; other data or task files give another name."""
    parts = [settings["task"], settings["style"], f"{settings['num_fewshot']}shots"]
    parts += [f"first{settings['limit']}"] if settings["limit"] else []
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return "_".join([*parts, digest[:8]]) + ".jsonl"


def task_sha256(data: TaskData, style: Style) -> str:
    """Return the SHA-256 of all that decides how a task is asked and scored.

    That is its prompt file, the files it includes, their code, and the part of its row in `TASKS` by which items are
    read. Published scores and other tasks do not count, so that adding them leaves a model's scores valid.
    """
    files = [
        TASK_FILES / f"{data.task}_{style}.yaml",
        *sorted(TASK_FILES.glob("_*.yaml")),
        TASK_FILES / "items.py",
        TASK_FILES / "metrics.py",
    ]
    row = json.dumps([getattr(TASKS[data.task], name) for name in _READ_AND_ASKED_BY])
    return hashlib.sha256(b"\0".join([*(file.read_bytes() for file in files), row.encode()])).hexdigest()


def evaluate(reader: PromptReader, data: TaskData, style: Style, num_fewshot: int | None, limit: int | None) -> Scored:
    """Score a model on the first `limit` items of a task, with `num_fewshot` examples (by default as on the boards).

    Raises:
        InputError: more examples than there are, or lm-evaluation-harness is not installed.
    """
    reader.num_cut = 0
    with runtime.progress_bar(f"{data.task} {style}", "prompts") as update:

        def show(done: int, num_new: int, total: int) -> None:
            update(done, total, prompts=num_new)

        scored = evaluate_with(_adapter(reader, show), data, style, num_fewshot, limit)
    for row in scored.rows:
        row["num_cut"] = reader.num_cut
    return scored


def evaluate_with(
    lm: LM, data: TaskData, style: Style, num_fewshot: int | None = None, limit: int | None = None
) -> Scored:
    """Score any model that lm-evaluation-harness knows on one task, as `evaluate` does."""
    lm_eval = _lm_eval()
    shots = board_shots(data, style) if num_fewshot is None else num_fewshot
    if shots > data.max_shots:
        raise InputError(
            f"num_fewshot: {shots} examples; there are {data.max_shots} of {data.task} from its {data.shots_from} file"
        )
    name = f"jglue_{data.task}_{style}"
    with _quiet():  # its simple_evaluate gives the results to one process only
        loaded = _tasks(data).load([name])
        loaded["tasks"][name].set_config(key="num_fewshot", value=shots)
        num_items = len(list(cast("ConfigurableTask", loaded["tasks"][name]).task_docs))
        limit = None if limit is None or limit >= num_items else limit
        results = lm_eval.evaluate(lm, loaded, limit=limit, bootstrap_iters=0, log_samples=True)
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    pairs = [metrics.pair_of(sample["doc"], sample["filtered_resps"]) for sample in samples]
    clusters = _cluster_numbers(data.task, [sample["doc"] for sample in samples])
    settings = {"task": data.task, "style": style, "num_fewshot": shots, "limit": limit}
    described = {
        "n": len(pairs),
        "shots_from": data.shots_from,
        "data_version": data.version,
        "data_sha256": data.sha256,
        "task_version": results["versions"][name],
        "lm_eval": importlib.metadata.version("lm_eval"),
    }
    values = {key.split(",")[0]: value for key, value in results["results"][name].items() if key.endswith(",none")}
    rows = [
        {**settings, **score_row(data.task, metric, values[metric], pairs, clusters), **described}
        for metric in metrics.SCORES
        if metric in values
    ]
    answers = [
        {"id": sample["doc"]["id"], "gold": gold, "answer": given, "cluster": cluster}
        for sample, (gold, given), cluster in zip(samples, pairs, clusters, strict=True)
    ]
    return Scored(rows, answers)


def _cluster_numbers(task: str, items: Sequence[dict]) -> list[int]:
    """Return a number for each item, which items about the same text share."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(text_key(task, item), len(numbers)) for item in items]


def board_shots(data: TaskData, style: Style) -> int:
    """Return the number of examples that the boards give for a task, which its prompt file states."""
    file = TASK_FILES / f"{data.task}_{style}.yaml"
    stated = re.search(r"^num_fewshot: (\d+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated, f"{file} states no num_fewshot"
    return int(stated[1])


def prompts(data: TaskData, style: Style, number: int) -> list[str]:
    """Return the first `number` prompts of a task as a model gets them."""
    name = f"jglue_{data.task}_{style}"
    with _quiet():
        task = cast("ConfigurableTask", _tasks(data).load([name])["tasks"][name])
        return [task.fewshot_context(task.task_docs[n], task.config.num_fewshot) for n in range(number)]


def _tasks(data: TaskData) -> TaskManager:
    """Return the harness's `TaskManager` for the project's own task files and this data."""
    _lm_eval()
    from lm_eval.tasks import TaskManager

    metadata = {"jglue_dir": str(data.folder.resolve())}
    return TaskManager(include_path=str(TASK_FILES), include_defaults=False, metadata=metadata)


def _lm_eval() -> ModuleType:
    """Return the module `lm_eval`.

    Raises:
        InputError: lm-evaluation-harness is not installed.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise InputError("lm-evaluation-harness is not installed: pip install 'jpllm[eval]'") from error
    return lm_eval


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the harness's warnings about settings that are meant as they are."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _adapter(reader: PromptReader, show: OnDone) -> LM:
    """Return a `PromptReader` as the model class that the harness calls."""
    _lm_eval()
    from lm_eval.api.model import LM

    class Adapter(LM):
        def loglikelihood(self, requests, disable_tqdm=False):
            return reader.log_likelihoods([request.args for request in requests], show)

        def generate_until(self, requests, disable_tqdm=False):
            settings = requests[0].args[1]  # the same in all requests of a task
            texts = [request.args[0] for request in requests]
            return reader.answers(texts, settings["until"], settings["max_gen_toks"], show)

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError("no task of ours asks for it; evaluation/perplexity.py does it")

    return Adapter()
