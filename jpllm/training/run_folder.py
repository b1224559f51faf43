"""The folder of a run: what state it is in, who may write to it, and where the run was computed.

A run folder is new, unfinished (the same command goes on with it) or finished (the same command has nothing to do).
Whatever else a folder holds, it is left alone.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from jpllm import runtime
from jpllm.config.settings import to_yaml, write_yaml
from jpllm.runtime import InputError
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME
from jpllm.tracking.runs import CONFIG_NAME, ENVIRONMENT_NAME, HELD_OUT_NAME, LOCK_NAME, MODEL_NAME, RESULTS_NAME
from jpllm.training import engine, machine
from jpllm.training.checkpoint import PARTIAL_NAME, Facts

if TYPE_CHECKING:
    import filelock

CHECKPOINTS_NAME = "checkpoints"
UNPROVED_NAME = "model.unproved"
PREDICTIONS_NAME = "predictions.jsonl"  # of a classifier
DIVERGED_NAME = "diverged.txt"  # of a classifier whose training diverged
# Keys that do not change a loss, and those that name texts and tokenizer, which are compared by content.
_FREE_KEYS = frozenset(
    [
        *("output_dir", "max_hours", "save_steps", "save_total_limit", "resume_changed", "ddp_timeout"),
        *("report_to", "measure_energy"),
        *("processes", "shards_dir", "verify_shards", "dataloader_num_workers", "sample_prompts"),
        *("sources", "eval_sources", "replay_sources", "old_texts", "tokenizer", "held_out_bytes", "held_out_fraction"),
        *("train_file", "validation_file", "test_file"),
    ]
)
_LOCK_SECONDS = 1  # `jpllm watch` takes the lock for a moment
_held_locks: dict[Path, filelock.BaseFileLock] = {}
logger = logging.getLogger(__name__)


def facts(
    data_fingerprint: str,
    tokenizer_fingerprint: str,
    configuration: Iterable[object],
    shards_hash: str | None = None,
) -> Facts:
    """Return what decides the losses of a run that this launcher starts, given fingerprints of data and tokenizer."""
    values = yaml.safe_load(to_yaml(configuration))
    deciding = {key: value for key, value in values.items() if key not in _FREE_KEYS}
    wanted = engine.requested()
    return Facts(data_fingerprint, tokenizer_fingerprint, deciding, wanted.num_processes, wanted.name, shards_hash)


def is_finished(output_dir: Path, configuration: Sequence[object]) -> bool:
    """Return whether the run is there already, and say so. False for a new run and for one that goes on.

    Raises:
        InputError: the folder holds another run that is finished, or something that is no run.
    """
    if not output_dir.exists():
        return False
    if not output_dir.is_dir():
        raise InputError(f"output_dir: {output_dir} is a file; name a folder")
    names = sorted(path.name for path in output_dir.iterdir() if path.name != LOCK_NAME)
    if names and CONFIG_NAME not in names:
        raise InputError(
            f"output_dir: {output_dir} already holds {', '.join(names[:4])}{' …' if len(names) > 4 else ''}; "
            "name a new folder, or move that one away"
        )
    if RESULTS_NAME not in names:
        return False
    before = yaml.safe_load((output_dir / CONFIG_NAME).read_text(encoding="utf-8"))
    now = yaml.safe_load(to_yaml(configuration))
    ignored = {"output_dir", "max_hours", "resume_changed"}
    changed = [key for key in now if key not in ignored and before.get(key) != now[key]]
    if changed:
        raise InputError(
            f"output_dir: {output_dir} holds a finished run with another {', '.join(changed)}; name a new folder"
        )
    runtime.announce(
        f"{output_dir} is finished: the model is in {output_dir / MODEL_NAME}, its figures in {RESULTS_NAME}"
    )
    return True


def prepare(output_dir: Path, configuration: Iterable[object], write_held_out: Callable[[Path], None]) -> None:
    """Take the folder; write the resolved configuration and what is held out, and remove what was left half done.

    Raises:
        InputError: another process is at work in it.
    """
    if runtime.is_main_process():
        _claim(output_dir)
        write_yaml(configuration, output_dir / CONFIG_NAME)
        write_held_out(output_dir / HELD_OUT_NAME)
        for name in (MODEL_NAME, UNPROVED_NAME, f"{CHECKPOINTS_NAME}/{PARTIAL_NAME}"):
            shutil.rmtree(output_dir / name, ignore_errors=True)


def _claim(output_dir: Path) -> None:
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
    runtime.write_whole(output_dir / RESULTS_NAME, json.dumps(results, indent=2) + "\n")


def add_session(output_dir: Path) -> None:
    """Add this start of the run to `environment.json`: a run that goes on may do so on another machine."""
    file = output_dir / ENVIRONMENT_NAME
    content = {"sessions": [*_earlier_sessions(file), session()]}
    runtime.write_whole(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


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
