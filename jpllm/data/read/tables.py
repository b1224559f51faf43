"""Read the rows of a table with named columns: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from jpllm.data.read.formats import ReadProgress, read_rows
from jpllm.data.read.jsonl import PlacedRow, numbered_lines, read_jsonl
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
Encoding = Literal["utf-8", "cp932", "euc_jp"]
_ALL_COLUMNS = ("*",)  # no such column: all are read


def read_table(file: Path, encoding: Encoding = "utf-8") -> Iterator[tuple[str, dict[str, object]]]:
    """Yield place and columns of each row of `file`.

    The first line of .csv and .tsv names the columns. In .csv quotation marks enclose commas and line breaks (RFC
    4180); in .tsv a line is a row, and a quotation mark a character like any other. A .json file has one object
    a line, as the files of JGLUE do.

    Raises:
        InputError: no such file, another suffix, or a row that cannot be read.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    if not file.name.endswith(TABLE_SUFFIXES):
        raise InputError(f"{file}: unknown file type; readable are {', '.join(TABLE_SUFFIXES)}")
    if file.suffix == ".parquet":
        yield from _usable(read_rows(SourceConfig(str(file)), _ALL_COLUMNS, ReadProgress()))
        return
    with file.open("rb") as stream:
        lines = numbered_lines(str(file), stream, encoding)
        yield from _read_delimited(file, lines) if file.suffix in (".csv", ".tsv") else _usable(read_jsonl(lines))


def _usable(rows: Iterator[PlacedRow]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the rows. Raises InputError at one that cannot be read."""
    for place, row in rows:
        if isinstance(row, BadRow):
            raise InputError(str(row))
        yield place, row


def _read_delimited(file: Path, lines: Iterator[tuple[str, str | BadRow]]) -> Iterator[tuple[str, dict[str, object]]]:
    is_csv = file.suffix == ".csv"
    delimiter, quoting = (",", csv.QUOTE_MINIMAL) if is_csv else ("\t", csv.QUOTE_NONE)
    reader = csv.reader(_texts(lines), delimiter=delimiter, quoting=quoting, strict=True)
    names: list[str] | None = None
    while True:
        place = f"{file}:{reader.line_num + 1}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{place}: cannot be read as {file.suffix[1:].upper()}: {error}") from None
        if values is None:
            return
        if names is None:
            names = _different(place, values)
        elif values and len(values) != len(names):
            raise InputError(
                f"{place}: {len(values)} fields, and the first line names {len(names)} columns ({', '.join(names)})"
            )
        elif values:  # else a blank line
            yield place, dict(zip(names, values, strict=True))


def _texts(lines: Iterator[tuple[str, str | BadRow]]) -> Iterator[str]:
    for index, (_, line) in enumerate(lines):
        if isinstance(line, BadRow):
            raise InputError(str(line))
        yield line.removeprefix("\ufeff") if index == 0 else line  # the byte order mark of Excel is no name


def _different(place: str, names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{place}: two columns are called {twice[0]!r}; rename one")
    return names
