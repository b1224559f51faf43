"""Files and folders that appear whole or not at all, and the digests by which they are known again."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from jpllm.runtime import InputError

_MAX_NAME_BYTES = 200
_CHUNK_BYTES = 1 << 20


def write_whole(file: Path, text: str) -> None:
    """Write `text` to a file so that no reader ever sees half of it, and that it outlives a power failure."""
    with whole_file(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def whole_file(file: Path) -> Generator[Path]:
    """Yield the name of a file beside `file`, which takes its place when it has reached the disk.

    After a failure nothing is left of it.
    """
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    beginning = os.fsdecode(os.fsencode(file.name)[:_MAX_NAME_BYTES])  # a name is at most 255 bytes long
    unfinished = file.with_name(f".{beginning}.{os.getpid()}.tmp")
    with naming_file(file), removed_on_failure(unfinished):
        yield unfinished
        sync(unfinished)
        unfinished.replace(file)
        sync(file.parent)


@contextmanager
def new_folder(folder: Path, key: str = "output_dir") -> Generator[Path]:
    """Make a folder that appears whole or not at all: yield a hidden one beside it, which is renamed at the end.

    After a failure nothing is left.

    Args:
        key: the setting that names the folder.

    Raises:
        InputError: `folder` is there already and not empty.
    """
    refuse_used(folder, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with naming_file(folder):
            yield unfinished
        unfinished.chmod(0o755)  # mkdtemp's folder is for its owner only
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def refuse_used(folder: Path, key: str = "output_dir") -> None:
    """Raise InputError unless `folder`, which the setting `key` names, is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{key}: {folder} is there already and not empty; remove it, or name another folder")


@contextmanager
def naming_file(file: Path) -> Generator[None]:
    """Give an OSError of the body the name of a file, where it has none, as when a write fails."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


@contextmanager
def removed_on_failure(path: Path) -> Generator[None]:
    """Remove a folder or a file, if the body fails, that it was writing."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def size_and_sha256(file: Path) -> tuple[int, str]:
    """Return the number of bytes of a file, as they are read, and their SHA-256 (hex)."""
    digest, num_bytes, buffer = hashlib.sha256(), 0, memoryview(bytearray(_CHUNK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while length := stream.readinto(buffer):
            digest.update(buffer[:length])
            num_bytes += length
    return num_bytes, digest.hexdigest()
