"""Standard streams that hold out: on a terminal of any encoding, closed from the start, or left by their reader.

A command writes for somebody who may go away: `recipe … 2>&1 | head` ends its reader, a lost connection its terminal.
What was to be shown is then dropped, and the work goes on, for its files are what counts.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO, cast

_NAMES = ("stdin", "stdout", "stderr")  # by number
_FULL = (errno.ENOSPC, errno.EDQUOT)  # of the file that a log is written to; there may be room again


def hold_out() -> None:
    """Let no write to stdout or stderr, and no look at them, end this process.

    A stream that was closed before the start is replaced by one that leads nowhere. Characters that the encoding of a
    terminal lacks are written as `\\u2014`; bytes that stdin cannot decode become replacement characters.
    """
    for number, name in enumerate(_NAMES):
        if getattr(sys, name) is None:
            setattr(sys, name, _leading_nowhere(name, number))
    _change_errors(sys.stdin, "replace")
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and not isinstance(_raw(stream), _Lasting) and _is_of(stream, number):
            stream = _lasting(stream, number)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        _change_errors(stream, "backslashreplace")


def end_with_reader() -> None:
    """End this process, with code 0, when the reader of stdout goes away: for commands that only show something."""
    raw = _raw(sys.stdout)
    if isinstance(raw, _Lasting):
        raw.ends_with_reader = True


class _Lasting(io.FileIO):
    """A standard stream whose writes never fail: what cannot be written is dropped."""

    ends_with_reader = False

    def write(self, content: Any, /) -> int:
        """Write bytes and return their number, also where nobody can read them any more."""
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in _FULL:
                _lead_nowhere(self.fileno())
                if self.ends_with_reader:
                    raise SystemExit(0) from None
            return memoryview(content).nbytes


def _lasting(stream: TextIO, number: int) -> TextIO:
    """Return a stream like `stream`, which has the file descriptor `number`, that lasts."""
    with contextlib.suppress(OSError):
        stream.flush()
    is_unbuffered = getattr(stream, "write_through", False)
    raw = _Lasting(number, "w", closefd=False)
    buffer = cast("io.BufferedWriter", raw) if is_unbuffered else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=is_unbuffered,
    )


def _raw(stream: TextIO) -> object:
    """Return the lowest layer of a stream."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _is_of(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):  # io.UnsupportedOperation is both: a stream without a file
        return False


def _change_errors(stream: TextIO, errors: str) -> None:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)


def _leading_nowhere(name: str, number: int) -> TextIO:
    """Return a stream without an end to read from or to write to, with this file descriptor where it is free.

    Else the next file that is opened would get it, and what a library prints would be written into that file.
    """
    try:
        os.fstat(number)
    except OSError:
        _lead_nowhere(number)
    else:
        number = os.open(os.devnull, os.O_RDWR)
    return os.fdopen(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    else:
        os.set_inheritable(number, True)
