"""Scores without the items found in training texts, against numbers worked out by hand."""

import hashlib
import json

import pytest

from jpllm.evaluation import score_tables
from jpllm.evaluation.contamination import clean_scores
from jpllm.evaluation.jglue.lm_eval_tasks import metrics
from jpllm.evaluation.jglue.score_rows import standard_error
from jpllm.runtime import InputError

SETTINGS = {"style": "base", "num_fewshot": 3, "limit": None}
JNLI = [(0, 0), (1, 1), (2, 2), (2, 0), (1, 0), (0, 0)]
JSQUAD = [(["海"], "海"), (["川", "大きな川"], "大川"), (["山"], "谷"), (["空"], "空")]
JSTS = [(0.0, 0.0), (1.0, 2.0), (2.0, 1.0), (5.0, 5.0)]


def benchmark(name, leave_out, contexts=None, id_column="id", num_items=6):
    parts = {"text": {"hits": []}}
    if contexts is not None:
        parts["context"] = {"hits": [{"item": item, "share": 1.0} for item in contexts]}
    return {
        "name": name,
        "sha256": f"sum of {name}",
        "id_column": id_column,
        "context": None if contexts is None else "context",
        "num_items": num_items,
        "leave_out": leave_out,
        "parts": parts,
    }


def write_report(folder, *benchmarks):
    file = folder / "report.json"
    file.write_text(json.dumps({"settings": {}, "benchmarks": benchmarks}), encoding="utf-8")
    return file


def answers_file(folder, task):
    return folder / "answers" / f"{task}.jsonl"


def scored(folder, task, pairs, *names, clusters=range(6)):
    """Rows of these metrics, whose answers are in `folder`; the items are called a, b, c, …"""
    file = answers_file(folder, task)
    file.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps({"id": "abcdef"[n], "gold": gold, "answer": given, "cluster": clusters[n]}, ensure_ascii=False)
        for n, (gold, given) in enumerate(pairs)
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {"data_sha256": {"valid": f"sum of {task}"}, "n": len(pairs), "answers": file.name}
    return [{"task": task, **SETTINGS, "metric": name, "value": metrics.SCORES[name](pairs), **data} for name in names]


def without_hits(folder, rows, *benchmarks):
    found = clean_scores.read_report(write_report(folder, *benchmarks))
    clean_scores.add_scores_without_hits(rows, found, folder)
    return [row["without_hits"] for row in rows]


def test_choices(tmp_path):
    """4 of 6 right; without a and d 3 of 4, in the classes 0 to 2 1 of 1, 1 of 2 and 1 of 1."""
    rows = scored(tmp_path, "jnli", JNLI, "acc", "balanced_acc")
    assert [row["value"] for row in rows] == [4 / 6, pytest.approx((1 + 1 / 2 + 1 / 2) / 3)]
    ((accuracy,), (balanced,)) = without_hits(tmp_path, rows, benchmark("jnli", ["a", "d"]))
    expected = {"left_out": "items", "num_left_out": 2, "n": 4, "value": 0.75, "standard_error": 0.25}
    assert accuracy == expected | {"interval": pytest.approx([0.3006, 0.9544], abs=5e-5)}
    assert (balanced["n"], balanced["value"]) == (4, pytest.approx((1 + 1 / 2 + 1) / 3))
    assert balanced["standard_error"] > 0
    assert rows[0]["value"] == 4 / 6
    assert rows[0]["contamination_sha256"] == hashlib.sha256((tmp_path / "report.json").read_bytes()).hexdigest()


def test_texts_and_their_contexts(tmp_path):
    """F1 of 大川 with 大きな川 is 2 · 2 / (4 + 2)."""
    rows = scored(tmp_path, "jsquad", JSQUAD, "exact_match", "f1")
    assert [row["value"] for row in rows] == [2 / 4, pytest.approx((1 + 2 / 3 + 0 + 1) / 4)]
    found = without_hits(tmp_path, rows, benchmark("jsquad", ["a"], contexts=["a", "c"]))
    kept = [[(one["left_out"], one["num_left_out"], one["n"], one["value"]) for one in entries] for entries in found]
    assert kept == [
        [("items", 1, 3, pytest.approx(1 / 3)), ("items and contexts", 2, 2, 1 / 2)],
        [("items", 1, 3, pytest.approx(5 / 9)), ("items and contexts", 2, 2, pytest.approx(5 / 6))],
    ]


def test_similarities(tmp_path):
    """Of (0, 0), (1, 2) and (2, 1) both correlations are 1 / 2."""
    rows = scored(tmp_path, "jsts", JSTS, "pearson", "spearman")
    found = without_hits(tmp_path, rows, benchmark("jsts", ["d"]))
    assert [one["value"] for (one,) in found] == [pytest.approx(0.5), pytest.approx(0.5)]


def test_none_and_all(tmp_path):
    """Items of the file that were not scored, such as examples, change nothing; nor is anything made of no items."""
    rows = scored(tmp_path, "jnli", JNLI, "acc")
    ((same,),) = without_hits(tmp_path, rows, benchmark("jnli", ["x", "y"], num_items=8))
    assert (same["num_left_out"], same["n"], same["value"]) == (0, 6, 4 / 6)
    assert same["standard_error"] == standard_error("acc", JNLI)
    ((nothing,),) = without_hits(tmp_path, rows, benchmark("jnli", list("abcdef")))
    assert (nothing["n"], nothing["value"], nothing["standard_error"]) == (0, None, None)


def test_names_that_match_nothing(tmp_path):
    """Of 7 items 6 were asked, so one may be absent and not two; of the first items only, any number may."""
    rows = scored(tmp_path, "jnli", JNLI, "acc")
    without_hits(tmp_path, rows, benchmark("jnli", ["a", "x"], num_items=7))
    with pytest.raises(
        InputError, match=r"jnli: 2 items found \('x', …\) have no answer, but only 1 of all 7 were not"
    ):
        without_hits(tmp_path, rows, benchmark("jnli", ["a", "x", "y"], num_items=7))
    ((one,),) = without_hits(tmp_path, [{**rows[0], "limit": 6}], benchmark("jnli", ["a", "x", "y"], num_items=7))
    assert (one["num_left_out"], one["n"]) == (1, 5)


def test_rows_without_answers_are_left_as_they_are(tmp_path, caplog):
    rows = scored(tmp_path, "jnli", JNLI, "acc") + scored(tmp_path, "jsts", JSTS, "pearson")
    answers_file(tmp_path, "jnli").unlink()
    rows.append({key: value for key, value in rows[1].items() if key != "answers"})
    file = write_report(tmp_path, benchmark("jnli", ["a"]), benchmark("jsts", ["d"]))
    clean_scores.add_scores_without_hits(rows, clean_scores.read_report(file), tmp_path)
    assert ["without_hits" in row for row in rows] == [False, True, False]
    assert f"{answers_file(tmp_path, 'jnli')}: no such file; jnli, acc stays as it is" in caplog.text


def test_items_on_one_text_are_no_independent_ones(tmp_path):
    """Without a and b the answers right, wrong, wrong, right on two texts: residual sums ± 1/2 ∓ 1/2 add up to 0."""
    rows = scored(tmp_path, "jnli", JNLI, "acc", clusters=[0, 0, 1, 1, 2, 2])
    ((one,),) = without_hits(tmp_path, rows, benchmark("jnli", ["a", "b"]))
    assert (one["value"], one["standard_error"]) == (0.5, 0.0)


def test_tables_show_both(tmp_path):
    rows = scored(tmp_path, "jnli", JNLI, "acc") + scored(tmp_path, "jsts", JSTS, "pearson")
    shown = {"standard_error": 0.2, "chance": 1 / 3, "majority": 1 / 3, "shots_from": "train", "is_constant": False}
    rows = [row | shown for row in rows]
    assert score_tables.jglue_table(rows)[0][-1] == "remarks"
    found = clean_scores.read_report(write_report(tmp_path, benchmark("jnli", ["a", "d"])))
    clean_scores.add_scores_without_hits(rows, found, tmp_path)
    head, (jnli, jsts) = score_tables.jglue_table(rows)
    assert head[-2:] == ["remarks", "without items in its training texts"]
    assert jnli[-2:] == ["", "75.0 ± 25.0 % (n 4, 2 items left out)"]
    assert jsts[-2:] == ["", ""]  # of a task that the report does not know


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answers, _: answers.write_text('{"id": "a"'), "broken"),
        (lambda answers, _: answers.write_text("".join(answers.open().readlines()[:5])), "5 answers with acc 0.6"),
        (
            lambda answers, _: answers.write_text(answers.read_text().replace('"answer": 2', '"answer": 1')),
            "it was changed",
        ),
        (lambda _, file: file.unlink(), "contamination: .*report.json: no such file"),
        (lambda _, file: file.write_text(file.read_text()[:-9]), "not a whole report of jpllm data contamination"),
        (lambda _, file: file.write_text('{"benchmarks": [{}]}'), "not a whole report of jpllm data contamination"),
        (lambda _, file: write_report(file.parent, benchmark("jcola", [])), r"its benchmarks \(jcola\) are not"),
        (
            lambda _, file: write_report(file.parent, benchmark("jnli", ["0"], id_column=None)),
            "jnli names items by their row; search again with its id_column",
        ),
    ],
)
def test_what_cannot_be_scored(tmp_path, change, message):
    rows = scored(tmp_path, "jnli", JNLI, "acc")
    file = write_report(tmp_path, benchmark("jnli", ["a"]))
    change(answers_file(tmp_path, "jnli"), file)
    with pytest.raises(InputError, match=message):
        clean_scores.add_scores_without_hits(rows, clean_scores.read_report(file), tmp_path)
