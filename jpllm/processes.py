"""Processes that end together: by one signal, with the launcher that started them, with the command they work for.

A launcher that is killed leaves its processes behind, and so does a command its workers. So each asks the operating
system to be told when the one that started it is gone (Linux), or waits for that in a thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from jpllm import streams

LAUNCHER_GONE = signal.SIGUSR2  # no signal of a person or a scheduler: it comes beside those, and asks for nothing more
END_SIGNALS = (signal.SIGTERM, signal.SIGHUP, LAUNCHER_GONE)
_PARENT = "JPLLM_PARENT"  # id of the process that a command was started by and is to end with
_OF_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")  # set by torchrun, and by accelerate launch
_PR_SET_PDEATHSIG = 1
_FOR_COMMAND = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # a command's workers leave these to it


class Ended(SystemExit):
    """Raised in the main thread when a signal asks a command to end: what is half done is removed on its way."""

    def __init__(self, number: int) -> None:
        is_launcher_gone = number == LAUNCHER_GONE
        self.exit_code = 128 + int(signal.SIGTERM if is_launcher_gone else number)
        super().__init__(self.exit_code)
        self.reason = "the launcher is gone" if is_launcher_gone else f"{signal.Signals(number).name} received"


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Within it, SIGTERM, SIGHUP and the launcher's end raise `Ended`; a second one ends the process at once.

    A signal that is ignored, as SIGHUP below nohup, stays so. Does nothing in a thread, which takes no signals.
    """
    before = {}

    def end(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        raise Ended(number)

    if threading.current_thread() is threading.main_thread():
        before |= {one: signal.signal(one, end) for one in END_SIGNALS if is_heeded(one)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def is_heeded(number: int) -> bool:
    """Return whether a signal is not ignored: `nohup` ignores SIGHUP, and a shell SIGINT for what it runs beside."""
    return signal.getsignal(number) is not signal.SIG_IGN


def end_with_launcher() -> None:
    """Ask for the signal LAUNCHER_GONE when the launcher, or the command that started this one, has ended.

    What a person started from a shell, or with nohup, has no launcher and goes on without it.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux") or not _is_launcher(parent):
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(LAUNCHER_GONE), 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os.kill(os.getpid(), LAUNCHER_GONE)


def _is_launcher(parent: int) -> bool:
    if os.environ.get(_PARENT) == str(parent):
        return True
    if not any(name in os.environ for name in _OF_LAUNCHERS):
        return False
    try:  # the variables may be those of a shell
        return Path(f"/proc/{parent}/exe").readlink().name.startswith("python")
    except OSError:
        return False


def environment_of_child() -> dict[str, str]:
    """Return what to add to the environment of a command that is to end with this process."""
    return {_PARENT: str(os.getpid())}


class WorkerPool:
    """Processes that work for this one; they end with it, however it ends, and Ctrl-C reaches this one alone.

    Used in a `with` block: at its end all work is done, and after an error in it nobody works on.
    """

    def __init__(self, num_processes: int) -> None:
        self._pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _begin_worker)
        self._workers: set[multiprocessing.process.BaseProcess] = set()

    def __enter__(self) -> WorkerPool:
        return self

    def submit(self, work: Callable, *arguments: Any) -> Future:
        """Have a process compute `work(*arguments)`."""
        resource_tracker.ensure_running()  # starting it later would let the signals in again
        before = set(multiprocessing.active_children())
        # The terminal sends Ctrl-C to all, and each would answer with a traceback. A child inherits what is blocked.
        earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_COMMAND)
        try:
            return self._pool.submit(work, *arguments)
        finally:
            self._workers |= set(multiprocessing.active_children()) - before
            signal.pthread_sigmask(signal.SIG_SETMASK, earlier)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._pool.shutdown()
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()


def _begin_worker() -> None:
    """Make ready a process of a pool: it ends with the command that it works for, and takes one core."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # libraries would start a thread per core in each of them
    streams.hold_out()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing.connection import wait

    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)
