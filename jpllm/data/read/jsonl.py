"""Read JSON lines strictly and write them atomically; number the lines of any text file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from jpllm.data.read.files import DECOMPRESSION_ERRORS
from jpllm.data.read.quarantine import BadRow
from jpllm.runtime import InputError
from jpllm.whole_files import whole_file

PlacedRow = tuple[str, "dict[str, object] | BadRow"]  # with its file and line
MAX_CHARACTERS = 4_000_000
_MOST_BYTES_PER_CHARACTER = 6  # in JSON, as \\u3042
_OTHER_BYTES = 1 << 20  # of a line beside its text
_SHOWN_BYTES = 100
_ENCODING_HINTS = {
    "utf-8": "; convert the file to UTF-8, or set encoding",
    "euc_jp": "; characters such as ① are in encoding: euc_jis_2004",
}


def numbered_lines(
    name: str, stream: io.BufferedReader, encoding: str, max_characters: int = MAX_CHARACTERS
) -> Iterator[tuple[str, str | BadRow]]:
    """Yield place and text of each line, with its end; the lines are counted from 1.

    A file whose lines end in CR alone is read as if they ended in LF. A line that cannot be decoded is a `BadRow`, and
    so is one of more bytes than `max_characters` can take up in JSON, of which no more is in memory at a time.

    Raises:
        InputError: a compressed file is damaged.
    """
    line_number = 0
    max_bytes = _MOST_BYTES_PER_CHARACTER * max_characters + _OTHER_BYTES
    try:
        head = stream.peek(1)
        is_utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
        ends_in_cr = b"\r" in head[:-1] and b"\n" not in head and not is_utf16
        lines = _cr_lines(stream, max_bytes) if ends_in_cr else iter(partial(stream.readline, max_bytes), b"")
        for line_number, line in enumerate(lines, start=1):
            place = f"{name}:{line_number}"
            if len(line) >= max_bytes and (len(line) > max_bytes or not line.endswith(b"\n")):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_OTHER_BYTES)
                reason = f"longer than max_characters ({max_characters:,})"
                yield place, BadRow(place, reason, f"over {max_bytes:,} bytes")
            elif is_utf16:
                yield place, BadRow(place, "UTF-16 text", "convert the file to UTF-8: iconv -f UTF-16 -t UTF-8")
            else:
                try:
                    yield place, line.decode(encoding)
                except UnicodeDecodeError as error:
                    found = f"byte 0x{error.object[error.start]:02x} at position {error.start} of the line"
                    hint = _ENCODING_HINTS.get(encoding, "")
                    yield place, BadRow(place, f"invalid {encoding.upper()}", found + hint)
    except DECOMPRESSION_ERRORS as error:
        raise InputError(f"{name}:{line_number + 1}: damaged or incomplete compressed file ({error})") from None


def _cr_lines(stream: io.BufferedReader, max_bytes: int) -> Iterator[bytes]:
    """Yield each line of a file whose lines end in CR, with an LF instead; of one of over `max_bytes` its beginning."""
    rest = long_beginning = b""
    while chunk := stream.read1(_OTHER_BYTES):
        *lines, rest = (rest + chunk).replace(b"\r\n", b"\r").split(b"\r")
        for line in lines:
            yield (long_beginning or line) + b"\n"
            long_beginning = b""
        if long_beginning:
            rest = b""
        elif len(rest) > max_bytes:
            rest, long_beginning = b"", rest
    if long_beginning or rest:
        yield long_beginning + b"\n" if long_beginning else rest


def read_jsonl(lines: Iterator[tuple[str, str | BadRow]]) -> Iterator[PlacedRow]:
    """Yield place and object of each line that is not blank; duplicate keys and other values make a `BadRow`."""
    decode = json.JSONDecoder(object_pairs_hook=_dict_of_different_keys).decode
    for place, line in lines:
        if isinstance(line, BadRow):
            yield place, line
            continue
        if line[0] == "\ufeff":  # a byte order mark: of the file, or of one that was joined to another by cat
            line = line[1:]
        if line and not line.isspace():
            try:
                row = decode(line)
            except json.JSONDecodeError as error:
                yield place, BadRow(place, "not a JSON object", f"{error.msg} at column {error.colno}")
            except KeyError as error:
                yield place, BadRow(place, "duplicate key in the JSON object", str(error))
            except RecursionError:
                yield place, BadRow(place, "JSON nested too deeply", f"{line[:40].strip()} …")
            except ValueError as error:  # Python converts no number of more digits than 4,300
                yield place, BadRow(place, "number of too many digits in the JSON object", str(error).split(";")[0])
            else:
                is_object = isinstance(row, dict)
                yield place, row if is_object else BadRow(place, "not a JSON object", line.strip()[:40])


def refuse_other_json(name: str, stream: io.BufferedReader) -> None:
    """Raise InputError where a .json file is visibly one value and not one object a line, and say how to make it so."""
    beginning = stream.peek(1)[:_SHOWN_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if beginning.startswith(b"["):
        what, query = "one JSON array", ".[]"
    elif beginning.startswith(b"{") and beginning[1:].lstrip(b" \t").startswith((b"\n", b"\r")):
        what, query = "one JSON value over several lines", "."
    else:
        return
    raise InputError(f"{name}: {what}, not one object a line; make lines of it: jq -c '{query}' FILE > FILE.jsonl")


def _dict_of_different_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise KeyError(name)
            seen.add(name)
    return result


def write_jsonl(rows: Iterable[dict], file: Path) -> None:
    """Write each row as a JSON object in a line of `file`, which appears when it is whole; make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial_file, partial_file.open("wb") as stream:
        stream.writelines(map(json_line, rows))


def json_line(row: dict) -> bytes:
    """Return a row as a line of UTF-8; halves of characters, which JSON can hold and UTF-8 cannot, are escaped."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")
