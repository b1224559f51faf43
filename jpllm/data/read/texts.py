"""Read the texts of a source: what is no text is a bad row, with its place and the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from jpllm.data.clean.wikitext.plain_text import Wikitext
from jpllm.data.read.files import printable
from jpllm.data.read.formats import ReadProgress, read_rows
from jpllm.data.read.quarantine import BadRow
from jpllm.data.read.sources import SourceConfig
from jpllm.runtime import InputError

_COLUMN = re.compile(r"\{([^{}]+)\}")
_MESSAGE_SEPARATOR = "\n"
_ENOUGH_ROWS = 20  # to see that no row has a column
_SHOWN_CHARACTERS = 300


def read_texts(source: SourceConfig, progress: ReadProgress | None = None) -> Iterator[str | BadRow]:
    """Yield the text of each row of `source` in a fixed order, uncleaned, blank ones included; bad rows in between.

    Pages of a wiki dump come as `Wikitext`; cleaning makes plain text of them.

    Raises:
        InputError: a file that is missing or damaged, a column that none of the first rows has, or a `where` that takes
            no row.
    """
    extractor = TextExtractor(source)
    num_texts = num_bytes = num_others = 0
    other: dict[str, object] = {}
    for place, row in read_rows(source, extractor.top_columns, progress or ReadProgress()):
        if isinstance(row, BadRow):
            yield row
            continue
        text = extractor.text_of(place, row)
        if text is None:  # not a row that `where` asks for
            num_others, other = num_others + 1, other or row
            continue
        yield text
        if isinstance(text, str):
            num_texts += 1
            num_bytes += len(text.encode("utf-8")) if source.max_bytes else 0
        if num_texts == source.max_rows or (source.max_bytes and num_bytes >= source.max_bytes):
            return
    extractor.refuse_missing_columns()
    if num_others and not num_texts:
        refuse_empty_choice(source, num_others, other)


def refuse_empty_choice(source: SourceConfig, num_others: int, example: dict[str, object]) -> None:
    """Raise the InputError of a source of which `where` takes no row, and say what one of the others has."""
    wanted = ", ".join(f"{column}: {value}" for column, value in source.where.items())
    found = ", ".join(f"{column}: {_as_text(_lookup(example, column))[:40]}" for column in source.where)
    raise InputError(f"{source.label}: where ({wanted}) takes none of {num_others:,} rows; the first has {found}")


class TextExtractor:
    """Extracts the texts of the rows of one source; one of the first rows must have all columns that are asked for."""

    def __init__(self, source: SourceConfig) -> None:
        self._source = source
        template = source.template
        self._columns = _COLUMN.findall(template) if template is not None else [source.text_column]
        self._pieces = _COLUMN.split(template)[::2] if template is not None else ["", ""]
        self._is_plain = template is None and not source.where
        key = "template" if template is not None else "text_column"
        self._wanted = [(key, column) for column in self._columns] + [("where", column) for column in source.where]
        self._has_all = False  # some row has all columns
        self._num_lacking = 0
        self._missing: InputError | None = None

    @property
    def top_columns(self) -> list[str]:
        """The columns that are needed, without the fields inside them, sorted."""
        return sorted({column.split(".")[0] for column in (*self._columns, *self._source.where)})

    def text_of(self, place: str, row: dict[str, object]) -> str | BadRow | None:
        """Return the text of a row, None where `where` asks for other rows, or what is wrong with the row.

        Raises:
            InputError: none of the first rows has one of the columns.
        """
        if self._is_plain and isinstance(text := row.get(self._source.text_column), str):
            self._has_all = True
            return self._problem(place, text) or text
        if not self._has_all and (problem := self._lacking(place, row)):
            return problem
        if not has_values(row, self._source.where):
            return None
        values = []
        for column in self._columns:
            value = _value(place, row, column)
            if isinstance(value, BadRow):
                return value
            values.append(value)
        pieces = self._pieces
        text = "".join(piece + value for piece, value in zip(pieces, [*values, ""], strict=True))
        if any(isinstance(value, Wikitext) for value in values):
            text = Wikitext(text)
        return self._problem(place, text) or text

    def refuse_missing_columns(self) -> None:
        """Raise InputError where no row had all columns."""
        if self._missing and not self._has_all:
            raise self._missing

    def _lacking(self, place: str, row: dict[str, object]) -> BadRow | None:
        """Return what a row lacks, as long as no row has had all columns: one odd row at the beginning ends nothing."""
        for key, column in self._wanted:
            if _lookup(row, column) is _ABSENT:
                columns = printable(", ".join(row)[:_SHOWN_CHARACTERS]) or "none"
                self._num_lacking += 1
                self._missing = self._missing or InputError(
                    f"{place}: no column {column!r}; the row has {columns} (set {key})"
                )
                if self._num_lacking == _ENOUGH_ROWS:
                    raise self._missing
                return BadRow(place, f"no column {column!r}", f"the row has {columns}")
        self._has_all = True
        return None

    def _problem(self, place: str, text: str) -> BadRow | None:
        if len(text) > self._source.max_characters:
            return BadRow(place, f"longer than max_characters ({self._source.max_characters:,})", f"{len(text):,}")
        return text_problem(place, text)


_ISO_2022_JP = re.compile(r"\x1b(?:\$[@B(]|\([IJ])")  # the sequences that switch to another character set


def text_problem(place: str, text: str) -> BadRow | None:
    """Return what is wrong with a text that cannot be encoded, and None for one that can."""
    if "\0" in text:
        return BadRow(place, "NUL character", f"at character {text.index(chr(0))}")
    if "\x1b" in text and _ISO_2022_JP.search(text):
        return BadRow(place, "ISO-2022-JP text", "convert the file: iconv -f ISO-2022-JP -t UTF-8")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x} at character {error.start}; cut in the middle of a character"
        return BadRow(place, "lone surrogate", found)
    return None


def has_values(row: dict[str, object], wanted: dict[str, str]) -> bool:
    """Return whether the columns of `row` that `wanted` names have the values that it gives."""
    return all(_as_text(_lookup(row, column)) == value for column, value in wanted.items())


_ABSENT = object()


def _lookup(row: dict[str, object], column: str) -> object:
    """Return the value of a column, or of a field inside one, written `column.field`."""
    if column in row:
        return row[column]
    value: object = row
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            return _ABSENT
        value = value[name]
    return value


def _as_text(value: object) -> str:
    """Return what a value is written like in `where`: as in JSON, or in the words of Python where JSON has none."""
    if isinstance(value, str):
        return value
    if value is _ABSENT:
        return ""
    if value is None or isinstance(value, bool | int | float | list | dict):
        return _as_json(value)
    return str(value)  # dates, decimals and other types of Parquet


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError) as error:  # nested too deeply, or keys that JSON does not know
        return type(error).__name__


def _value(place: str, row: dict[str, object], column: str) -> str | BadRow:
    """Return the text of a column: as it is, of messages joined, and the first of several."""
    value = _lookup(row, column)
    if isinstance(value, str):
        return value
    if value is _ABSENT:
        return BadRow(place, f"no column {column!r}")
    if value is None:
        return BadRow(place, f"column {column!r} is null")
    if isinstance(value, list) and value:
        contents = [item.get("content") if isinstance(item, dict) else None for item in value]
        texts = [content for content in contents if isinstance(content, str)]
        if len(texts) == len(contents):
            return _MESSAGE_SEPARATOR.join(texts)
        if isinstance(value[0], str):
            return value[0]
    return BadRow(place, f"column {column!r} holds no text", _as_json(value)[:40])
