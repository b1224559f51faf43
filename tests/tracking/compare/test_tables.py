import pytest

from jpllm.tracking.compare.tables import (
    Cell,
    Row,
    change_cell,
    environment_tables,
    flattened,
    forgetting_tables,
    group_changes,
    mixture_table,
    settings_tables,
)
from jpllm.tracking.runs import Run, read_run
from tests.tracking.run_folders import place, rows, write_run


def run(name="a", **keys):
    return Run(name, "finished", **keys)


def texts(row):
    return [None if cell is None else cell.text for cell in row.cells]


def test_flat_keys():
    settings = {
        "seed": 0,
        "prompts": ["猫", "犬"],
        "sources": [{"path": "a.txt", "where": {}, "clean": []}, {"path": "b.txt"}],
        "nested": [[1, 2], []],
        "rate": 2e-05,
        "on": False,
        "none": None,
        "output_dir": "runs/x",
    }
    assert dict(flattened(settings, frozenset(["output_dir"]))) == {
        "seed": "0",
        "prompts": "猫, 犬",
        "sources[0].path": "a.txt",
        "sources[0].where": "{}",
        "sources[0].clean": "[]",
        "sources[1].path": "b.txt",
        "nested[0]": "1, 2",
        "nested[1]": "[]",
        "rate": "2e-05",
        "on": "false",
        "none": "null",
    }
    assert dict(flattened({"long": "あ" * 400})) == {"long": "あ" * 300 + "…"}


def test_only_settings_that_differ():
    found = settings_tables(
        [
            run(settings={"seed": 0, "rate": 1e-3, "same": 1, "output_dir": "a"}),
            run(settings={"seed": 1, "rate": 1e-3, "same": 1, "output_dir": "b", "template": "chat"}),
            run(),  # a model without a record
        ]
    )
    differing, others = found
    assert [(row.title, texts(row)) for row in differing.rows] == [("seed", ["0", "1", None])]
    assert [(row.title, texts(row)) for row in others.rows] == [("template", [None, "chat", None])]
    assert (differing.is_secondary, others.is_secondary) == (False, True)
    assert settings_tables([run(settings={"seed": 0})]) == []
    assert settings_tables([run(), run()]) == []


def test_the_latest_start_says_where_a_run_was_computed():
    sessions = [{"cpu": "old", "commit": "1"}, {"started": "today", "keys": ["a"], "cpu": "new", "commit": "2"}]
    found = environment_tables(
        [
            run(environment={"sessions": sessions}, results={"device": "cpu", "versions": {"torch": "1"}}),
            run(environment={"sessions": [{"started": "x", "cpu": "new", "commit": "3"}]}, results={"device": "cpu"}),
        ]
    )
    assert [(row.title, texts(row)) for row in found[0].rows] == [("commit", ["2", "3"])]
    assert [(row.title, texts(row)) for row in found[1].rows] == [("versions.torch", ["1", None])]


def use(source, requested, achieved, epochs=1.25):
    shares = {"requested_share": requested, "achieved_share": achieved}
    return {"source": source, **shares, "tokens": 3_307_200, "epochs": epochs, "tokens_left": 0}


def test_the_mixture_asked_and_achieved():
    mixed = run(results={"mixture": [use("wiki", 0.3, 0.2996), use("c4", 0.7, 0.7004)]})
    single = run(results={"mixture": [use("wiki", 1.0, 1.0)]})
    table = mixture_table([mixed, single, run()])
    assert [(row.title, row.cells[0]) for row in table.rows] == [
        ("wiki", Cell("30.0 % (asked 30.0 %), 3.31 M tokens, 1.25 epochs", 0.2996, bar=0.2996, mark=0.3)),
        ("c4", Cell("70.0 % (asked 70.0 %), 3.31 M tokens, 1.25 epochs", 0.7004, bar=0.7004, mark=0.7)),
    ]
    assert [texts(row)[1:] for row in table.rows] == [
        ["100.0 % (asked 100.0 %), 3.31 M tokens, 1.25 epochs", None],
        [None, None],
    ]
    assert mixture_table([single, run()]) is None
    odd = run(results={"mixture": [{"source": "x"}, {"source": "y", "achieved_share": 0.5}]})
    assert [texts(row) for row in mixture_table([odd]).rows] == [[None], ["50.0 %"]]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (0.943, 0.9489, ("0.9430 → 0.9489 (+0.0059)", "bad")),
        (2.1392, 1.6884, ("2.1392 → 1.6884 (-0.4508)", "good")),
        (1.0, 1.0004, ("1.0000 → 1.0004 (+0.0004)", None)),
    ],
)
def test_a_change(before, after, expected):
    cell = change_cell(before, after)
    assert (cell.text, cell.tone) == expected
    assert cell.value == after - before


def test_what_was_learned_and_forgotten(tmp_path):
    groups = {"old": {"before": 0.9, "after": 1.0}, "odd": 3, "odder": {"before": None}}
    finished = read_run(write_run(tmp_path / "a", results={"step": 1, "groups": groups}), "a")
    key = "eval_group_bits_per_byte/"
    metrics = [
        {**place(0), key + "new": 2.0, key + "old": 0.5},
        *rows(),
        {**place(4), key + "new": 1.5, key + "old": 0.5},
    ]
    unfinished = read_run(write_run(tmp_path / "b", results=None, metrics=metrics), "b")
    assert group_changes(finished) == {"old": (0.9, 1.0)}
    assert group_changes(unfinished) == {"new": (2.0, 1.5), "old": (0.5, 0.5)}
    (table,) = forgetting_tables([finished, unfinished])
    assert [(row.title, texts(row)) for row in table.rows] == [
        ("old", ["0.9000 → 1.0000 (+0.1000)", "0.5000 → 0.5000 (+0.0000)"]),
        ("new", [None, "2.0000 → 1.5000 (-0.5000)"]),
    ]


def test_one_evaluation_changes_nothing(tmp_path):
    metrics = [{**place(0), "eval_group_bits_per_byte/old": 2.0}]
    begun = read_run(write_run(tmp_path / "a", results=None, metrics=metrics), "a")
    assert group_changes(begun) == {}
    assert forgetting_tables([begun]) == []


def test_groups_of_equal_name_may_be_of_other_texts():
    groups = {"groups": {"old": {"before": 0.9, "after": 1.0}}}
    alike = [run(results=groups, held_out="x") for _ in range(2)]
    others = [
        [run(results=groups, held_out="x"), run(results=groups, held_out="y")],
        [run(results=groups), run(results=groups)],
        [run(results=groups, held_out="x", settings={"old_texts": [{"path": p}]}) for p in ("a.txt", "b.txt")],
    ]
    notes = [forgetting_tables(own)[0].rows[0].note for own in (alike, *others, [run(results=groups), run()])]
    assert notes == ["", *["the runs' texts may differ"] * 3, ""]


def test_the_matrix_of_an_evaluation():
    matrix = {"models": ["base", "tuned"], "bits_per_byte": {"en": [0.9, 1.0], "cut": [1.0], "odd": ["x", 1], "no": 3}}
    evaluations = [{"forgetting": matrix}, {"forgetting": {"models": []}}, {"forgetting": 3}, {}]
    (table,) = forgetting_tables([run("r", evaluations=evaluations)])
    assert (table.title, table.columns) == ("Forgetting, evaluation of r", ["base", "tuned"])
    assert table.rows == [Row("en", [Cell("0.9000", 0.9), change_cell(0.9, 1.0)])]
