"""Items of JGLUE, JCoLA and JAQKET from their official files, as lm-evaluation-harness takes them.

The folder with the files is the metadata `jglue_dir`, or else the environment variable JGLUE_DIR. `test` is what is
scored, the official validation file; `shots` are the examples that stand before each question. Tasks with a mirror of
Parquet files on the Hugging Face Hub may also be there in that form.
"""

from __future__ import annotations

import json
import os
import re
import runpy
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

try:
    from .tasks import TASKS, Task
except ImportError:  # lm-evaluation-harness runs this file by its path, outside of any package
    TASKS = runpy.run_path(str(Path(__file__).with_name("tasks.py")))["TASKS"]

MIRROR_FILES = {"train": "train-*.parquet", "valid": "validation-*.parquet"}
SUFFIXES = (".json", ".jsonl")
PLACES = (".", "datasets", "data")  # of the folders: in a folder of one's own, in JGLUE's repository, in JCoLA's
NUM_SHOTS = 8
NUM_SHOTS_HELD_OUT = 4
NUM_CONTEXTS = 5  # retrieved texts of a question, as many as the board shows a model


def load(task: str, jglue_dir: str | None = None, **_: object) -> dict:
    """Return the splits `shots` and `test` as `datasets.Dataset`; lm-evaluation-harness calls this (`custom_dataset`).

    Raises:
        FileNotFoundError: no folder is named, or the validation file is not in it.
        ValueError: a file is broken; the message names it, and the line where there are lines.
    """
    from datasets import Dataset

    folder = jglue_dir or os.environ.get("JGLUE_DIR")
    if not folder:
        raise FileNotFoundError("name the folder with the data: JGLUE_DIR, or the metadata jglue_dir")
    files = find_files(task, Path(folder))
    if "valid" not in files:
        raise FileNotFoundError(f"{folder}: no {TASKS[task].folder}/{TASKS[task].files['valid']}")
    items = {split: list(read_items(task, file)) for split, file in files.items()}
    shots, scored = split_items(task, items.get("train"), items["valid"])
    return {"shots": Dataset.from_list(shots), "test": Dataset.from_list(scored)}


def find_files(task: str, folder: Path) -> dict[str, Path]:
    """Return the files `train` and `valid` of the newest version of a task in `folder`, as far as they are there."""
    row = TASKS[task]
    versions = [path for place in PLACES for path in (folder / place).glob(row.folder) if path.is_dir()]
    if not versions:
        return _find_mirrored(task, folder)
    newest = max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    found = {
        split: [path for path in sorted(newest.glob(name)) if path.suffix in SUFFIXES]  # no backups
        for split, name in row.files.items()
    }
    return {split: paths[-1] for split, paths in found.items() if paths}


def _find_mirrored(task: str, folder: Path) -> dict[str, Path]:
    """Return the Parquet files of a task, from a folder with the name of its mirror in upper or lower case."""
    name = (TASKS[task].mirror or "").partition("/")[2].lower()
    copies = [path for path in sorted(folder.glob("*")) if path.is_dir() and path.name.lower() == name]
    for place in (place for copy in copies for place in (copy / "data", copy)):
        found = {split: sorted(place.glob(pattern)) for split, pattern in MIRROR_FILES.items()}
        if any(found.values()):
            return {split: paths[0] for split, paths in found.items() if paths}
    return {}


def split_items(task: str, train: Sequence[dict] | None, valid: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Return few-shot examples, and the items to score, which the examples are never among.

    The examples are the first of the training file, of fixed labels one after another, as the board's stratified
    sampling has it. Without a training file they are the last of the validation file, which are then not scored,
    nor are other questions on the same text, nor the same pair of sentences the other way round.
    """
    if train is not None:
        return _choose(task, train, NUM_SHOTS), list(valid)
    shots = _choose(task, valid[::-1], NUM_SHOTS_HELD_OUT)
    taken = {text_key(task, item) for item in shots}
    return shots, [item for item in valid if text_key(task, item) not in taken]


def _choose(task: str, items: Sequence[dict], number: int) -> list[dict]:
    """Return the first `number` items on different texts; fixed labels take turns, each as often as the others."""
    labels = TASKS[task].labels
    waiting: list[list[dict]] = [[] for _ in labels or [None]]
    texts: set[str] = set()
    for item in items:
        queue = waiting[item["gold"] if labels else 0]
        if len(queue) < number and text_key(task, item) not in texts:
            queue.append(item)
            texts.add(text_key(task, item))
    turns = [item for turn in zip_longest(*waiting) for item in turn if item is not None]
    return turns[:number]


def text_key(task: str, item: dict) -> str:
    """Return what items about the same text share: its paragraph if there is one, else its texts in any order."""
    return item.get("context") or joined_texts(item[column] for column in TASKS[task].text_columns)


def joined_texts(texts: Iterable[str]) -> str:
    """Return one text that is the same for two texts in either order."""
    return "\n".join(sorted(texts))


def read_items(task: str, file: Path) -> Iterator[dict]:
    """Yield the items of an official file, with `gold` (place of the right choice) or `target` (text of the answer).

    Raises:
        ValueError: not UTF-8, no JSON or Parquet, or without the keys of this task.
    """
    is_parquet, row = file.suffix == ".parquet", None
    convert = _ITEMS_OF_PARQUET_ROW.get(TASKS[task].kind) if is_parquet else None
    convert = convert or _ITEMS_OF_ROW[TASKS[task].kind]
    for place, row in _parquet_rows(file) if is_parquet else _rows(file):
        try:
            yield from convert(TASKS[task], row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{place}: not an item of {task} in its official format ({error!r})") from error
    if row is None:
        raise ValueError(f"{file}: no items")


def _rows(file: Path) -> Iterable[tuple[str, dict]]:
    """Yield place and value of each row: of JSON lines, of a JSON list, or of the list `data` in a JSON object."""
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8") from error
    lines = text.rstrip("\n").split("\n")
    if len(lines) > 1 and lines[0].startswith("{") and lines[0].rstrip().endswith("}"):
        for number, line in enumerate(lines, 1):
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}:{number}: broken JSON, is the file whole? ({error})") from error
        return
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file}: broken JSON, is the file whole? ({error})") from error
    rows = value.get("data", [value]) if isinstance(value, dict) else value
    yield from ((f"{file}: item {number}", row) for number, row in enumerate(rows, 1))


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict]]:
    """Yield place and value of each row of a Parquet file.

    Raises:
        ValueError: the file is broken, or holds only a part of the rows.
    """
    import pyarrow
    import pyarrow.parquet

    if (parts := re.search(r"-of-0*(\d+)\.parquet$", file.name)) and int(parts[1]) > 1:
        raise ValueError(f"{file}: one of {int(parts[1])} files; put all rows into one")
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}: row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file}: broken Parquet, is the file whole? ({error})") from error


def _start(task: Task, row: dict) -> dict:
    """Return what items of every kind begin with: `id` and the texts, under the names of their columns."""
    return {"id": str(row[task.id_column]), **{column: row[column] for column in task.text_columns}}


def _choice_items(task: Task, row: dict) -> Iterator[dict]:
    choices = [row[column] for column in task.choice_columns]
    yield {**_start(task, row), "choices": choices, "gold": int(row["label"])}


def _label_items(task: Task, row: dict) -> Iterator[dict]:
    yield {**_start(task, row), "gold": task.labels.index(row["label"])}


def _similarity_items(task: Task, row: dict) -> Iterator[dict]:
    similarity = float(row["label"])
    yield {**_start(task, row), "similarity": similarity, "target": f"{similarity:.1f}"}


def _reading_items(task: Task, article: dict) -> Iterator[dict]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            yield from _question_items(task, {**question, "context": paragraph["context"]})


def _question_items(task: Task, row: dict) -> Iterator[dict]:
    """Yield a question with its context; its answers are a list of objects, or in a mirror one object of lists."""
    found = row["answers"]
    answers = list(found["text"]) if isinstance(found, dict) else [answer["text"] for answer in found]
    context = row["context"].split("[SEP]")[-1].strip()  # the title stands before [SEP]; the board drops it
    yield {**_start(task, row), "context": context, "answers": answers, "target": answers[0]}


def _retrieval_items(task: Task, row: dict) -> Iterator[dict]:
    contexts = row["ctxs"][:NUM_CONTEXTS]
    answering = [context["text"] for context in contexts if context["has_answer"]]
    if answering:  # the board leaves the other questions out
        yield {
            **_start(task, row),
            "contexts": [context["text"] for context in contexts],
            "answering_context": answering[0],
            "answers": row["answers"],
            "target": row["answers"][0],
        }


_ITEMS_OF_ROW: dict[str, Callable[[Task, dict], Iterator[dict]]] = {
    "choice": _choice_items,
    "label": _label_items,
    "similarity": _similarity_items,
    "reading": _reading_items,
    "retrieval": _retrieval_items,
}
_ITEMS_OF_PARQUET_ROW = {"reading": _question_items}  # where the mirror's rows are others
