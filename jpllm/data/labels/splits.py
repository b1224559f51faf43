"""Split labelled rows for training, validation and testing: from files of their own, or from one.

Rows are put in an order by a hash of seed and text, class by class; the first are for testing, the next for validation,
the rest for training. So each class has its share of each split, the order of the file does not matter, and copies of
a text or of a pair, in either order, which are neighbours, come to the same side. Copies with different labels are
divided like a class of their own.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jpllm.data.labels.rows import (
    LabelledDataConfig,
    LabelledRow,
    class_names,
    read_labelled_rows,
    refuse_unknown_labels,
)
from jpllm.runtime import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splits:
    """Rows by what they are for; `test` may be empty.

    Attributes:
        class_names: sorted, or the columns of the choices; None for regression.
    """

    train: list[LabelledRow]
    validation: list[LabelledRow]
    test: list[LabelledRow]
    class_names: list[str] | None

    @property
    def named(self) -> dict[str, list[LabelledRow]]:
        """The splits that have rows, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in parts.items() if rows}

    @property
    def output_names(self) -> list[str] | None:
        """The names of the outputs of a model for these rows; each of several choices gets the same one."""
        return ["choice"] if self.train[0].choices else self.class_names

    def target(self, row: LabelledRow) -> int | float:
        """Return the index of the class or choice of a row, or its number."""
        return (self.class_names or []).index(row.label) if isinstance(row.label, str) else row.label


def read_splits(config: LabelledDataConfig) -> Splits:
    """Read all files, check the labels, balance and divide; warns of texts that are trained and evaluated on.

    Raises:
        InputError: see `read_labelled_rows`; one class only, an unknown label in another file, or a class too small to
            be in each split.
    """
    rows = read_labelled_rows(config.train_file, config)
    known = class_names(config.train_file, rows) if config.task == "classification" else None
    if config.task == "regression" and len({row.label for row in rows}) == 1:
        raise InputError(f"{config.train_file}: all labels are {rows[0].label}; there is nothing to learn")
    if config.balance:
        rows = balanced(rows, config.split_seed)
    parts = divided(rows, config.test_share or 0, config.validation_share or 0, config.split_seed)
    for name, file in (("validation", config.validation_file), ("test", config.test_file)):
        if file is not None:
            parts[name] = read_labelled_rows(file, config)
            if known is not None:
                refuse_unknown_labels(file, parts[name], known)
    if config.max_train_rows:
        chosen = set(map(id, _in_order(parts["train"], config.split_seed)[: config.max_train_rows]))
        parts["train"] = [row for row in parts["train"] if id(row) in chosen]
    splits = Splits(**parts, class_names=known or config.choice_columns)
    _warn_of_copies(splits)
    return splits


def balanced(rows: Sequence[LabelledRow], seed: int) -> list[LabelledRow]:
    """Return as many rows of each class as the smallest has, in the order of the file."""
    fewest = min(Counter(row.label for row in rows).values())
    chosen = {id(row) for members in _classes(rows) for row in _in_order(members, seed)[:fewest]}
    return [row for row in rows if id(row) in chosen]


def divided(
    rows: Sequence[LabelledRow], test_share: float, validation_share: float, seed: int
) -> dict[str, list[LabelledRow]]:
    """Divide rows into `train`, `validation` and `test`, each in the order of the file.

    Shares are of each class (of all rows in regression and multiple choice), to the nearest row that parts no
    copies; a share of 0 gives no rows.

    Raises:
        InputError: a class has too few rows for a part of it to be in each split.
    """
    split_of: dict[int, str] = {}
    wanted = {name for name, share in (("test", test_share), ("validation", validation_share)) if share} | {"train"}
    for members in _copies_together(rows):
        ordered = _in_order(members, seed)
        end_of_test = _end(ordered, round(test_share * len(ordered)))
        end_of_validation = _end(ordered, max(end_of_test, round((test_share + validation_share) * len(ordered))))
        names = ["test"] * end_of_test + ["validation"] * (end_of_validation - end_of_test)
        names += ["train"] * (len(ordered) - len(names))
        split_of |= {id(row): name for row, name in zip(ordered, names, strict=True)}
    for members in _classes(rows):
        if missing := wanted - {split_of[id(row)] for row in members}:
            label = members[0].label
            whose = f"the class {label!r}" if isinstance(label, str) else "the file"
            num_texts = len({row.texts for row in members})
            raise InputError(
                f"{members[0].place}: {whose} has {num_texts:,} different texts, too few for some of them to be in "
                f"{' and '.join(sorted(missing))}; add rows, remove the class, or give validation_file and test_file"
            )
    return {name: [row for row in rows if split_of[id(row)] == name] for name in ("train", "validation", "test")}


def summary(splits: Splits) -> str:
    """Return a line for each split: its rows, and those of each class."""
    lines = []
    for name, rows in splits.named.items():
        if splits.class_names is None:
            labels = [row.label for row in rows]
            detail = f"labels from {min(labels):g} to {max(labels):g}"
        else:
            counts = Counter(map(splits.target, rows))
            detail = ", ".join(f"{label} {counts[index]:,}" for index, label in enumerate(splits.class_names))
        lines.append(f"{name}: {len(rows):,} rows ({detail})")
    return "\n".join(lines)


def _classes(rows: Sequence[LabelledRow]) -> list[list[LabelledRow]]:
    """Return the rows of each class, or all together where labels are numbers, as those of choices are."""
    found: dict[str | None, list[LabelledRow]] = {}
    for row in rows:
        found.setdefault(row.label if isinstance(row.label, str) else None, []).append(row)
    return [found[name] for name in sorted(found, key=str)]


def _copies_together(rows: Sequence[LabelledRow]) -> list[list[LabelledRow]]:
    """Return the rows by the set of classes that equal texts have, so that copies stay together."""
    labels_of: dict[tuple[str, str | None], set[str]] = {}
    for row in rows:
        labels_of.setdefault(row.texts, set()).add(row.label if isinstance(row.label, str) else "")
    found: dict[tuple[str, ...], list[LabelledRow]] = {}
    for row in rows:
        found.setdefault(tuple(sorted(labels_of[row.texts])), []).append(row)
    return [found[labels] for labels in sorted(found)]


def _in_order(rows: Sequence[LabelledRow], seed: int) -> list[LabelledRow]:
    return sorted(rows, key=lambda row: hashlib.blake2b(repr((seed, row.texts)).encode(), digest_size=16).digest())


def _end(ordered: Sequence[LabelledRow], end: int) -> int:
    """Return `end`, moved behind the copies of a text that it would part."""
    while 0 < end < len(ordered) and ordered[end].texts == ordered[end - 1].texts:
        end += 1
    return end


def _warn_of_copies(splits: Splits) -> None:
    trained = {(row.texts, frozenset(row.choices)) for row in splits.train}
    for name, rows in splits.named.items():
        num_copies = sum((row.texts, frozenset(row.choices)) in trained for row in rows)
        if name != "train" and num_copies:
            logger.warning(
                "%d of %d rows to %s on are trained on too, so the figures are too good; remove them from one file",
                *(num_copies, len(rows), "validate" if name == "validation" else "test"),
            )
