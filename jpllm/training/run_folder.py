"""The folder of a run: what state it is in, who may write to it, and where the run was computed.

A run folder is new, unfinished (the same command goes on with it) or finished (the same command has nothing to do).
Whatever else a folder holds, it is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jpllm import RUN_FORMAT, runtime, whole_files
from jpllm.config.settings import write_yaml
from jpllm.runtime import InputError
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME
from jpllm.tracking.runs import CONFIG_NAME, ENVIRONMENT_NAME, HELD_OUT_NAME, LOCK_NAME, MODEL_NAME, RESULTS_NAME
from jpllm.training import checkpoint, engine, facts, machine
from jpllm.training.checkpoint import PARTIAL_NAME
from jpllm.training.facts import Facts

if TYPE_CHECKING:
    import filelock

CHECKPOINTS_NAME = "checkpoints"
RUN_NAME = "run.json"  # the facts of the run, before its first checkpoint has them
UNPROVED_NAME = "model.unproved"
PREDICTIONS_NAME = "predictions.jsonl"  # of a classifier
TRUNK_NAME = "trunk_output.npy"  # of a classifier, while its frozen layers are computed
DIVERGED_NAME = "diverged.txt"  # of a classifier whose training diverged
_UNFINISHED_FILE = re.compile(r".+\.(json|jsonl|yaml|md)\.(\d+\.tmp|partial)")  # left by a process that was killed
_LOCK_SECONDS = 1  # `jpllm watch` takes the lock for a moment
_held_locks: dict[Path, filelock.BaseFileLock] = {}
logger = logging.getLogger(__name__)


def is_finished(output_dir: Path, configuration: Sequence[object]) -> bool:
    """Return whether the run is there already, and say so. False for a new run and for one that goes on.

    Raises:
        InputError: the folder holds another run that is finished, or something that is no run.
    """
    if not output_dir.exists():
        return False
    if not output_dir.is_dir():
        raise InputError(f"output_dir: {output_dir} is a file; name a folder")
    names = sorted(path.name for path in output_dir.iterdir() if not _is_of_no_run_yet(path))
    if names and CONFIG_NAME not in names:
        raise InputError(
            f"output_dir: {output_dir} already holds {', '.join(names[:4])}{' …' if len(names) > 4 else ''}; "
            "name a new folder, or move that one away"
        )
    if RESULTS_NAME not in names:
        return False
    changed = list(facts.changed_keys_of_finished(_settings(output_dir), configuration))
    if changed:
        raise InputError(
            f"output_dir: {output_dir} holds a finished run with another {', '.join(changed)}; name a new folder"
        )
    runtime.announce(
        f"{output_dir} is finished: the model is in {output_dir / MODEL_NAME}, its figures in {RESULTS_NAME}"
    )
    return True


def _is_of_no_run_yet(path: Path) -> bool:
    """Return whether a file or folder can be there before anything says which run it is of."""
    is_empty = path.name == CHECKPOINTS_NAME and checkpoint.newest_directory(path) is None
    return is_empty or path.name in (LOCK_NAME, TRUNK_NAME) or bool(_UNFINISHED_FILE.fullmatch(path.name))


def claim(output_dir: Path, wanted: Facts, resume_changed: bool = False) -> None:
    """Take the folder for this process, the main one, if the run in it is the wanted one. Nothing in it is changed.

    Raises:
        InputError: another process is at work in it, or the run in it is another one and `resume_changed` is not set.
    """
    _lock(output_dir)
    if (output_dir / RESULTS_NAME).exists():
        raise InputError(f"output_dir: another process has finished the run in {output_dir} by now")
    if found := checkpoint.newest_facts(output_dir / CHECKPOINTS_NAME):
        refuse_another_run(*found, wanted, resume_changed)
    elif not resume_changed and (changes := _changes_since_begun(output_dir, wanted)):
        raise InputError(
            f"{output_dir}: it holds rows of another run, which has no checkpoint yet:\n  "
            + "\n  ".join(changes)
            + "\nname a new output_dir, set it back, or begin anew in this one with resume_changed: true (its rows go)"
        )


def refuse_another_run(directory: Path, earlier: Mapping, wanted: Facts, resume_changed: bool) -> None:
    """Raise InputError if a run with the facts of this checkpoint cannot go on as the wanted one, or not unasked."""
    obstacles = wanted.obstacles(earlier)
    if obstacles and resume_changed:
        raise InputError(
            f"{directory}: what was changed cannot be changed on the way:\n  "
            + "\n  ".join(obstacles)
            + "\nset it back, or name a new output_dir"
        )
    changes = wanted.changes(earlier)
    if changes and not resume_changed:
        way = "" if obstacles else ", or go on with resume_changed: true (the losses are then others)"
        raise InputError(
            f"{directory}: this is another run now:\n  "
            + "\n  ".join(changes)
            + f"\nname a new output_dir, {'or ' if obstacles else ''}set it back{way}"
        )


def _changes_since_begun(output_dir: Path, wanted: Facts) -> list[str]:
    """Return what is different of a run that has rows and no checkpoint, a line for each change."""
    if not any(file.exists() and file.stat().st_size for file in log_files(output_dir).values()):
        return []
    if (record := _record(output_dir)) is not None:
        return wanted.changes(record)
    return facts.changed_settings(_settings(output_dir), wanted.configuration, wanted.classes)


def _record(output_dir: Path) -> dict | None:
    """Return the facts that the folder was begun with; None for one of jpllm 0.1.0, or where they cannot be read."""
    try:
        found = json.loads((output_dir / RUN_NAME).read_text(encoding="utf-8"))
        if found["format"] > RUN_FORMAT:
            raise InputError(f"{output_dir / RUN_NAME}: it was written by a later version of jpllm; update jpllm")
        return dict(found["facts"])
    except FileNotFoundError:
        return None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.warning("%s cannot be read; the settings in %s are compared", output_dir / RUN_NAME, CONFIG_NAME)
        return None


def _settings(output_dir: Path) -> dict:
    """Return the configuration that the folder was begun with."""
    file = output_dir / CONFIG_NAME
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{file}: it cannot be read ({type(error).__name__}); name a new output_dir") from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: it holds no settings; name a new output_dir")
    return found


def prepare(
    output_dir: Path,
    configuration: Iterable[object],
    write_held_out: Callable[[Path], None],
    wanted: Facts | None = None,
) -> None:
    """Take the folder; write its facts, the resolved configuration and what is held out; remove what is half done.

    Raises:
        InputError: another process is at work in it.
    """
    if runtime.is_main_process():
        _lock(output_dir)
        for name in (MODEL_NAME, UNPROVED_NAME, f"{CHECKPOINTS_NAME}/{PARTIAL_NAME}"):
            shutil.rmtree(output_dir / name, ignore_errors=True)
        for path in output_dir.iterdir():
            if _UNFINISHED_FILE.fullmatch(path.name):
                path.unlink()
        write_yaml(configuration, output_dir / CONFIG_NAME)
        if wanted:
            record = {"format": RUN_FORMAT, "facts": wanted.record()}
            whole_files.write_whole(output_dir / RUN_NAME, json.dumps(record, ensure_ascii=False, indent=2) + "\n")
        write_held_out(output_dir / HELD_OUT_NAME)


def _lock(output_dir: Path) -> None:
    """Keep other processes out of the folder for as long as this one lives."""
    import filelock

    output_dir.mkdir(parents=True, exist_ok=True)
    file = (output_dir / LOCK_NAME).resolve()
    lock = _held_locks.get(file) or filelock.FileLock(file)
    try:
        lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.02)
    except filelock.Timeout:
        raise InputError(f"output_dir: another process is training in {output_dir}; wait for it, or stop it") from None
    _held_locks[file] = lock  # the operating system takes it back when the process ends, however it ends


def log_files(output_dir: Path) -> dict[str, Path]:
    """Return the files that a run appends rows to."""
    return {name: output_dir / name for name in (METRICS_NAME, SAMPLES_NAME)}


def cut_logs(output_dir: Path, sizes_bytes: Mapping[str, int]) -> None:
    """Take back the rows that were written after a checkpoint; all of them where there is none."""
    for name, file in log_files(output_dir).items():
        if file.exists() and file.stat().st_size < sizes_bytes.get(name, 0):
            logger.warning("%s was longer when the checkpoint was written: rows are missing from it", file)
        elif file.exists():
            os.truncate(file, sizes_bytes.get(name, 0))


def write_results(output_dir: Path, results: Mapping) -> None:
    """Write `results.json`, whole or not at all; it makes the run a finished one."""
    whole_files.write_whole(output_dir / RESULTS_NAME, json.dumps(results, indent=2) + "\n")


def add_session(output_dir: Path) -> None:
    """Add this start of the run to `environment.json`: a run that goes on may do so on another machine."""
    file = output_dir / ENVIRONMENT_NAME
    content = {"sessions": [*_earlier_sessions(file), session()]}
    whole_files.write_whole(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def session() -> dict:
    """Return time, program, versions and hardware of this process: no path, user, host name or value that was typed."""
    program, *arguments = sys.argv
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "program": Path(program).name,
        "keys": [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")],
        "commit": runtime.commit(),
        "versions": runtime.versions(),
        "engine": str(engine.requested()),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": machine.cpu_model(),
        "cores": runtime.num_cores(),
        "host_memory_bytes": machine.host_memory_bytes(),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_bytes} for gpu in machine.gpus()],
    }


def _earlier_sessions(file: Path) -> list:
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["sessions"])
    except (ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read and is begun anew", file)
        return []
