"""The official files of a task: found in a folder or fetched, and checked to be whole and as they were published."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from jpllm import runtime
from jpllm.config.settings import option
from jpllm.evaluation.jglue.lm_eval_tasks import items as official
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import SPLITS, TASKS, Split
from jpllm.runtime import InputError

Style = Literal["base", "alpaca"]
HOST = "https://raw.githubusercontent.com"
FETCHABLE = [name for name, task in TASKS.items() if task.repository]
TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 16
if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]  # so that a configuration file can name no other


@dataclass
class JglueConfig:
    """JGLUE, for the part jglue; jglue_dir and any_jglue_content also for jglue_finetuned"""

    jglue_dir: Path | None = option(None, "Folder with the official files: datasets/ of yahoojapan/JGLUE, or alike.")
    tasks: list[TaskName] | None = option(
        None, "Tasks of the part jglue; by default those whose files are in jglue_dir."
    )
    style: Style = option("base", "Wording of the questions: base, or alpaca for instruction-tuned models.")
    num_fewshot: int | None = option(None, "Examples before each question; by default as on the boards.", minimum=0)
    limit: int | None = option(None, "Score only the first items of each task.", minimum=1)
    any_jglue_content: bool = option(False, "Also take files of jglue_dir that are not as they were published.")
    contamination: Path | None = option(
        None, "Report of jpllm data contamination: score also without the items that it found in training texts."
    )


@dataclass(frozen=True)
class TaskData:
    """The checked files of a task.

    Args:
        task: its key in `TASKS`.
        folder: what lm-evaluation-harness is given as `jglue_dir`.
        version: from the name of the folder of the task, such as `1.3`; of Parquet files `1.3 as Parquet` where the
            items to score are those of that version, else `? as Parquet`.
        sha256: checksums of the files `valid` and, where there is one, `train`.
    """

    task: str
    folder: Path
    version: str
    sha256: dict[str, str]

    @property
    def shots_from(self) -> str:
        """Return the file with the few-shot examples: `train`, or `valid`, whose last items are then not scored."""
        return "train" if "train" in self.sha256 else "valid"

    @property
    def max_shots(self) -> int:
        """Return the number of few-shot examples that there are."""
        return official.NUM_SHOTS if self.shots_from == "train" else official.NUM_SHOTS_HELD_OUT


def find_all(folder: Path, tasks: Sequence[str] | None = None, any_content: bool = False) -> list[TaskData]:
    """Return the checked files of `tasks`, by default of all tasks in `folder`.

    The folder is JGLUE's repository, its `datasets`, or one like it.

    Raises:
        InputError: there is no such folder, a task is not in it, or `check` refuses one.
    """
    if not folder.is_dir():
        raise InputError(f"jglue_dir: {folder}: no such folder")
    present = [task for task in TASKS if official.find_files(task, folder)]
    if not present:
        names = ", ".join(row.folder for row in TASKS.values())
        mirrors = ", ".join(row.mirror.partition("/")[2] for row in TASKS.values() if row.mirror)
        raise InputError(
            f"jglue_dir: {folder} has no folder of a task ({names}, or as Parquet {mirrors}); see docs/evaluation.md"
        )
    if absent := [task for task in tasks or () if task not in present]:
        names = ", ".join(TASKS[task].folder for task in absent)
        raise InputError(f"jglue_dir: {folder} has no {names}; of the tasks it holds {', '.join(present)}")
    return [check(task, folder, any_content) for task in tasks or present]


def check(task: str, folder: Path, any_content: bool = False) -> TaskData:
    """Read the files of a task and check them; with `any_content` they need not be those that were published.

    Raises:
        InputError: the validation file is missing, a version is not the supported one, or a file is broken, cut, or
            not as it was published.
    """
    files = official.find_files(task, folder)
    if "valid" not in files:
        raise InputError(f"jglue_dir: {folder} has no {TASKS[task].folder}/{TASKS[task].files['valid']}")
    is_mirror = files["valid"].suffix == ".parquet"
    version = "" if is_mirror else _folder_version(task, files["valid"].parent)
    sums: dict[str, str] = {
        split: verified(task, split, files[split], any_content) for split in reversed(SPLITS) if split in files
    }
    return TaskData(task, folder, _mirror_version(task, files["valid"]) if is_mirror else version, sums)


def verified(task: str, split: Split, file: Path, any_content: bool = False) -> str:
    """Return the SHA-256 of a file of a task, after it was read whole and compared with what is known of it.

    Raises:
        InputError: the file is broken, or has other content than was published (unless `any_content`).
    """
    try:
        items = list(official.read_items(task, file))
    except ValueError as error:
        raise InputError(str(error)) from error
    row, found = TASKS[task], hashlib.sha256(file.read_bytes()).hexdigest()
    if any_content:
        return found
    if file.suffix == ".parquet":
        known = row.items_sha256.get(split)
        is_same = known is None or items_sha256(items) == known
        published = f"the items of version {row.version}"
    else:
        is_same = found == row.sha256.get(split, found) and len(items) == row.num_items.get(split, len(items))
        published = "the file that was published"
    if not is_same:
        raise InputError(
            f"{file}: {len(items):,} items, not {published} (sha256 {found[:12]}…): it is cut or "
            "changed; fetch it again, or score it as it is with any_jglue_content: true"
        )
    return found


def items_sha256(items: Iterable[dict]) -> str:
    """Return a checksum of items, which is the same for each form of a file."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


class RemoteFile(NamedTuple):
    """A file of a task, and its path on the host."""

    task: str
    split: Split
    path: PurePosixPath


def files_of(tasks: Sequence[str]) -> list[RemoteFile]:
    """Return the training and the validation file of each task.

    Raises:
        InputError: a task has no repository that its files can be fetched from.
    """
    if absent := [task for task in tasks if task not in FETCHABLE]:
        raise InputError(
            f"tasks: {', '.join(absent)} cannot be fetched, docs/evaluation.md says where it comes from; of the others "
            f"there are {', '.join(FETCHABLE)}"
        )
    return [
        RemoteFile(task, split, PurePosixPath(repository, TASKS[task].official_path(split)))
        for task in tasks
        if (repository := TASKS[task].repository)  # each FETCHABLE one has it
        for split in SPLITS
    ]


def fetch(remote: RemoteFile, folder: Path, host: str = HOST) -> bool:
    """Fetch a file into `folder/TASK-vVERSION/`, and return whether it was not there before.

    The part that an interrupted download leaves is kept under a hidden name, and the next call continues it.

    Raises:
        InputError: the server cannot be reached or has no such file, or what came, or is there, is not the file that
            was published.
    """
    file = folder / remote.path.parent.name / remote.path.name
    if file.is_file():
        try:
            verified(remote.task, remote.split, file)
        except InputError as error:
            raise InputError(f"{error}; remove it to have it fetched") from error
        return False
    part, url = file.with_name(f".{file.name}.part"), f"{host.rstrip('/')}/{remote.path}"
    _download(url, part, f"{remote.task} {remote.split}")
    try:
        verified(remote.task, remote.split, part)
    except InputError as error:
        part.unlink()
        raise InputError(f"{str(error).replace(str(part), url)}; nothing was kept of it") from error
    part.replace(file)
    return True


def _folder_version(task: str, folder: Path) -> str:
    """Return the version in the name of a folder, or `?`.

    Raises:
        InputError: the version is not the supported one.
    """
    version = re.search(r"-v([\d.]+)$", folder.name)
    found = version[1] if version else "?"
    if TASKS[task].version not in (None, found):
        raise InputError(
            f"{folder}: version {found} of {task}; scores are those of version {TASKS[task].version}, whose "
            "labels are others: take that one"
        )
    return found


def _mirror_version(task: str, valid: Path) -> str:
    """Return the version of Parquet files, which do not name it, from the items to score."""
    is_known = items_sha256(official.read_items(task, valid)) == TASKS[task].items_sha256["valid"]
    return f"{TASKS[task].version if is_known else '?'} as Parquet"


def _download(url: str, part: Path, name: str) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    start = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "jpllm"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server sends all of it again
                start = 0
            _append(answer, part, start, name)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise InputError(f"{url}: the server answers {error.code} {error.reason}") from error
        # The server has nothing beyond what is there, so the file is complete.
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{url}: cannot be fetched ({reason}); with a network the same command goes on from here; without one put "
            "the files there yourself (docs/evaluation.md)"
        ) from error


def _append(answer: http.client.HTTPResponse, part: Path, start: int, name: str) -> None:
    """Write an answer to `part` from byte `start` on, with a progress bar.

    Raises:
        http.client.IncompleteRead: the answer ended early.
    """
    num_bytes = answer.headers.get("Content-Length")
    total = start + int(num_bytes) if num_bytes else None
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab" if start else "wb") as stream, runtime.progress_bar(f"fetch {name}", "bytes") as update:
        done = start
        while chunk := answer.read(_CHUNK_BYTES):
            stream.write(chunk)
            done += len(chunk)
            update(done, total, bytes=len(chunk))
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)
