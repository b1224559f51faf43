"""Checkpoints that are whole or not there.

A checkpoint is written under another name, described by a manifest with the size and SHA-256 of every file, synced to
disk and renamed, in this order: whatever interrupts it, a folder `checkpoint-STEP` is complete. The manifest ends in
the SHA-256 of what stands before it. When a run goes on, the newest checkpoint that agrees with its manifest is taken,
so a byte that the disk lost costs some steps and not the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jpllm import CHECKPOINT_FORMAT, runtime, whole_files
from jpllm.runtime import InputError
from jpllm.training.facts import Facts

MANIFEST_NAME = "manifest.json"
PARTIAL_NAME = "partial"
_FORMAT_WITHOUT_DIGEST = 1
_DIGEST_KEY = ',\n "sha256": "'  # the last one of a manifest
_SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"checkpoint-(\d+)")
_MAX_NAME_CHARACTERS = 200
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint; `manifest` as `finish` wrote it."""

    directory: Path
    manifest: dict

    @property
    def step(self) -> int:
        """Optimizer steps that the model in it has made."""
        return self.manifest["step"]


def finish(
    partial: Path, directory: Path, step: int, facts: Facts, logs: Mapping[str, Path], **more: object
) -> Checkpoint:
    """Make the files in `partial` the checkpoint `directory`; one that is there already is replaced.

    `logs` are the files that the run appends to: their sizes go into the manifest, so that rows written after this
    moment can be taken back. So does `more`, as JSON.
    """
    for file in logs.values():
        if file.exists():
            whole_files.sync(file)
    (partial / MANIFEST_NAME).unlink(missing_ok=True)
    manifest = {
        "version": CHECKPOINT_FORMAT,
        "step": step,
        "facts": facts.record(),
        "logs": {name: file.stat().st_size if file.exists() else 0 for name, file in logs.items()},
        "files": sync_and_digest(partial),
        **more,
    }
    (partial / MANIFEST_NAME).write_text(_sealed(manifest), encoding="utf-8")
    for path in (partial / MANIFEST_NAME, partial):
        whole_files.sync(path)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    whole_files.sync(directory.parent)
    return Checkpoint(directory, read_manifest(directory))


def newest(checkpoints_dir: Path, refuse: Callable[[Checkpoint], None] | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that verifies; say which newer ones were passed over, and why.

    Args:
        refuse: raises InputError for a checkpoint that is whole and still cannot be gone on from.

    Raises:
        InputError: there are checkpoints, and none of them is whole, or one is of a later version of jpllm.
    """
    directories = _directories(checkpoints_dir)
    problem = ""
    for directory in directories:
        try:
            found = Checkpoint(directory, verify(directory))
            if refuse:
                refuse(found)
            return found
        except LaterFormat:
            raise
        except InputError as error:
            problem = str(error)
            logger.warning("passed over %s", error)
    if directories:
        raise InputError(
            f"{checkpoints_dir}: none of the {len(directories)} checkpoints is whole; move the run's folder away to "
            f"begin again (the oldest: {problem})"
        )
    return None


def newest_facts(checkpoints_dir: Path) -> tuple[Path, dict] | None:
    """The folder and the facts of the newest checkpoint whose manifest is whole; None where there is none.

    Its files are not read, so this is at once there to compare what is to be trained with what was.
    """
    for directory in _directories(checkpoints_dir):
        try:
            return directory, read_manifest(directory)["facts"]
        except LaterFormat:
            raise
        except InputError:
            continue
    return None


class LaterFormat(InputError):
    """Raised for a checkpoint of a later version of jpllm."""


def verify(directory: Path) -> dict:
    """Return the manifest of a checkpoint after checking that all its files have the recorded size and SHA-256.

    Raises:
        InputError: a file that is missing, cut short or altered, or a manifest that cannot be read.
    """
    manifest = read_manifest(directory)
    refuse_other_content(directory, manifest["files"])
    return manifest


def refuse_other_content(directory: Path, files: Mapping[str, Sequence]) -> None:
    """Raise InputError unless the files of a folder have these sizes and SHA-256, as `sync_and_digest` gave them."""
    _refuse_other_sizes(directory, files)
    for name, (_, digest) in _in_threads({name: directory / name for name in files}).items():
        if digest != files[name][1]:
            raise InputError(f"{directory}: {name} is not what was written (its SHA-256 differs)")


def sync_and_digest(directory: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of each file below a folder, once all of them are on the disk."""
    files = _files(directory)
    for path in files.values():
        whole_files.sync(path)
    for folder in {path.parent for path in files.values()} | {directory}:
        whole_files.sync(folder)
    return _in_threads(files)


def manifests(checkpoints_dir: Path) -> Iterator[dict]:
    """Yield the manifests that can be read, those of the newest checkpoints first."""
    for directory in _directories(checkpoints_dir):
        try:
            yield read_manifest(directory)
        except InputError:
            continue


def rotate(checkpoints_dir: Path, num_kept: int) -> None:
    """Delete all checkpoints but the newest `num_kept` whole ones and what is newer than these."""
    kept = 0
    for directory in _directories(checkpoints_dir):
        if kept == num_kept:
            shutil.rmtree(directory)
            continue
        try:
            _refuse_other_sizes(directory, read_manifest(directory)["files"])
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


def read_manifest(directory: Path) -> dict:
    """The manifest of a checkpoint, with what older versions of jpllm did not write as None.

    Raises:
        LaterFormat: it is of a later version of jpllm.
        InputError: it is missing, or not what was written.
    """
    file = directory / MANIFEST_NAME
    try:
        text = file.read_bytes().decode("utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{directory}: it has no {MANIFEST_NAME}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{directory}: its {MANIFEST_NAME} cannot be read ({error})") from None
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != _FORMAT_WITHOUT_DIGEST and not _is_sealed(text):
        raise InputError(f"{directory}: its {MANIFEST_NAME} is not what was written, or is of another version of jpllm")
    if version not in (_FORMAT_WITHOUT_DIGEST, CHECKPOINT_FORMAT):
        raise LaterFormat(f"{directory}: it was written by a later version of jpllm; update jpllm to go on with it")
    _refuse_other_shape(directory, manifest)
    return {"position": None, "best": None} | manifest


def _refuse_other_shape(directory: Path, manifest: dict) -> None:
    """Raise InputError for a manifest that lacks something; with a digest of itself none does."""
    files, logs = manifest.get("files"), manifest.get("logs")
    is_whole = (
        f"checkpoint-{manifest.get('step')}" == directory.name
        and isinstance(manifest.get("facts"), dict)
        and isinstance(manifest["facts"].get("configuration"), dict)
        and isinstance(logs, dict)
        and all(isinstance(size, int) for size in logs.values())
        and isinstance(files, dict)
        and bool(files)
        and all(map(_is_file_name, files))
        and all(map(_is_size_and_digest, files.values()))
    )
    if not is_whole:
        raise InputError(f"{directory}: its {MANIFEST_NAME} is not what was written")


def _is_file_name(name: str) -> bool:
    """Return whether the name is that of a file in the folder or below it, such as Trainer and DeepSpeed write."""
    parts = PurePosixPath(name).parts
    return name.isprintable() and bool(parts) and not {"/", ".."} & set(parts) and len(name) <= _MAX_NAME_CHARACTERS


def _is_size_and_digest(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    return isinstance(value[0], int) and isinstance(value[1], str) and bool(_SHA256.fullmatch(value[1]))


def _sealed(manifest: dict) -> str:
    """Return the manifest as JSON whose last key is the SHA-256 of all text before it, so that no bit can change."""
    body = json.dumps(manifest, indent=1, sort_keys=True).removesuffix("\n}")
    return f'{body}{_DIGEST_KEY}{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def _is_sealed(text: str) -> bool:
    body, _, rest = text.rpartition(_DIGEST_KEY)
    return rest == f'{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def _refuse_other_sizes(directory: Path, files: Mapping[str, Sequence]) -> None:
    for name, (num_bytes, _) in files.items():
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
        return dict(zip(files, pool.map(whole_files.size_and_sha256, files.values()), strict=True))
