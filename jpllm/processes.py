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
from collections.abc import Callable, Generator
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
_STUCK_SECONDS = 5
_FOR_COMMAND = (signal.SIGINT, *END_SIGNALS)  # a command's workers leave these to it


class Ended(SystemExit):
    """Raised in the main thread when a signal asks a command to end: what is half done is removed on its way."""

    def __init__(self, number: int) -> None:
        is_launcher_gone = number == LAUNCHER_GONE
        self.exit_code = 128 + int(signal.SIGTERM if is_launcher_gone else number)
        super().__init__(self.exit_code)
        self.reason = "the launcher is gone" if is_launcher_gone else f"{signal.Signals(number).name} received"


@contextlib.contextmanager
def ending_by_signals() -> Generator[None]:
    """Within it, SIGTERM, SIGHUP and the launcher's end raise `Ended`; a second one ends the process at once.

    Where the main thread waits in a library and cannot take it, as for a process that never comes, the process ends
    some seconds later. A signal that is ignored, as SIGHUP below nohup, stays so. Does nothing in a thread, which takes
    no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_taken = threading.Event()

    def end(number: int, frame: object) -> None:
        is_taken.set()
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        raise Ended(number)

    arrived, arrival = os.pipe()
    os.set_blocking(arrival, False)
    earlier_arrival = signal.set_wakeup_fd(arrival, warn_on_full_buffer=False)
    threading.Thread(target=_end_where_stuck, args=(arrived, end, is_taken), name="signals", daemon=True).start()
    before = {one: signal.signal(one, end) for one in END_SIGNALS if is_heeded(one)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(earlier_arrival)
        os.close(arrival)


def _end_where_stuck(arrived: int, handler: Callable, is_taken: threading.Event) -> None:
    """End this process when a signal for `handler` has arrived and the main thread does not take it.

    Args:
        arrived: where the number of each signal is read from as a byte, up to the end of the command.
    """
    with os.fdopen(arrived, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            is_its = number[0] in END_SIGNALS and signal.getsignal(number[0]) is handler
            if is_its and not is_taken.wait(_STUCK_SECONDS) and signal.getsignal(number[0]) is handler:
                os._exit(Ended(number[0]).exit_code)


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
        with _signals_for_this_one():
            self._pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), _begin_worker)
        self._workers: set[multiprocessing.process.BaseProcess] = set()

    def __enter__(self) -> WorkerPool:
        return self

    def submit(self, work: Callable, *arguments: Any) -> Future:
        """Have a process compute `work(*arguments)`."""
        before = set(multiprocessing.active_children())
        with _signals_for_this_one():
            submitted = self._pool.submit(work, *arguments)
        self._workers |= set(multiprocessing.active_children()) - before
        return submitted

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._pool.shutdown()
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()


@contextlib.contextmanager
def _signals_for_this_one() -> Generator[None]:
    """Keep back signals while processes are started, which inherit that; this one gets them afterwards.

    The terminal sends Ctrl-C to all, and each would answer with a traceback. One that was started half would do so too,
    so that handlers wait, which another thread may have been interrupted for.
    """
    arrived: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    heeded = [one for one in _FOR_COMMAND if is_main and callable(signal.getsignal(one))]
    handlers = {one: signal.signal(one, lambda number, _: arrived.append(number)) for one in heeded}
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_COMMAND)
    try:
        resource_tracker.ensure_running()  # a process too, and starting it lets SIGINT and SIGTERM in again
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_COMMAND)
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        for number in arrived:
            os.kill(os.getpid(), number)


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
