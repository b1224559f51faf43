"""The texts of benchmark items, as they may occur in training documents.

Files of JGLUE are recognised by their columns: questions with choices (JCommonsenseQA), pairs of sentences (JNLI, JSTS)
and questions on a paragraph (JSQuAD, nested or with one question a row, as in its Parquet mirror). The paragraph, which
comes from Wikipedia, is kept apart from question and answers. For any other table, such as JCoLA and MARC-ja, the user
names the columns.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jpllm.config.settings import REQUIRED, option
from jpllm.data.read.formats import TABLE_SUFFIXES, read_table
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import TASKS, Task
from jpllm.runtime import InputError

_BEFORE_PARAGRAPH = " [SEP] "  # JSQuAD writes the title of the article before it


@dataclass
class BenchmarkConfig:
    """One file of a benchmark."""

    shorthand: ClassVar[str] = "path"

    path: str = option(
        REQUIRED, f"File of JGLUE as published, or a table with named columns ({', '.join(TABLE_SUFFIXES)})."
    )
    name: str | None = option(None, "Name in the report; by default folder and file.")
    columns: list[str] = option(
        default_factory=list, help="Columns whose texts together make an item; not for JGLUE's own files."
    )
    answer_column: str | None = option(None, "Column with the right answer, or a list of those that are right.")
    context_column: str | None = option(None, "Column with a text that is reported apart from the item.")
    id_column: str | None = option(None, "Column that names an item; by default the number of its row, from 0.")

    def check(self) -> Iterator[tuple[str, str]]:
        """Refuse columns of a table that are not named all together, or named twice."""
        for key in ("answer_column", "context_column", "id_column"):
            if getattr(self, key) is not None and not self.columns:
                yield key, f"{getattr(self, key)!r} has no effect without columns; name the columns of an item"
        named = [*self.columns, *filter(None, (self.answer_column, self.context_column))]
        for column in sorted({column for column in named if named.count(column) > 1}):
            yield "columns", f"{column!r} is named twice; a column is part of the item, its answer or its context"

    @property
    def label(self) -> str:
        """Return the configured name, by default folder and file without suffix."""
        return self.name or str(Path(*Path(self.path).resolve().parts[-2:]).with_suffix(""))


@dataclass(frozen=True)
class Item:
    """One item of a benchmark.

    Attributes:
        texts: what makes the item, in the order of `Benchmark.columns`.
        answers: each of them is right.
        choices: all that are offered.
        context: a text that many items may share; empty where there is none.
    """

    id: str
    texts: tuple[str, ...]
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    context: str = ""


@dataclass(frozen=True)
class Benchmark:
    """The items of a file and the names of their columns; without `id_column` an item's id is the number of its row."""

    label: str
    path: Path
    columns: tuple[str, ...]
    answer: str | None
    context: str | None
    items: list[Item]
    id_column: str | None = None


def read_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Read the items of a file, in its order.

    Raises:
        InputError: the file is missing or has no rows, or a row cannot be read or lacks its texts.
    """
    path = Path(config.path)
    rows = [_Row(place, values) for place, values in read_table(path)]
    if not rows:
        raise InputError(f"{path}: no rows")
    if config.columns:
        columns, answer, context = tuple(config.columns), config.answer_column, config.context_column
        id_column = config.id_column
        items = [_item_of_columns(number, row, config) for number, row in enumerate(rows)]
    elif "data" in rows[0].values:
        columns, answer, context, id_column = ("question",), "answer", "context", "id"
        items = [item for row in rows for item in _items_of_squad(row)]
    elif {"question", "context", "answers"} <= rows[0].values.keys():
        columns, answer, context, id_column = ("question",), "answer", "context", "id"
        items = list(map(_item_of_flat_squad, rows))
    elif task := _task_with(rows[0].values):
        columns, context, id_column = task.text_columns, None, task.id_column
        answer = "answer" if task.choice_columns else None
        items = [_item_of_task(task, row) for row in rows]
    else:
        raise InputError(
            f"{rows[0].place}: not a file of JCommonsenseQA, JNLI, JSTS or JSQuAD; the row has "
            f"{', '.join(rows[0].values) or 'no columns'} (set columns)"
        )
    return Benchmark(config.label, path, columns, answer, context, items, id_column)


def _item_of_columns(number: int, row: _Row, config: BenchmarkConfig) -> Item:
    return Item(
        row.name(config.id_column) if config.id_column else str(number),
        tuple(map(row.text, config.columns)),
        answers=row.texts(config.answer_column) if config.answer_column else (),
        context=row.text(config.context_column) if config.context_column else "",
    )


def _task_with(columns: Container[str]) -> Task | None:
    """Return a task of JGLUE with choices or with two sentences whose official files have these columns."""
    for task in TASKS.values():
        if task.choice_columns and task.text_columns[0] in columns and task.choice_columns[0] in columns:
            return task
        if len(task.text_columns) == 2 and task.text_columns[0] in columns and task.id_column in columns:
            return task
    return None


def _item_of_task(task: Task, row: _Row) -> Item:
    """Return an item of a task with choices or with two sentences.

    Raises:
        InputError: a column is missing, or the label is not the number of a choice.
    """
    choices = tuple(map(row.text, task.choice_columns))
    answers = ()
    if choices:
        label = row.get("label")
        if not isinstance(label, int) or label not in range(len(choices)):
            raise InputError(f"{row.place}: label {label!r} is not the number of a choice (0 to {len(choices) - 1})")
        answers = (choices[label],)
    return Item(row.name(task.id_column), tuple(map(row.text, task.text_columns)), answers, choices)


def _items_of_squad(row: _Row) -> Iterator[Item]:
    for article in row.rows("data"):
        for paragraph in article.rows("paragraphs"):
            context = paragraph.text("context")
            for question in paragraph.rows("qas"):
                answers = tuple(answer.text("text") for answer in question.rows("answers"))
                yield _item_of_question(question, answers, context)


def _item_of_flat_squad(row: _Row) -> Item:
    """Return a question of JSQuAD's Parquet mirror, whose answers are one object of lists."""
    answers = row.get("answers")
    texts = _Row(row.place, answers).texts("text") if isinstance(answers, dict) else row.texts("answers")
    return _item_of_question(row, texts, row.text("context"))


def _item_of_question(row: _Row, answers: tuple[str, ...], context: str) -> Item:
    context = context.split(_BEFORE_PARAGRAPH, 1)[-1]
    return Item(row.name("id"), (row.text("question"),), answers=answers, context=context)


@dataclass(frozen=True)
class _Row:
    """A row with its place in a file, which the InputError for a missing or wrong value names."""

    place: str
    values: dict[str, object]

    def get(self, column: str) -> object:
        if column not in self.values:
            raise InputError(f"{self.place}: no column {column!r}; the row has {', '.join(self.values) or 'none'}")
        return self.values[column]

    def text(self, column: str) -> str:
        value = self.get(column)
        if not isinstance(value, str):
            raise InputError(f"{self.place}: column {column!r} is {value!r:.40}, not a text")
        return value

    def name(self, column: str) -> str:
        value = self.get(column)
        if not isinstance(value, str | int):
            raise InputError(f"{self.place}: column {column!r} is {value!r:.40}, not a name or a number")
        return str(value)

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the texts of a column that holds one text or a list of texts."""
        value = self.get(column)
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{self.place}: column {column!r} is {value!r:.40}, not a text or a list of texts")
        return tuple(texts)

    def rows(self, column: str) -> Iterator[_Row]:
        value = self.get(column)
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise InputError(f"{self.place}: {column!r} is {value!r:.40}, not a list of objects")
        return (_Row(self.place, row) for row in value)
