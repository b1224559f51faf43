"""Checkpoints that are whole or not there.

A checkpoint is written under another name, described by a manifest with the size and SHA-256 of every file, synced to
disk and renamed, in this order: whatever interrupts it, a folder `checkpoint-STEP` is complete. When a run goes on, the
newest one that agrees with its manifest is taken, so a byte that the disk lost costs some steps and not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from jpllm import runtime
from jpllm.runtime import InputError

MANIFEST_NAME = "manifest.json"
PARTIAL_NAME = "partial"
_FORMAT_VERSION = 1
_NAME = re.compile(r"checkpoint-(\d+)")
_CHUNK_BYTES = 1 << 22
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What decides the losses of a run; a checkpoint goes on exactly only where none of it has changed.

    Attributes:
        data: fingerprint of the training blocks and their order, and of the texts to evaluate on.
        tokenizer: fingerprint of the tokenizer.
        configuration: the keys that decide the losses, with their values as JSON has them.
        world_size: number of processes.
        engine: how they share the model, such as "DDP".
        shards: hash of the ids in the token shards; None where it is not known, as in checkpoints of version 0.1.0.
    """

    data: str
    tokenizer: str
    configuration: dict
    world_size: int = 1
    engine: str = ""
    shards: str | None = None

    def changes(self, earlier: Mapping) -> list[str]:
        """Return what differs from the facts in a manifest, a line for each."""
        now = json.loads(json.dumps(asdict(self)))
        lines = [
            f"{name}: {earlier.get(name)} when it was written, {now[name]} now"
            for name in ("world_size", "engine")
            if earlier.get(name) != now[name]
        ]
        lines += [f"{name}: another one" for name in ("data", "tokenizer") if earlier.get(name) != now[name]]
        if None not in (earlier.get("shards"), self.shards) and earlier["shards"] != self.shards:
            lines.append("data: other token ids in the shards")
        before, after = earlier.get("configuration", {}), now["configuration"]
        return lines + [
            f"{key}: {before.get(key, 'not set')} when it was written, {after.get(key, 'not set')} now"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        ]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; `manifest` as `finish` wrote it."""

    directory: Path
    manifest: dict

    @property
    def step(self) -> int:
        """Optimizer steps that the model in it has made."""
        return self.manifest["step"]


def finish(partial: Path, directory: Path, step: int, facts: Facts, logs: Mapping[str, Path]) -> Checkpoint:
    """Make the files in `partial` the checkpoint `directory`; one that is there already is replaced.

    `logs` are the files that the run appends to: their sizes go into the manifest, so that rows written after this
    moment can be taken back.
    """
    for file in logs.values():
        if file.exists():
            _sync(file)
    (partial / MANIFEST_NAME).unlink(missing_ok=True)
    files = _files(partial)
    manifest = {
        "version": _FORMAT_VERSION,
        "step": step,
        "facts": asdict(facts),
        "logs": {name: file.stat().st_size if file.exists() else 0 for name, file in logs.items()},
        "files": _in_threads(files),
    }
    (partial / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
    for path in (*files.values(), partial / MANIFEST_NAME):
        _sync(path)
    for folder in {path.parent for path in files.values()} | {partial}:
        _sync(folder)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    _sync(directory.parent)
    return Checkpoint(directory, _manifest(directory))


def newest(checkpoints_dir: Path) -> Checkpoint | None:
    """Return the newest checkpoint that verifies; say which newer ones were passed over, and why.

    Raises:
        InputError: there are checkpoints, and none of them is whole.
    """
    directories = _directories(checkpoints_dir)
    for directory in directories:
        try:
            return Checkpoint(directory, verify(directory))
        except InputError as error:
            logger.warning("passed over %s", error)
    if directories:
        raise InputError(
            f"{checkpoints_dir}: none of the {len(directories)} checkpoints is whole; "
            "move the run's folder away to begin again"
        )
    return None


def verify(directory: Path) -> dict:
    """Return the manifest of a checkpoint after checking that all its files have the recorded size and SHA-256.

    Raises:
        InputError: a file that is missing, cut short or altered, or a manifest that cannot be read.
    """
    manifest = _manifest(directory)
    files = {name: directory / name for name in manifest["files"]}
    _refuse_other_sizes(directory, manifest)
    for name, (_, digest) in _in_threads(files).items():
        if digest != manifest["files"][name][1]:
            raise InputError(f"{directory}: {name} is not what was written (its SHA-256 differs)")
    return manifest


def rotate(checkpoints_dir: Path, num_kept: int) -> None:
    """Delete all checkpoints but the newest `num_kept` whole ones and what is newer than these."""
    kept = 0
    for directory in _directories(checkpoints_dir):
        if kept == num_kept:
            shutil.rmtree(directory)
            continue
        try:
            _refuse_other_sizes(directory, _manifest(directory))
            kept += 1
        except InputError as error:
            logger.warning("does not count as a checkpoint: %s", error)


def newest_directory(checkpoints_dir: Path) -> Path | None:
    """Return the folder of the newest checkpoint, unverified; None where there is none."""
    return next(iter(_directories(checkpoints_dir)), None)


def size_bytes(checkpoints_dir: Path) -> int | None:
    """Return the bytes of the newest checkpoint; None where there is none."""
    directory = newest_directory(checkpoints_dir)
    return None if directory is None else sum(file.stat().st_size for file in _files(directory).values())


def _directories(checkpoints_dir: Path) -> list[Path]:
    """Return the folders of checkpoints, the newest first."""
    if not checkpoints_dir.is_dir():
        return []
    found = [(int(match[1]), path) for path in checkpoints_dir.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _manifest(directory: Path) -> dict:
    try:
        manifest = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory}: it has no {MANIFEST_NAME}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{directory}: its {MANIFEST_NAME} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("version") != _FORMAT_VERSION:
        raise InputError(f"{directory}: its {MANIFEST_NAME} is of another version of jpllm")
    return manifest


def _refuse_other_sizes(directory: Path, manifest: dict) -> None:
    for name, (num_bytes, _) in manifest["files"].items():
        file = directory / name
        if not file.is_file():
            raise InputError(f"{directory}: {name} is missing")
        if file.stat().st_size != num_bytes:
            raise InputError(f"{directory}: {name} has {file.stat().st_size:,} bytes, {num_bytes:,} were written")


def _files(directory: Path) -> dict[str, Path]:
    """Return all files below a folder by their name relative to it."""
    return {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file()}


def _in_threads(files: Mapping[str, Path]) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of each file, computed in threads."""
    with ThreadPoolExecutor(runtime.num_cores()) as pool:
        return dict(zip(files, pool.map(_facts_of, files.values()), strict=True))


def _facts_of(file: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    for chunk in _chunks(file):
        digest.update(chunk)
    return file.stat().st_size, digest.hexdigest()


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
