"""Bound the time and the memory of a step that a stranger's file decides on, such as the template of a conversation."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType

from jpllm.runtime import InputError

_INTERVAL_SECONDS = 0.5  # again and again, should the step catch what interrupts it
_MAPPED_IS_KNOWN_SECONDS = 1.0  # asking costs as much as a short step

_mapped: tuple[float, int] = (-_MAPPED_IS_KNOWN_SECONDS, 0)  # when it was asked for, and bytes


class _TimeIsUp(BaseException):
    """Interrupts a step; no `except Exception` of the step can hide it."""


class bounded:  # reads as a statement: with bounded(…)
    """Run the body for at most `seconds`, with at most `more_bytes` of memory beyond what the process has mapped.

    It takes a few microseconds, so rows can be bounded one by one. Both bounds act on what Python runs: a call into a
    library is interrupted when it returns. The bound of the memory is Linux's, and holds for all threads while the body
    runs.

    Raises:
        InputError: the body takes more; the message begins with `what`.
    """

    def __init__(self, what: str, seconds: float, more_bytes: int) -> None:
        self._what, self._seconds, self._more_bytes = what, seconds, more_bytes

    def __enter__(self) -> None:
        self._limits = _limit_memory(self._more_bytes)
        self._timer = _interrupt_after(self._seconds)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()
        elif hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._limits:
            import resource

            resource.setrlimit(resource.RLIMIT_AS, self._limits)
        if kind is _TimeIsUp:
            raise InputError(f"{self._what}: not done within {self._seconds:g} seconds; given up") from None
        if kind is MemoryError:
            limit = f"{self._more_bytes / 2**30:g} GiB"
            raise InputError(f"{self._what}: needs more than {limit} of memory; given up") from None


def _interrupt_after(seconds: float) -> threading.Timer | None:
    """Have this thread interrupted; signals reach the main thread alone, another one needs a timer."""
    if threading.current_thread() is not threading.main_thread():
        own = ctypes.c_ulong(threading.get_ident())
        raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
        timer = threading.Timer(seconds, raise_in, (own, ctypes.py_object(_TimeIsUp)))
        timer.daemon = True
        timer.start()
        return timer
    if hasattr(signal, "setitimer"):  # not on Windows
        if signal.getsignal(signal.SIGALRM) is not _raise_time_is_up:
            signal.signal(signal.SIGALRM, _raise_time_is_up)
        signal.setitimer(signal.ITIMER_REAL, seconds, _INTERVAL_SECONDS)
    return None


def _raise_time_is_up(signum: int, frame: FrameType | None) -> None:
    raise _TimeIsUp


def _limit_memory(more_bytes: int) -> tuple[int, int] | None:
    """Bound what the process maps, and return the limits before."""
    if sys.platform != "linux":
        return None
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [_mapped_bytes() + more_bytes, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), before[1]))
    return before


def _mapped_bytes() -> int:
    global _mapped
    now = time.monotonic()
    if now - _mapped[0] >= _MAPPED_IS_KNOWN_SECONDS:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # faster
            _mapped = now, int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return _mapped[1]
