"""Labelled rows: what is refused and how; splits are stratified, seeded, and never part copies of a text."""

import hashlib
import json
import logging
from collections import Counter

import pytest

from jpllm.data.labels.rows import LabelledDataConfig, LabelledRow, read_labelled_rows
from jpllm.data.labels.splits import Splits, balanced, divided, read_splits, summary
from jpllm.runtime import InputError


def write(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def rows_of(**counts):
    return [
        LabelledRow(f"f:{label}{n}", f"{label} text {n}", None, label) for label, k in counts.items() for n in range(k)
    ]


def settings(file, **changes):
    return LabelledDataConfig(train_file=file, **changes)


def test_columns_pairs_and_kinds_of_labels(tmp_path):
    rows = [{"a": "一", "b": "二", "kind": 1, "x": 4.5}, {"a": "三", "b": "四", "kind": " 0 ", "x": "3"}]
    file = write(tmp_path / "t.jsonl", rows)
    named = settings(file, text_column="a", pair_column="b", label_column="kind")
    assert read_labelled_rows(file, named) == [
        LabelledRow(f"{file}:1", "一", "二", "1"),
        LabelledRow(f"{file}:2", "三", "四", "0"),
    ]
    number = settings(file, text_column="a", label_column="x", task="regression")
    assert [row.label for row in read_labelled_rows(file, number)] == [4.5, 3.0]


CHOICES = {"task": "multiple_choice", "text_column": "q", "choice_columns": ["x", "y", "z"]}


def test_questions_with_choices(tmp_path):
    labels = [2, "0", " 1 "] * 10
    rows = [{"q": f"問{n % 9}", "x": "甲", "y": "乙", "z": f"丙{n}", "label": label} for n, label in enumerate(labels)]
    file = write(tmp_path / "t.jsonl", rows)
    found = read_labelled_rows(file, settings(file, **CHOICES))
    assert found[:2] == [
        LabelledRow(f"{file}:1", "問0", None, 2, ("甲", "乙", "丙0")),
        LabelledRow(f"{file}:2", "問1", None, 0, ("甲", "乙", "丙1")),
    ]
    splits = read_splits(settings(file, **CHOICES))
    assert (splits.class_names, splits.output_names) == (["x", "y", "z"], ["choice"])
    assert {splits.target(row) for row in splits.train} <= {0, 1, 2}
    questions = {name: {row.text for row in part} for name, part in splits.named.items()}
    assert questions["train"].isdisjoint(questions["validation"] | questions["test"])
    assert sum(map(len, splits.named.values())) == 30
    assert summary(Splits(found, [], [], ["x", "y", "z"])) == "train: 30 rows (x 10, y 10, z 10)"


def test_choices_whose_right_one_stands_always_in_the_same_place(tmp_path):
    """Where it stands is nothing to learn, so one place is not too few, nor a place with a single row."""
    rows = [{"q": f"問{n}", "x": "甲", "y": "乙", "z": "丙", "label": int(n == 0)} for n in range(20)]
    splits = read_splits(settings(write(tmp_path / "t.jsonl", rows), **CHOICES))
    assert [len(part) for part in splits.named.values()] == [14, 2, 4]


QUESTION = {"q": "問", "x": "甲", "y": "乙", "z": "丙", "label": 2}
GOOD = [{"text": f"{n}", "label": "ab"[n % 2]} for n in range(40)]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [{"body": "一", "label": "a"}],
            {},
            r"t\.jsonl:1: no column 'text'; the row has body, label \(set text_column\)",
        ),
        ([{"text": "一"}], {}, r"t\.jsonl:1: no column 'label'; the row has text \(set label_column\)"),
        ([{"text": "一", "label": "a"}], {"pair_column": "other"}, r"no column 'other'; .* \(set pair_column\)"),
        ([*GOOD, {"text": " ", "label": "a"}], {}, r"(?s)1 of 41 rows cannot.*t\.jsonl:41: column 'text' is empty"),
        ([*GOOD, {"text": 3, "label": "a"}], {}, r"t\.jsonl:41: column 'text' holds no text but 3"),
        ([*GOOD, {"text": "a\0b", "label": "a"}], {}, r"t\.jsonl:41: column 'text': NUL character, at character 1"),
        ([*GOOD, {"text": "一", "label": None}], {}, r"t\.jsonl:41: the label is missing"),
        ([*GOOD, {"text": "一", "label": ""}], {}, r"t\.jsonl:41: the label is missing"),
        ([*GOOD, {"text": "一", "label": 0.5}], {}, r"the label is 0\.5, a number with a fraction; write task: regres"),
        ([{"text": "一", "label": "0.5"}] * 3, {}, r"'label' holds numbers with a fraction, such as 0\.5; write task"),
        ([{"text": "一", "label": "a"}] * 3, {}, r"all 3 rows have the label 'a'; there is nothing to tell apart"),
        ([{"text": "一", "label": 1.0}] * 3, {"task": "regression"}, r"all labels are 1\.0; there is nothing to learn"),
        ([*GOOD], {"task": "regression"}, r"the label is no number but 'a'; for classes write task: classification"),
        ([{"text": "一", "label": "nan"}], {"task": "regression"}, r"the label is no number but 'nan'"),
        ([], {}, r"t\.jsonl: it holds no rows"),
        ([QUESTION, QUESTION | {"label": 3}], CHOICES, r"2: the label is 3, not the number of a choice \(0 to 2\)"),
        ([QUESTION, QUESTION | {"label": -1}], CHOICES, r"2: the label is -1, not the number of a choice"),
        ([QUESTION, QUESTION | {"label": "z"}], CHOICES, r"2: the label is 'z', not the number of a choice"),
        ([QUESTION, QUESTION | {"label": 1.0}], CHOICES, r"2: the label is 1\.0, not the number of a choice"),
        ([QUESTION, QUESTION | {"label": True}], CHOICES, r"2: the label is True, not the number of a choice"),
        ([QUESTION, QUESTION | {"y": " "}], CHOICES, r"(?s)1 of 2 rows cannot.*2: column 'y' is empty"),
        ([QUESTION, {"q": "問", "x": "甲"}], CHOICES, r"2: no column 'y'; the row has q, x \(set choice_columns\)"),
        (
            [*GOOD, {"text": "三", "label": "c"}],
            {},
            r"the class 'c' has 1 different texts, too few for some of them to be in test and validation; add",
        ),
    ],
)
def test_bad_rows_are_refused(tmp_path, rows, changes, message):
    with pytest.raises(InputError, match=message):
        read_splits(settings(write(tmp_path / "t.jsonl", rows), **changes))


def test_an_unknown_label_in_the_test_file(tmp_path):
    train = write(tmp_path / "train.jsonl", [{"text": f"{n}", "label": "ab"[n % 2]} for n in range(40)])
    test = write(tmp_path / "test.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "ham"}])
    with pytest.raises(InputError, match=r"(?s)1 of 2 rows have a label that no training row has; known are a, b:.*2:"):
        read_splits(settings(train, test_file=test))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"validation_file": "v.csv", "validation_share": 0.1}, "validation_share"),
        ({"test_file": "t.csv", "test_share": 0.1}, "test_share"),
        ({"task": "regression", "balance": True}, "balance"),
        ({"pair_column": "text"}, "pair_column"),
        ({"choice_columns": ["x", "y"]}, "choice_columns"),
        ({"task": "multiple_choice"}, "choice_columns"),
        (CHOICES | {"choice_columns": ["x"]}, "choice_columns"),
        (CHOICES | {"choice_columns": ["x", "y", "x"]}, "choice_columns"),
        (CHOICES | {"choice_columns": ["x", "q"]}, "choice_columns"),
        (CHOICES | {"pair_column": "z"}, "pair_column"),
        (CHOICES | {"balance": True}, "balance"),
    ],
)
def test_settings_that_cannot_act(changes, key):
    assert [name for name, _ in settings("t.csv", **changes).check()] == [key]


@pytest.mark.parametrize(
    ("files", "shares"),
    [
        ({}, (0.1, 0.2)),
        ({"validation_file": "v.csv"}, (None, None)),
        ({"test_file": "t.csv"}, (0.1, None)),
        ({"validation_file": "v.csv", "test_file": "t.csv"}, (None, None)),
    ],
)
def test_default_shares(files, shares):
    config = settings("t.csv", **files)
    assert (config.validation_share, config.test_share) == shares
    assert list(config.check()) == []


def test_each_class_has_its_share_of_each_split():
    rows = rows_of(ham=100, spam=30)
    parts = divided(rows, 0.2, 0.1, seed=0)
    counts = {name: dict(Counter(row.label for row in part)) for name, part in parts.items()}
    assert counts == {
        "train": {"ham": 70, "spam": 21},
        "validation": {"ham": 10, "spam": 3},
        "test": {"ham": 20, "spam": 6},
    }
    assert sorted(row.text for part in parts.values() for row in part) == sorted(row.text for row in rows)
    backwards = divided(rows[::-1], 0.2, 0.1, seed=0)
    assert all(set(backwards[name]) == set(part) for name, part in parts.items())
    assert set(divided(rows, 0.2, 0.1, seed=1)["test"]) != set(parts["test"])


def test_copies_of_a_text_stay_together():
    rows = [LabelledRow(f"f:{n}", f"text {n % 7}", None, "a") for n in range(70)]
    for seed in range(5):
        parts = divided(rows, 0.2, 0.2, seed)
        sides = {row.text: {name for name, part in parts.items() if row in part} for row in rows}
        assert all(len(names) == 1 for names in sides.values())


def test_a_pair_in_the_other_order_is_a_copy(tmp_path, caplog):
    """Whatever its label is; each class keeps its share."""
    pairs = [(f"文{n}", f"語{n}") for n in range(100)]
    rows = [LabelledRow(f"f:{n}", a, b, "xy"[n % 2]) for n, (a, b) in enumerate(pairs)]
    rows += [LabelledRow(f"g:{n}", b, a, "x" if n < 60 else "y") for n, (a, b) in enumerate(pairs)]
    for seed in range(5):
        parts = divided(rows, 0.2, 0.2, seed)
        sides = [{frozenset((row.text, row.pair)) for row in part} for part in parts.values()]
        assert list(map(len, sides)) == [60, 20, 20]
        assert sides[0].isdisjoint(sides[1] | sides[2])
        assert sides[1].isdisjoint(sides[2])
        # 30 pairs are x twice, 20 y twice, 50 of either
        assert {name: dict(Counter(row.label for row in part)) for name, part in parts.items()} == {
            "train": {"x": 66, "y": 54},
            "validation": {"x": 22, "y": 18},
            "test": {"x": 22, "y": 18},
        }
    file = write(tmp_path / "t.jsonl", [{"text": row.text, "pair": row.pair, "label": row.label} for row in rows])
    turned = [{"text": b, "pair": a, "label": "x"} for a, b in [*pairs[:3], ("新", "古")]]
    other = write(tmp_path / "other.jsonl", turned)
    with caplog.at_level(logging.WARNING):
        read_splits(settings(file, pair_column="pair", validation_file=other))
    assert "3 of 4 rows to validate on are trained on too" in caplog.text


def test_a_text_with_two_labels_stays_together():
    rows = [LabelledRow(f"f:{n}", f"text {n % 50}", None, "a" if n % 50 < 10 else "ab"[n // 50]) for n in range(100)]
    parts = divided(rows, 0.2, 0.2, seed=0)
    sides = [{row.text for row in part} for part in parts.values()]
    assert list(map(len, sides)) == [30, 10, 10]
    assert len(set.union(*sides)) == 50


def test_a_class_whose_copies_are_all_on_one_side_is_refused():
    rows = [*rows_of(a=40), LabelledRow("f:b", "a text 0", None, "b")]
    with pytest.raises(InputError, match=r"f:b: the class 'b' has 1 different texts, too few .* in test and train"):
        divided(rows, 0.2, 0.1, seed=0)


def test_a_question_with_other_choices_is_no_copy(tmp_path, caplog):
    rows = [{"q": f"問{n % 9}", "x": "甲", "y": "乙", "z": f"丙{n}", "label": n % 3} for n in range(30)]
    train = write(tmp_path / "train.jsonl", rows)
    other = write(tmp_path / "other.jsonl", [rows[0] | {"z": "丁"}, rows[1] | {"x": "乙", "y": "甲"}])
    with caplog.at_level(logging.WARNING):
        read_splits(settings(train, validation_file=other, **CHOICES))
    assert "1 of 2 rows to validate on are trained on too" in caplog.text


def test_balanced_takes_the_size_of_the_smallest_class():
    rows = rows_of(ham=50, spam=8)
    chosen = balanced(rows, seed=0)
    assert Counter(row.label for row in chosen) == {"ham": 8, "spam": 8}
    assert chosen == [row for row in rows if row in chosen]  # in the order of the file
    assert set(balanced(rows, seed=1)) != set(chosen)


def test_splits_of_files_and_of_a_limited_number(tmp_path, caplog):
    train = write(tmp_path / "train.jsonl", [{"text": f"{n}", "label": "ba"[n % 2]} for n in range(40)])
    other = write(tmp_path / "other.jsonl", [{"text": "0", "label": "b"}, {"text": "new", "label": "a"}])
    with caplog.at_level(logging.WARNING):
        splits = read_splits(settings(train, validation_file=other))
    assert "1 of 2 rows to validate on are trained on too" in caplog.text
    assert (len(splits.train), len(splits.validation), splits.test) == (40, 2, [])
    assert splits.class_names == ["a", "b"]
    assert [splits.target(row) for row in splits.validation] == [1, 0]
    assert summary(splits) == "train: 40 rows (a 20, b 20)\nvalidation: 2 rows (a 1, b 1)"
    few = read_splits(settings(train, validation_file=other, max_train_rows=10))
    assert len(few.train) == 10
    assert set(few.train) < set(splits.train)


def test_regression_is_divided_by_rows(tmp_path):
    file = write(tmp_path / "t.jsonl", [{"text": f"{n}", "label": n / 2} for n in range(50)])
    splits = read_splits(settings(file, task="regression"))
    assert [len(rows) for rows in splits.named.values()] == [35, 5, 10]
    assert splits.class_names is None
    assert "labels from 0 to 24.5" in summary(splits)


def test_published_sizes(real_data):
    """4,827 ham and 747 spam; quotation marks join no rows."""
    file = real_data / "sms-spam" / "SMSSpamCollection.tsv"
    config = settings(file, text_column="SMS", label_column="Label", balance=True)
    assert Counter(row.label for row in read_labelled_rows(file, config)) == {"ham": 4827, "spam": 747}
    splits = read_splits(config)
    assert {name: len(rows) for name, rows in splits.named.items()} == {"train": 1046, "validation": 150, "test": 298}
    places = "\n".join(row.place.rpartition(":")[2] for row in splits.test)
    assert hashlib.sha256(places.encode()).hexdigest().startswith("fcd07f30b5b34de9")  # those of docs/results.md


def test_jglue_files_as_they_are(real_data):
    columns = {"text_column": "sentence1", "pair_column": "sentence2"}
    folder = real_data / "jglue"
    jsts = {name: folder / "jsts-v1.3" / f"{name}-v1.3.json" for name in ("train", "valid")}
    splits = read_splits(
        LabelledDataConfig(train_file=jsts["train"], validation_file=jsts["valid"], task="regression", **columns)
    )
    assert [len(rows) for rows in splits.named.values()] == [12_451, 1_457]
    jnli = folder / "jnli-v1.3" / "valid-v1.3.json"
    counts = Counter(row.label for row in read_labelled_rows(jnli, settings(jnli, **columns)))
    assert counts["neutral"] / counts.total() == pytest.approx(0.5546, abs=5e-5)
    splits = read_splits(settings(jnli, **columns))
    trained, tested = ({row.texts for row in rows} for rows in (splits.train, splits.test))
    assert (len(splits.test), len(trained & tested)) == (488, 0)
    choices = {"text_column": "question", "choice_columns": [f"choice{n}" for n in range(5)], "task": "multiple_choice"}
    for name, expected in (("train", 8_939), ("valid", 1_119)):
        file = folder / "jcommonsenseqa-v1.3" / f"{name}-v1.3.json"
        rows = read_labelled_rows(file, settings(file, **choices))
        assert (len(rows), {len(row.choices) for row in rows}) == (expected, {5})
