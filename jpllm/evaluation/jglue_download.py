"""The official files of JGLUE and JCoLA from their repositories: each whole and as published, or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jpllm import runtime
from jpllm.evaluation import jglue_data
from jpllm.evaluation.jglue_data import Task
from jpllm.runtime import InputError

HOST = "https://raw.githubusercontent.com"
JGLUE = "yahoojapan/JGLUE/6f071c09316baae89c3d083a90985b4b1cb9968c/datasets"
JCOLA = "osekilab/JCoLA/736d9eef3af04bb17e4cf59adf01325973234ff9/data"
FOLDERS: dict[Task, str] = {
    **{task: f"{JGLUE}/{task}-v1.3" for task in ("jcommonsenseqa", "jnli", "jsquad", "jsts")},
    "jcola": f"{JCOLA}/jcola-v1.0",
}
TIMEOUT_SECONDS = 60
_CHUNK_BYTES = 1 << 16


class RemoteFile(NamedTuple):
    """A file of a task, and where it lies below the host."""

    task: Task
    split: str
    path: PurePosixPath


def files_of(tasks: Sequence[Task]) -> list[RemoteFile]:
    """The training and the validation file of each task.

    Raises:
        InputError: the files of a task are not to be had from a repository.
    """
    if absent := [task for task in tasks if task not in FOLDERS]:
        raise InputError(
            f"tasks: {', '.join(absent)} cannot be fetched, docs/evaluation.md says where it comes from; of the others "
            f"there are {', '.join(FOLDERS)}"
        )
    found = []
    for task in tasks:
        prefix, version = ("in_domain_" if task == "jcola" else ""), jglue_data.VERSIONS[task]
        for split in ("train", "valid"):
            found.append(RemoteFile(task, split, PurePosixPath(FOLDERS[task], f"{prefix}{split}-v{version}.json")))
    return found


def fetch(remote: RemoteFile, folder: Path, host: str = HOST) -> bool:
    """Fetch a file into `folder/TASK-vVERSION/`; False when it was there already.

    What came of an interrupted download is kept under a hidden name, and the next call goes on behind it.

    Raises:
        InputError: the server cannot be reached or has no such file, or what came, or is there, is not the file that
            was published.
    """
    file = folder / remote.path.parent.name / remote.path.name
    if file.is_file():
        try:
            jglue_data.verified(remote.task, remote.split, file)
        except InputError as error:
            raise InputError(f"{error}; remove it to have it fetched") from error
        return False
    part, url = file.with_name(f".{file.name}.part"), f"{host.rstrip('/')}/{remote.path}"
    _download(url, part, f"{remote.task} {remote.split}")
    try:
        jglue_data.verified(remote.task, remote.split, part)
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
        # nothing lies behind what is there: all of it is
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            f"{url}: cannot be fetched ({reason}); with a network the same command goes on from here; without one put "
            "the files there yourself (docs/evaluation.md)"
        ) from error


def _append(answer: http.client.HTTPResponse, part: Path, start: int, name: str) -> None:
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
