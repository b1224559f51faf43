"""The lock of a run folder, which the process that writes to the folder holds for as long as it lives."""

from __future__ import annotations

from pathlib import Path

LOCK_NAME = ".lock"


def is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder; looking takes the lock for a moment where none is.

    Raises:
        OSError: the lock cannot be tried, as in a folder of somebody else.
    """
    import filelock

    file = folder / LOCK_NAME
    if not file.exists():
        return False
    lock = filelock.FileLock(file.resolve())
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False
