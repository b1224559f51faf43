"""Talk to Weights & Biases in a process beside the training, which reads the run folder and is told only the end.

Its input is a line with a JSON object, the job, and later another line, or none: then it has `seconds` left. Each line
of its output is a warning.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME, GrowingRows
from jpllm.tracking.runs import RESULTS_NAME
from jpllm.tracking.wandb import content

if TYPE_CHECKING:
    from wandb import Run

_CONNECTING_SECONDS = 15
_SECONDS_BETWEEN_LOOKS = 1.0
# Where W&B keeps the files of tables until they are sent. It writes the path down, so this one names no home folder:
# that of the process that reads it, which is to be started in the run folder.
_STAGING = Path("/proc/self/cwd/wandb")


def main() -> None:
    """Do the job that the input describes. Whatever goes wrong is told in a line."""
    job = json.loads(sys.stdin.readline())
    is_ended = threading.Event()
    threading.Thread(target=_await_end, args=(is_ended, job["seconds"]), daemon=True).start()
    try:
        _work(job, is_ended)
    except Exception as error:  # whatever it is: it is no matter of the training
        _warn(f"{type(error).__name__}: {error}; nothing more is mirrored, the rows are in the run folder")
        os._exit(1)


def _await_end(is_ended: threading.Event, seconds: float) -> None:
    sys.stdin.readline()  # also returns when the training was killed
    is_ended.set()
    time.sleep(seconds)
    _warn(f"not done after {seconds:g} s, left alone; the rows are in the run folder")
    os._exit(1)


def _work(job: Mapping, is_ended: threading.Event) -> None:
    folder = Path(job["folder"])
    os.chdir(folder)
    os.environ["WANDB_DATA_DIR"] = str(_STAGING)
    run = _begin(folder, job["id"], job.get("settings"), job["mode"])
    if "offsets" in job:
        _follow(run, folder, job["offsets"], is_ended)
        run.summary.update(content.results(_results(folder / RESULTS_NAME)))
    for name, rows in job.get("tables", {}).items():
        run.log({name: _table(rows, content.columns_of(rows))})
    if "card" in job:
        _log_card(run, Path(job["card"]), job["id"])
    run.finish()


def _begin(folder: Path, run_id: str, settings: Mapping | None, mode: str) -> Run:
    """Return the run in that mode; one in files where the mode is `online` and W&B cannot be reached."""
    import wandb

    before = set(folder.glob("wandb/run-*"))
    try:
        return _init(folder, run_id, settings, mode)
    except Exception as error:
        if mode != "online":
            raise
        _warn(f"{type(error).__name__}: {error}; written to files for wandb sync instead")
        wandb.teardown()  # it would take the run for one that is going on
        for empty in set(folder.glob("wandb/run-*")) - before:
            shutil.rmtree(empty)
        return _init(folder, run_id, settings, "offline")


def _init(folder: Path, run_id: str, settings: Mapping | None, mode: str) -> Run:
    import wandb

    logging.getLogger("wandb").setLevel(logging.ERROR)  # its debug.log would hold paths of this machine
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", content.PROJECT),
        name=folder.name,
        id=run_id,
        resume="allow",
        group=os.environ.get("WANDB_RUN_GROUP") or (run_id if mode == "offline" else None),
        mode=cast(Literal["online", "offline"], mode),  # wandb refuses others itself
        dir=folder,
        config=None if settings is None else dict(settings),
        # no host name, user, path, command line or code of this machine
        settings=wandb.Settings(
            silent=True,
            host="",
            disable_git=True,
            save_code=False,
            init_timeout=_CONNECTING_SECONDS,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            symlink=False,
            console="off",
        ),
    )
    for link in folder.glob("wandb/*/logs/debug-core.log"):  # to a file in the user's home folder
        link.unlink()
    for axis in content.AXES:
        run.define_metric(axis)
    run.define_metric("*", step_metric=content.STEP_AXIS)
    return run


def _follow(run: Run, folder: Path, offsets: Mapping[str, int], is_ended: threading.Event) -> None:
    """Log the rows that are added to the folder, and the samples of each step as a table, until the end."""
    metrics, samples = (GrowingRows(folder / name, offsets[name]) for name in (METRICS_NAME, SAMPLES_NAME))
    num_rows = num_samples = 0
    while True:
        is_last = is_ended.is_set()  # before reading: all is written that will be
        rows = metrics.read()
        for row in rows[num_rows:]:
            run.log(content.metrics(row))
        num_rows = len(rows)
        done = math.inf if is_last else rows[-1]["step"] if rows else 0
        texts = samples.read()
        for step, members in itertools.groupby(texts[num_samples:], key=lambda row: row["step"]):
            shown = list(members)
            if step < done and _STAGING.exists():  # else there may be more to come
                place, table_rows, columns = content.samples(shown)
                run.log({"samples": _table(table_rows, columns), **place})
                num_samples += len(shown)
        if is_last:
            return
        is_ended.wait(_SECONDS_BETWEEN_LOOKS)


def _table(rows: Sequence[Mapping], columns: Sequence[str]):
    import wandb

    return wandb.Table(columns=list(columns), data=[[row.get(key) for key in columns] for row in rows])


def _results(file: Path) -> dict:
    """Return the results of a run; none where it has none yet."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _log_card(run: Run, card: Path, run_id: str) -> None:
    import wandb

    artifact = wandb.Artifact(f"{content.CARD_TYPE}-{run_id}", type=content.CARD_TYPE)
    artifact.add_file(str(card), name=card.name)  # copied, so that the path of it is not written down
    run.log_artifact(artifact)


def _warn(words: str) -> None:
    print(" ".join(words.split()), flush=True)
