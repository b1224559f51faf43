"""Read labelled rows (texts, pairs of texts, or questions with choices) from files, and check each of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpllm.config.settings import REQUIRED, option
from jpllm.data.read.formats import TABLE_SUFFIXES, read_table
from jpllm.data.read.sources import Encoding
from jpllm.data.read.texts import text_problem
from jpllm.runtime import InputError

DEFAULT_VALIDATION_SHARE, DEFAULT_TEST_SHARE = 0.1, 0.2
_NUM_SHOWN = 5
_WHOLE_NUMBER = re.compile(r"[-+]?\d+")


@dataclass
class LabelledDataConfig:
    """Data"""

    train_file: Path = option(REQUIRED, f"Rows to learn from ({', '.join(TABLE_SUFFIXES)}).")
    validation_file: Path | None = option(
        None, "Rows to evaluate on during training; by default a share of train_file."
    )
    test_file: Path | None = option(
        None, "Rows to evaluate on once, at the end; by default a share of train_file unless validation_file is given."
    )
    task: Literal["classification", "regression", "multiple_choice"] = option(
        "classification", "Whether a label is the name of a class, a number, or the number of the right choice, from 0."
    )
    text_column: str = option("text", "Column with the text; of multiple_choice with the question.")
    pair_column: str | None = option(None, "Column with the second text, where a row is a pair.")
    choice_columns: list[str] | None = option(
        None, "Columns with the choices of multiple_choice, in the order of their numbers."
    )
    label_column: str = option("label", "Column with the label.")
    encoding: Encoding = option("utf-8", "Encoding of .csv, .tsv and .jsonl files.")
    validation_share: float | None = option(
        None, "Share of train_file to evaluate on, by default 0.1 without validation_file.", above=0, maximum=0.5
    )
    test_share: float | None = option(
        None, "Share of train_file to test on, by default 0.2 where it is the only file.", minimum=0, maximum=0.5
    )
    balance: bool = option(False, "Take equally many rows of each class of train_file, before it is divided.")
    max_train_rows: int | None = option(None, "Train on so many of the training rows, chosen by chance.", minimum=1)
    split_seed: int = option(0, "Seed of the splits, of balance and of max_train_rows; `seed` does not change them.")

    def __post_init__(self) -> None:
        """Set the default shares, so that they are written down with the other settings."""
        if self.test_share is None and self.validation_file is None and self.test_file is None:
            self.test_share = DEFAULT_TEST_SHARE
        if self.validation_share is None and self.validation_file is None:
            self.validation_share = DEFAULT_VALIDATION_SHARE

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield key and problem of settings that would be ignored or contradict each other."""
        for name in ("validation", "test"):
            if getattr(self, f"{name}_file") and getattr(self, f"{name}_share"):
                yield f"{name}_share", f"{name}_file is given, so nothing is taken of train_file; remove one of them"
        if self.balance and self.task != "classification":
            yield "balance", "acts on classes only; remove it"
        if self.pair_column == self.text_column:
            yield "pair_column", f"{self.pair_column!r} is the text_column too; name another column"
        if self.task == "multiple_choice":
            yield from self._check_choices()
        elif self.choice_columns is not None:
            yield "choice_columns", "acts with task: multiple_choice only; remove it"

    def _check_choices(self) -> Iterator[tuple[str, str]]:
        names = self.choice_columns or []
        if len(names) < 2:
            yield "choice_columns", "task: multiple_choice needs two or more of them, such as [choice0, choice1]"
        for name in sorted({name for name in names if [self.text_column, *names].count(name) > 1}):
            yield "choice_columns", f"{name!r} is named twice; each choice and the question have a column of their own"
        if self.pair_column is not None:
            yield "pair_column", "the second texts are those of choice_columns; remove it"


@dataclass(frozen=True)
class LabelledRow:
    """A text, a pair of texts, or a question with choices, and its label.

    Attributes:
        place: file and line.
        label: name of the class, a number, or the number of the right choice, from 0.
    """

    place: str
    text: str
    pair: str | None
    label: str | float | int
    choices: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, str | None]:
        """The texts without the choices; those of a pair are sorted, so that (A, B) and (B, A) are equal."""
        return (self.text, None) if self.pair is None else (min(self.text, self.pair), max(self.text, self.pair))


def read_labelled_rows(file: Path, config: LabelledDataConfig) -> list[LabelledRow]:
    """Return all rows of a file.

    Raises:
        InputError: a file or row that cannot be read, a missing column, an empty text, a label that is missing or of
            another kind than `config.task` says, or no rows at all.
    """
    columns = [
        ("text_column", config.text_column),
        ("pair_column", config.pair_column),
        *(("choice_columns", column) for column in config.choice_columns or ()),
        ("label_column", config.label_column),
    ]
    rows: list[LabelledRow] = []
    problems: list[str] = []
    for place, values in read_table(file, config.encoding):
        for key, column in columns:
            if column is not None and column not in values:
                raise InputError(
                    f"{place}: no column {column!r}; the row has {', '.join(values) or 'none'} (set {key})"
                )
        try:
            rows.append(_row(place, values, config))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        shown = "\n  ".join(problems[:_NUM_SHOWN])
        raise InputError(
            f"{file}: {len(problems):,} of {len(problems) + len(rows):,} rows cannot be used; mend or remove them:\n"
            f"  {shown}" + ("\n  …" if len(problems) > _NUM_SHOWN else "")
        )
    if not rows:
        raise InputError(f"{file}: it holds no rows")
    if config.task == "classification":
        _refuse_numbers(config, rows)
    return rows


def class_names(file: Path, rows: list[LabelledRow]) -> list[str]:
    """Return the names of all classes, sorted. Raises InputError if there is only one."""
    names = sorted({str(row.label) for row in rows})
    if len(names) == 1:
        raise InputError(f"{file}: all {len(rows):,} rows have the label {names[0]!r}; there is nothing to tell apart")
    return names


def refuse_unknown_labels(file: Path, rows: list[LabelledRow], known: list[str]) -> None:
    """Raise InputError if a row has a label that the training rows do not have."""
    unknown = [row for row in rows if row.label not in known]
    if unknown:
        shown = "\n  ".join(f"{row.place}: {row.label!r}" for row in unknown[:_NUM_SHOWN])
        raise InputError(
            f"{file}: {len(unknown):,} of {len(rows):,} rows have a label that no training row has; known are "
            f"{', '.join(known)}:\n  {shown}" + ("\n  …" if len(unknown) > _NUM_SHOWN else "")
        )


def _row(place: str, values: dict[str, object], config: LabelledDataConfig) -> LabelledRow:
    text = _text(place, config.text_column, values)
    pair = None if config.pair_column is None else _text(place, config.pair_column, values)
    choices = tuple(_text(place, column, values) for column in config.choice_columns or ())
    label = values[config.label_column]
    if config.task == "regression":
        return LabelledRow(place, text, pair, _number(label))
    return LabelledRow(place, text, pair, _choice(label, len(choices)) if choices else _class_name(label), choices)


def _text(place: str, column: str, values: dict[str, object]) -> str:
    text = values[column]
    if not isinstance(text, str):
        raise ValueError(f"column {column!r} holds no text but {text!r:.40}")
    if not text.strip():
        raise ValueError(f"column {column!r} is empty")
    if problem := text_problem(place, text):
        raise ValueError(f"column {column!r}: {problem.reason}, {problem.detail}")
    return text


def _class_name(label: object) -> str:
    if label is None or (isinstance(label, str) and not label.strip()):
        raise ValueError("the label is missing")
    if isinstance(label, float):
        raise ValueError(
            f"the label is {label}, a number with a fraction; write task: regression, or give classes whole numbers "
            "or names"
        )
    if not isinstance(label, str | int):
        raise ValueError(f"the label is no name but {label!r:.40}")
    return str(label).strip()


def _choice(label: object, num_choices: int) -> int:
    is_written = isinstance(label, str) and _WHOLE_NUMBER.fullmatch(label.strip())
    number = int(label) if is_written else label
    if isinstance(number, bool) or not isinstance(number, int) or number not in range(num_choices):
        raise ValueError(f"the label is {label!r:.40}, not the number of a choice (0 to {num_choices - 1})")
    return number


def _number(label: Any) -> float:
    try:
        number = math.nan if isinstance(label, bool | None) else float(label)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the label is no number but {label!r:.40}; for classes write task: classification")
    return number


def _refuse_numbers(config: LabelledDataConfig, rows: list[LabelledRow]) -> None:
    """Raise InputError if all labels spell numbers, some with a fraction: labels of .csv and .tsv are texts."""
    fractions = []
    for row in rows:
        try:
            float(row.label)
        except ValueError:
            return
        if not _WHOLE_NUMBER.fullmatch(str(row.label)):
            fractions.append(row)
    if fractions:
        raise InputError(
            f"{fractions[0].place}: column {config.label_column!r} holds numbers with a fraction, such as "
            f"{fractions[0].label}; write task: regression, or give classes whole numbers or names"
        )
