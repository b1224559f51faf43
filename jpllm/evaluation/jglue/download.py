"""Download of the official files of JGLUE and JCoLA: each file whole and as it was published, or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jpllm import runtime
from jpllm.evaluation.jglue import files
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS, Split
from jpllm.runtime import InputError

HOST = "https://raw.githubusercontent.com"
FETCHABLE = [name for name, task in TASKS.items() if task.repository]
TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 16


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
    splits: tuple[Split, ...] = ("train", "valid")
    return [
        RemoteFile(task, split, PurePosixPath(TASKS[task].repository, TASKS[task].official_path(split)))
        for task in tasks
        for split in splits
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
            files.verified(remote.task, remote.split, file)
        except InputError as error:
            raise InputError(f"{error}; remove it to have it fetched") from error
        return False
    part, url = file.with_name(f".{file.name}.part"), f"{host.rstrip('/')}/{remote.path}"
    _download(url, part, f"{remote.task} {remote.split}")
    try:
        files.verified(remote.task, remote.split, part)
    except InputError as error:
        part.unlink()
        raise InputError(f"{str(error).replace(str(part), url)}; nothing was kept of it") from error
    part.replace(file)
    return True


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
