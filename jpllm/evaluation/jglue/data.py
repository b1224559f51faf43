"""Items of JGLUE, JCoLA and JAQKET from their official files, as lm-evaluation-harness takes them.

The folder with the files is the metadata `jglue_dir`, or else the environment variable JGLUE_DIR. `test` is what is
scored, the official validation file; `shots` are the examples that stand before each question. JCommonsenseQA and
JSQuAD may also be there as Parquet, as their mirrors on the Hugging Face Hub have them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

FILES = {  # folder, training file, validation file
    "jcommonsenseqa": ("jcommonsenseqa-v*", "train-v*.json", "valid-v*.json"),
    "jnli": ("jnli-v*", "train-v*.json", "valid-v*.json"),
    "jsquad": ("jsquad-v*", "train-v*.json", "valid-v*.json"),
    "jsts": ("jsts-v*", "train-v*.json", "valid-v*.json"),
    "marc_ja": ("marc_ja-v*", "train-v*.json", "valid-v*.json"),
    "jcola": ("jcola-v*", "in_domain_train-v*.json*", "in_domain_valid-v*.json*"),
    "jaqket": ("jaqket-v2*", "train_jaqket*.json", "dev_jaqket*.json"),
}
MIRRORS = {"jcommonsenseqa": "sbintuitions/JCommonsenseQA", "jsquad": "sbintuitions/JSQuAD"}  # of Parquet files
MIRROR_FILES = {"train": "train-*.parquet", "valid": "validation-*.parquet"}
SUFFIXES = (".json", ".jsonl")
PLACES = (".", "datasets", "data")  # of the folders: in a folder of one's own, in JGLUE's repository, in JCoLA's
LABELS = {  # in the order of the choices
    "jnli": ("entailment", "contradiction", "neutral"),
    "marc_ja": ("positive", "negative"),
    "jcola": (0, 1),
}
NUM_SHOTS = 8
NUM_SHOTS_HELD_OUT = 4
NUM_CONTEXTS = 5  # of JAQKET, as on the board


def load(task: str, jglue_dir: str | None = None, **_: object) -> dict:
    """The splits `shots` and `test` as `datasets.Dataset`; lm-evaluation-harness calls this (`custom_dataset`).

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
        raise FileNotFoundError(f"{folder}: no {'/'.join(FILES[task][::2])}")
    items = {split: list(read_items(task, file)) for split, file in files.items()}
    shots, scored = split_items(task, items.get("train"), items["valid"])
    return {"shots": Dataset.from_list(shots), "test": Dataset.from_list(scored)}


def find_files(task: str, folder: Path) -> dict[str, Path]:
    """The files `train` and `valid` of the newest version of a task in `folder`; without those that are absent."""
    pattern, *names = FILES[task]
    versions = [path for place in PLACES for path in (folder / place).glob(pattern) if path.is_dir()]
    if not versions:
        return _find_mirrored(task, folder)
    newest = max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    found = {
        split: [path for path in sorted(newest.glob(name)) if path.suffix in SUFFIXES]  # no backups
        for split, name in zip(("train", "valid"), names, strict=True)
    }
    return {split: paths[-1] for split, paths in found.items() if paths}


def _find_mirrored(task: str, folder: Path) -> dict[str, Path]:
    """The Parquet files of a task, in a folder with the name of its mirror, whatever its case."""
    name = MIRRORS.get(task, "").partition("/")[2].lower()
    copies = [path for path in sorted(folder.glob("*")) if path.is_dir() and path.name.lower() == name]
    for place in (place for copy in copies for place in (copy / "data", copy)):
        found = {split: sorted(place.glob(pattern)) for split, pattern in MIRROR_FILES.items()}
        if any(found.values()):
            return {split: paths[0] for split, paths in found.items() if paths}
    return {}


def split_items(task: str, train: Sequence[dict] | None, valid: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Few-shot examples, and the items to score, which they are never among.

    The examples are the first of the training file, of fixed labels one after another, as the board's stratified
    sampling has it. Without a training file they are the last of the validation file, which are then not scored,
    nor are other questions on the same text, nor the same pair of sentences the other way round.
    """
    if train is not None:
        return _choose(task, train, NUM_SHOTS), list(valid)
    shots = _choose(task, valid[::-1], NUM_SHOTS_HELD_OUT)
    taken = {text_key(item) for item in shots}
    return shots, [item for item in valid if text_key(item) not in taken]


def _choose(task: str, items: Sequence[dict], number: int) -> list[dict]:
    """The first `number` items on different texts; with fixed labels each as often as the others, taking turns."""
    num_labels = len(LABELS.get(task, ())) or 1
    waiting: list[list[dict]] = [[] for _ in range(num_labels)]
    texts: set[str] = set()
    for item in items:
        queue = waiting[item["gold"] if task in LABELS else 0]
        if len(queue) < number and text_key(item) not in texts:
            queue.append(item)
            texts.add(text_key(item))
    turns = [item for turn in zip_longest(*waiting) for item in turn if item is not None]
    return turns[:number]


def text_key(item: dict) -> str:
    """What items on the same text share: the text, the question itself, or of a pair both sentences in any order."""
    if "sentence2" in item:
        return "\n".join(sorted([item["sentence1"], item["sentence2"]]))
    return item.get("context") or item.get("question") or item["sentence"]


def read_items(task: str, file: Path) -> Iterator[dict]:
    """The items of an official file, with `gold` (index of the right choice) or `target` (text of the right answer).

    Raises:
        ValueError: not UTF-8, no JSON or Parquet, or without the keys of this task.
    """
    convert, row = _CONVERT[task], None
    if file.suffix == ".parquet" and task == "jsquad":
        convert = _jsquad_question
    for place, row in _parquet_rows(file) if file.suffix == ".parquet" else _rows(file):
        try:
            yield from convert(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{place}: not an item of {task} in its official format ({error!r})") from error
    if row is None:
        raise ValueError(f"{file}: no items")


def _rows(file: Path) -> Iterable[tuple[str, dict]]:
    """Place and value of each row: of JSON lines, of a JSON list, or of the list `data` in a JSON object."""
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
    """Place and value of each row.

    Raises:
        ValueError: broken, or only a part of the rows.
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


def _jcommonsenseqa(row: dict) -> Iterator[dict]:
    choices = [row[f"choice{index}"] for index in range(5)]
    yield {"id": str(row["q_id"]), "question": row["question"], "choices": choices, "gold": int(row["label"])}


def _jnli(row: dict) -> Iterator[dict]:
    gold = LABELS["jnli"].index(row["label"])
    yield {
        "id": row["sentence_pair_id"],
        "sentence1": row["sentence1"],
        "sentence2": row["sentence2"],
        "gold": gold,
    }


def _jsts(row: dict) -> Iterator[dict]:
    yield {
        "id": row["sentence_pair_id"],
        "sentence1": row["sentence1"],
        "sentence2": row["sentence2"],
        "similarity": float(row["label"]),
        "target": f"{float(row['label']):.1f}",
    }


def _jsquad(article: dict) -> Iterator[dict]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            yield from _jsquad_question({**question, "context": paragraph["context"]})


def _jsquad_question(row: dict) -> Iterator[dict]:
    """A question with its context; its answers are a list of objects, or as in the mirror one object of lists."""
    found = row["answers"]
    answers = list(found["text"]) if isinstance(found, dict) else [answer["text"] for answer in found]
    yield {
        "id": row["id"],
        "context": row["context"].split("[SEP]")[-1].strip(),  # the title stands before [SEP]; the board drops it
        "question": row["question"],
        "answers": answers,
        "target": answers[0],
    }


def _marc_ja(row: dict) -> Iterator[dict]:
    gold = LABELS["marc_ja"].index(row["label"])
    yield {"id": str(row["review_id"]), "sentence": row["sentence"], "gold": gold}


def _jcola(row: dict) -> Iterator[dict]:
    yield {"id": str(row["uid"]), "sentence": row["sentence"], "gold": LABELS["jcola"].index(row["label"])}


def _jaqket(row: dict) -> Iterator[dict]:
    contexts = row["ctxs"][:NUM_CONTEXTS]
    answering = [context["text"] for context in contexts if context["has_answer"]]
    if answering:  # the board leaves the other questions out
        yield {
            "id": row["qid"],
            "question": row["question"],
            "contexts": [context["text"] for context in contexts],
            "answering_context": answering[0],
            "answers": row["answers"],
            "target": row["answers"][0],
        }


_CONVERT: dict[str, Callable[[dict], Iterator[dict]]] = {
    "jcommonsenseqa": _jcommonsenseqa,
    "jnli": _jnli,
    "jsquad": _jsquad,
    "jsts": _jsts,
    "marc_ja": _marc_ja,
    "jcola": _jcola,
    "jaqket": _jaqket,
}
