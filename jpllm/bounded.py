"""Read files that a stranger may have made: regular ones only, and within limits of size, depth and time."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from jpllm.runtime import InputError

MAX_BYTES = 8 << 20  # of a file that is read whole
MAX_LINE_BYTES = 1 << 20
MAX_ROWS_BYTES = 256 << 20  # of a file with a row a line: a million rows of a training
MAX_ROWS = 2_000_000
MAX_DEPTH = 50
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # Windows has no pipes among its files


def open_regular(file: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        InputError: a pipe, a device or another thing whose reading may never end.
        OSError: it is not there, or cannot be opened.
    """
    if not stat.S_ISREG(file.stat().st_mode):  # before it is opened: some devices act on that
        raise InputError(f"{file.name} is no regular file")
    return os.fdopen(os.open(file, os.O_RDONLY | _NONBLOCK | getattr(os, "O_BINARY", 0)), "rb")


def read_bytes(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        InputError: it has more than `max_bytes`, or `open_regular` raises it.
        OSError: it cannot be read.
    """
    with open_regular(file) as stream:
        content = stream.read(max_bytes + 1) or b""
    if len(content) > max_bytes:
        raise InputError(f"{file.name} is larger than {max_bytes / 1e6:,.0f} MB")
    return content


def json_value(file: Path) -> object:
    """Return what a JSON file holds.

    Raises:
        InputError: it is no JSON, or nested more than `MAX_DEPTH` levels deep; `read_bytes` raises it.
        OSError: it cannot be read.
    """
    content = read_bytes(file)
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InputError(f"{file.name} is broken") from None
    if is_deep(found):
        raise InputError(f"{file.name} is broken")
    return found


def json_object(file: Path) -> dict:
    """Return the object in a JSON file.

    Raises:
        InputError: it holds something else; `json_value` raises it.
        OSError: it cannot be read.
    """
    found = json_value(file)
    if not isinstance(found, dict):
        raise InputError(f"{file.name} is broken")
    return found


def is_deep(value: object) -> bool:
    """Return whether lists and dicts in a value of JSON are nested more than `MAX_DEPTH` levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [child for children in inner for child in children]
    return bool(level)


def lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a regular file, each with its end.

    Raises:
        InputError: behind the last line that is read, where a line or the file is too long; `open_regular` raises it.
        OSError: it cannot be read.
    """
    num_bytes = 0
    with open_regular(file) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
            num_bytes += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise InputError(f"line {number:,} has more than {MAX_LINE_BYTES / 1e6:.0f} MB: the rest is left out")
            if num_bytes > MAX_ROWS_BYTES or number > MAX_ROWS:
                raise InputError(f"too long: line {number:,} and the rest are left out")
            yield line
