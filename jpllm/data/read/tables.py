"""Read the rows of CSV and TSV: the first line names the columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from jpllm.data.read.jsonl import PlacedRow
from jpllm.data.read.quarantine import BadRow
from jpllm.runtime import InputError


def read_delimited(
    name: str, file_format: str, lines: Iterator[tuple[str, str | BadRow]], max_characters: int
) -> Iterator[PlacedRow]:
    """Yield place and columns of each row; one that cannot be read is a `BadRow`.

    In csv quotation marks enclose commas and line breaks (RFC 4180); in tsv a line is a row, and a quotation mark a
    character like any other.

    Raises:
        InputError: the first line cannot be read, or two columns have one name.
    """
    is_csv = file_format == "csv"
    csv.field_size_limit(max_characters + 1)
    texts = _Texts(lines)
    delimiter, quoting = (",", csv.QUOTE_MINIMAL) if is_csv else ("\t", csv.QUOTE_NONE)
    reader = csv.reader(texts, delimiter=delimiter, quoting=quoting, strict=True)
    names: list[str] | None = None
    while True:
        place = f"{name}:{texts.num_read + 1}"
        problem = None
        try:
            values = next(reader, None)
        except csv.Error as error:
            if f"({max_characters + 1})" in str(error):
                problem = BadRow(place, f"longer than max_characters ({max_characters:,})")
            else:
                problem = BadRow(place, f"cannot be read as {file_format.upper()}", str(error))
            values = []
        if texts.bad and values is not None:
            problem, texts.bad = texts.bad, None
        if values is None:
            return
        if names is None:
            if problem:
                raise InputError(str(problem))
            names = _different(place, values)
        elif problem:
            yield place, problem
        elif values and len(values) != len(names):
            found = f"{len(values)} fields, and the first line names {len(names)} columns ({', '.join(names)})"
            yield place, BadRow(place, found)
        elif values:  # else a blank line
            yield place, dict(zip(names, values, strict=True))


class _Texts:
    """Iterates over the texts of numbered lines.

    Attributes:
        num_read: how many lines were read.
        bad: a line that could not be decoded, for which an empty one was given.
    """

    def __init__(self, lines: Iterator[tuple[str, str | BadRow]]) -> None:
        self._lines, self.num_read, self.bad = lines, 0, None

    def __iter__(self) -> _Texts:
        return self

    def __next__(self) -> str:
        _, line = next(self._lines)
        self.num_read += 1
        if isinstance(line, BadRow):
            self.bad = self.bad or line
            return "\n"
        return line.removeprefix("\ufeff") if self.num_read == 1 else line  # the byte order mark of Excel is no name


def _different(place: str, names: list[str]) -> list[str]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{place}: two columns are called {twice[0]!r}; rename one")
    return names
