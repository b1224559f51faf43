"""Which results share a column, and what stands in it."""

import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from jpllm.evaluation import leaderboard
from jpllm.evaluation.jglue.lm_eval_tasks.tasks import published_by_model
from jpllm.evaluation.leaderboard import Table
from jpllm.runtime import InputError

VALID = "ca0353efc7c2eebf"


def jnli(value=0.55, **changes):
    row = {"task": "jnli", "style": "base", "num_fewshot": 3, "limit": None, "metric": "acc", "value": value}
    row |= {"standard_error": 0.01, "chance": 1 / 3, "majority": 0.5551, "commonest_answer": 0.4, "is_constant": False}
    row |= {"n": 2430, "shots_from": "valid", "data_version": "1.3", "data_sha256": {"valid": VALID}}
    return {**row, "task_version": 1.0, "lm_eval": "0.4.13", "num_cut": 0, **changes}


def text(bits, **changes):
    row = {"text": "held_out", "num_bytes": 4000, "bits_per_byte": bits}
    return {**row, "xz_bits_per_byte": 2.5, "context_length": 512, "stride": 511, **changes}


def finetuned(task, metric, value, **changes):
    row = {"task": task, "metric": metric, "value": value, "standard_deviation": 0.005, "standard_error": 0.01}
    row |= {"chance": 1 / 3, "majority": 0.55, "is_constant": False, "n": 2434, "learning_rate": 1e-3, "num_seeds": 3}
    row |= {"epochs": 4.0, "trainable": "all", "scored": "validation file", "max_train_rows": None}
    return {**row, **changes}


def write(folder, model, perplexity=(), jglue=(), lm_eval="0.4.13", **parts):
    folder.mkdir(parents=True)
    content = {"model": model, "versions": {"jpllm": "0.1", "lm_eval": lm_eval, "python": "3.11"}}
    content |= {"perplexity": list(perplexity), "jglue": list(jglue), **parts}
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def columns(table):
    """Column → (cells of the models, line → cell)."""
    return {
        name: ([row[place] for row in table.rows], {line[0]: line[place] for line in table.lines})
        for place, name in enumerate(table.header)
        if place
    }


def test_one_column_for_what_was_got_in_one_way(tmp_path):
    a = write(tmp_path / "a", "small", [text(1.25), {"text": "average", "bits_per_byte": 9.0}], [jnli(0.4115)])
    b = write(tmp_path / "b", "large", [text(1.125)], [jnli(0.5, standard_error=None, num_cut=7)])
    own, *_ = leaderboard.tables([a, b, tmp_path / "b" / ".." / "a"])  # a folder given twice counts once
    assert [row[0] for row in own.rows] == ["small", "large"]
    assert columns(own) == {
        "held_out, bits/byte": (
            ["1.2500", "1.1250"],
            {"xz -9": "2.5000", "size": "4,000 bytes", "context": "512, stride 511"}
            | dict.fromkeys(["chance", "majority", "prompt", "examples", "data"], ""),
        ),
        "JNLI accuracy": (
            ["41.1 ± 1.0 %", "50.0 % (7 prompts cut)"],
            {"xz -9": "", "size": "2,430 items", "context": "", "chance": "33.3 %", "majority": "55.5 %"}
            | {"prompt": "base", "examples": "3, from valid", "data": f"version 1.3 ({VALID[:8]}…)"},
        ),
    }
    assert own.notes[-1] == "Measured with jpllm 0.1, lm_eval 0.4.13."


@pytest.mark.parametrize(
    ("changes", "line", "texts"),
    [
        ({"limit": 200, "n": 200}, "size", ["2,430 items", "200 items, the first 200"]),
        ({"num_fewshot": 0}, "examples", ["3, from valid", "0"]),
        ({"style": "alpaca"}, "prompt", ["base", "alpaca"]),
        ({"shots_from": "train"}, "examples", ["3, from valid", "3, from train"]),
        ({"data_sha256": {"valid": "0123456789"}}, "data", ["version 1.3 (ca0353ef…)", "version 1.3 (01234567…)"]),
        ({"data_version": "1.1"}, "data", ["version 1.3 (ca0353ef…)", "version 1.1 (ca0353ef…)"]),
    ],
)
def test_what_was_got_otherwise_has_a_column_of_its_own(tmp_path, changes, line, texts):
    a = write(tmp_path / "a", "small", jglue=[jnli(0.4)])
    b = write(tmp_path / "b", "large", jglue=[jnli(0.5, **changes)])
    own = columns(leaderboard.tables([a, b])[0])
    assert list(own) == ["JNLI accuracy [1]", "JNLI accuracy [2]"]
    assert [cells for cells, _ in own.values()] == [["40.0 ± 1.0 %", ""], ["", "50.0 ± 1.0 %"]]
    assert [lines[line] for _, lines in own.values()] == texts


def test_other_texts_and_other_windows(tmp_path):
    a = write(tmp_path / "a", "small", [text(1.5), text(3.0, text="english")])
    b = write(tmp_path / "b", "long", [text(1.25, context_length=1024, stride=1023)])
    c = write(tmp_path / "c", "shorter text", [text(1.75, num_bytes=3999)])
    own = columns(leaderboard.tables([a, b, c])[0])
    assert own["held_out, bits/byte [1]"] == (
        ["1.5000 (context 512, stride 511)", "1.2500 (context 1,024, stride 1,023)", ""],
        {"xz -9": "2.5000", "size": "4,000 bytes", "context": "each its own"},
    )
    assert own["english, bits/byte"][0] == ["3.0000", "", ""]
    assert own["held_out, bits/byte [2]"][0] == ["", "", "1.7500"]


def test_a_text_read_with_several_windows(tmp_path):
    a = write(tmp_path / "a", "small", [text(1.5), text(1.25, context_length=1024, stride=1023)])
    b = write(tmp_path / "b", "large", [text(1.0)])
    own = columns(leaderboard.tables([a, b])[0])
    assert own["held_out, bits/byte"][0] == [
        "1.5000 (context 512, stride 511); 1.2500 (context 1,024, stride 1,023)",
        "1.0000 (context 512, stride 511)",
    ]


def test_fine_tuned_models_have_a_table_of_their_own(tmp_path):
    """A folder may hold nothing else; it is no row of the other tables then."""
    rows = [finetuned("jsts", "pearson", 0.75), finetuned("jnli", "acc", 0.8125, max_train_rows=500)]
    a = write(tmp_path / "a", "small", jglue_finetuned=rows)
    b = write(tmp_path / "b", "large", [text(1.5)], jglue_finetuned=[finetuned("jnli", "acc", 0.9, learning_rate=2e-5)])
    own, published_scores, fine = leaderboard.tables([a, b])
    assert ([row[0] for row in own.rows], published_scores.title, fine.title) == (["large"], "Published", "Fine-tuned")
    assert fine.header[4:8] == ["seeds", "learning rate", "epochs", "n"]
    jnli_columns = ["2,434", "1.0 %", "33.3 %", "55.0 %", "90.6 %", "90.0 %", "92.5 %"]
    jsts_columns = ["2,434", "0.010", "0.333", "0.550", "0.909", "0.913", "0.899"]
    assert fine.rows == [
        ["small", "jnli", "acc", "81.2 ± 0.5 %", "3", "0.001", "4", *jnli_columns, "trained on 500 rows"],
        ["large", "jnli", "acc", "90.0 ± 0.5 %", "3", "2e-05", "4", *jnli_columns, ""],
        ["small", "jsts", "pearson", "0.750 ± 0.005", "3", "0.001", "4", *jsts_columns, ""],
    ]
    assert [table.title for table in leaderboard.tables([a])] == ["Fine-tuned"]


def test_marks_and_order(tmp_path):
    rows = [jnli(task="jsts", metric="pearson", value=0.0, standard_error=0.0, is_constant=True)]
    rows += [jnli(metric="balanced_acc"), jnli(), jnli(task="jcommonsenseqa")]
    folder = write(tmp_path / "a", "small", [text(1.5)], rows)
    own = leaderboard.tables([folder])[0]
    names = ["held_out, bits/byte", "JCommonsenseQA accuracy", "JNLI accuracy", "JNLI balanced accuracy"]
    assert own.header[1:] == [*names, "JSTS Pearson"]
    assert own.rows[0][-1] == "0.000 (constant)"
    assert any(note.startswith("constant: nearly all answers are the same") for note in own.notes)


def test_scores_without_items_in_the_training_texts_are_a_row(tmp_path):
    found = [{"left_out": "items", "num_left_out": 30, "n": 2400, "value": 0.39, "standard_error": 0.0123}]
    a = write(tmp_path / "a", "small", [text(1.5)], [jnli(0.4, without_hits=found), jnli(metric="balanced_acc")])
    b = write(tmp_path / "b", "large", [text(1.5)], [jnli(0.5)])
    own = leaderboard.tables([a, b])[0]
    names = ["small", "small, without items in its training texts", "large"]
    assert [row[0] for row in own.rows] == names
    assert own.rows[1] == [names[1], "", "39.0 ± 1.2 % (n 2,400, 30 items left out)", ""]


def test_models_of_one_name_and_other_versions(tmp_path):
    a = write(tmp_path / "a", "m", [text(1.5)])
    b = write(tmp_path / "b", "m", [text(1.6)], lm_eval="0.5")
    own = leaderboard.tables([a, b])[0]
    assert [row[0] for row in own.rows] == [f"m ({a})", f"m ({b})"]
    assert own.notes[-1] == f"m ({b}): measured with jpllm 0.1, lm_eval 0.5."


def test_published_rows_stand_apart(tmp_path):
    _, others = leaderboard.tables([write(tmp_path / "a", "small", [text(1.5)])])
    assert others.title == "Published"
    assert [row[0] for row in others.rows] == [f"{model}, published" for model in published_by_model(finetuned=False)]
    rows = {row[0]: dict(zip(others.header, row, strict=True)) for row in others.rows}
    row = rows["cyberagent/open-calm-medium (0.4B), published"]
    assert (row["JNLI accuracy"], row["JSQuAD F1"], row["JAQKET exact match"]) == ("42.3 ± 1.0 %", "39.8 %", "")
    assert "not to the point" in others.notes[-1]


def test_broken_results_are_named_and_the_others_compared(tmp_path):
    good = write(tmp_path / "good", "small", [text(1.5)])
    broken = write(tmp_path / "broken", "m", [text(1.5)])
    (broken / "evaluation.json").write_text('{"model": "m", "perpl', encoding="utf-8")
    own, _, bad = leaderboard.tables([broken, good, tmp_path / "none"])
    assert [row[0] for row in own.rows] == ["small"]
    assert bad.title == "Not compared"
    assert [row[0] for row in bad.rows] == [str(broken), str(tmp_path / "none")]
    assert "broken JSON" in bad.rows[0][1]
    assert "no evaluation.json" in bad.rows[1][1]
    with pytest.raises(InputError, match="broken JSON"):
        leaderboard.tables([broken])
    with pytest.raises(InputError, match="name at least one result folder"):
        leaderboard.tables([])


TABLES = [
    Table("Results", ["model", "text, bits/byte"], [["<b>a|b</b>", "1.5"]], [["xz -9", "2.5"]], ["a & b"]),
    Table("Not compared", ["results", "reason"], [["x", "y"]], is_text=True),
]


class Cells(HTMLParser):
    """The texts of the cells, row by row; everything that loads something is an error."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "b")
        assert not {name for name, _ in attributes} & {"src", "href"}
        if tag == "tr":
            self.rows.append([])
        self.inside = tag in ("td", "th")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_page_is_whole_and_escaped(tmp_path):
    file = tmp_path / "new" / "board.html"
    leaderboard.write(file, TABLES)
    page = file.read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(page)
    header, model, line, *others = cells.rows
    assert (header, model, line) == (["model", "text, bits/byte"], ["<b>a|b</b>", "1.5"], ["xz -9", "2.5"])
    assert others == [["results", "reason"], ["x", "y"]]
    assert "<li>a &amp; b</li>" in page
    assert "color-scheme: light dark" in page
    assert 'name="viewport"' in page


def test_markdown(tmp_path):
    leaderboard.write(tmp_path / "board.md", TABLES)
    assert (tmp_path / "board.md").read_text(encoding="utf-8").splitlines() == [
        "# Leaderboard",
        "",
        "## Results",
        "",
        "| model | text, bits/byte |",
        "| --- | --- |",
        r"| \<b\>a\|b\</b\> | 1.5 |",
        "| *xz -9* | *2.5* |",
        "",
        "- a &amp; b",
        "",
        "## Not compared",
        "",
        "| results | reason |",
        "| --- | --- |",
        "| x | y |",
    ]


def test_terminal():
    console = Console(width=60, record=True)
    for table in leaderboard.terminal(TABLES):
        console.print(table)
    shown = console.export_text()
    assert "<b>a|b</b>" in shown
    assert "a & b" in shown
    assert shown.index("a|b") < shown.index("xz -9") < shown.index("Not compared")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ends with \.md or \.html"):
        leaderboard.write(tmp_path / "board.txt", TABLES)
    assert not list(tmp_path.iterdir())
