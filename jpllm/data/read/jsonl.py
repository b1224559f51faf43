"""Read JSON lines strictly and write them atomically; number the lines of any text file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from jpllm.data.read.quarantine import BadRow
from jpllm.runtime import InputError, naming_file, removed_on_failure

PlacedRow = tuple[str, "dict[str, object] | BadRow"]  # with its file and line


def numbered_lines(name: str, stream: BinaryIO, encoding: str) -> Iterator[tuple[str, str | BadRow]]:
    """Yield place and text of each line, with its end; the lines are counted from 1.

    Raises:
        InputError: a compressed file is damaged.
    """
    line_number = 0
    try:
        for line_number, line in enumerate(stream, start=1):
            place = f"{name}:{line_number}"
            try:
                yield place, line.decode(encoding)
            except UnicodeDecodeError as error:
                found = f"byte 0x{error.object[error.start]:02x} at position {error.start} of the line"
                hint = "; convert the file to UTF-8, or set encoding" if encoding == "utf-8" else ""
                yield place, BadRow(place, f"invalid {encoding.upper()}", found + hint)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{name}:{line_number + 1}: damaged or incomplete compressed file ({error})") from None


def read_jsonl(lines: Iterator[tuple[str, str | BadRow]]) -> Iterator[PlacedRow]:
    """Yield place and object of each line that is not blank; duplicate keys and other values make a `BadRow`."""
    decode = json.JSONDecoder(object_pairs_hook=_dict_of_different_keys).decode
    for place, line in lines:
        if isinstance(line, BadRow):
            yield place, line
        elif not line.isspace():
            try:
                row = decode(line)
            except json.JSONDecodeError as error:
                yield place, BadRow(place, "not a JSON object", f"{error.msg} at column {error.colno}")
            except (KeyError, RecursionError) as error:
                yield place, BadRow(place, "duplicate key in the JSON object", str(error))
            else:
                is_object = isinstance(row, dict)
                yield place, row if is_object else BadRow(place, "not a JSON object", line.strip()[:40])


def _dict_of_different_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return result


def write_jsonl(rows: Iterable[dict], file: Path) -> None:
    """Write each row as a JSON object in a line of `file`, which appears when it is whole; make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with naming_file(file), removed_on_failure(partial):
        with partial.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.replace(file)
