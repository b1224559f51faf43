import pytest

from jpllm.tracking.compare.summary import loss_unit, summary
from jpllm.tracking.compare.tables import Cell
from jpllm.tracking.runs import Run, read_run
from tests.tracking.run_folders import RESULTS, place, rows, write_run


def by_title(*runs):
    return {f"{row.group}: {row.title}".removeprefix(": "): row.cells for row in summary(runs).rows}


def shown(cells):
    return [None if cell is None else ("*" if cell.is_best else "") + cell.text for cell in cells]


def test_what_a_run_cost_and_reached(tmp_path):
    extra = {"peak_gpu_bytes": 6 << 30, "peak_host_bytes": 3 << 30, "kwh": 0.0123}
    first = read_run(write_run(tmp_path / "a", results=RESULTS | extra), "a")
    second = read_run(write_run(tmp_path / "b", results=RESULTS | {"bits_per_byte": 0.70, "hours": 21.5}), "b")
    assert {title: shown(cells) for title, cells in by_title(first, second).items()} == {
        "Size and cost: parameters": ["3.31 M", "3.31 M"],
        "Size and cost: tokens": ["4,000", "4,000"],
        "Size and cost: epochs": ["0.5", "0.5"],
        "Size and cost: training time": ["3.0 min", "21.5 h"],
        "Size and cost: tokens per second": ["5,560", "5,560"],
        "Size and cost: peak GPU memory": ["6.00 GiB", None],
        "Size and cost: peak host memory": ["3.00 GiB", None],
        "Size and cost: energy, kWh": ["0.0123", None],
        "On its held-out texts: bits per byte": ["0.7500", "*0.7000"],
        "On its held-out texts: xz -9, bits per byte": ["2.5000", "2.5000"],
        "On its held-out texts: loss, nats per token": ["2.0000", "2.0000"],
    }


def test_peaks_beside_what_was_planned():
    """Of a GPU's tensors; of the host where the plan is of the one process that is measured."""
    memory = {"peak_bytes": 7 << 30, "tensor_bytes": 5 << 30, "host_bytes": 4 << 30}
    peaks = {"peak_gpu_bytes": 6 << 30, "peak_host_bytes": 3 << 30}
    on_gpu = Run("g", "finished", results=peaks, plan={"memory": memory, "num_processes": 1})
    on_two = Run("t", "finished", results=peaks, plan={"memory": memory, "num_processes": 2})
    on_cpu = Run("c", "finished", results={"peak_host_bytes": 8 << 30}, plan=on_gpu.plan)
    unplanned = Run("u", "finished", results=peaks)
    found = by_title(on_gpu, on_two, on_cpu, unplanned)
    planned = "6.00 GiB, planned 5.00 GiB"
    assert shown(found["Size and cost: peak GPU memory"]) == [planned, planned, None, "6.00 GiB"]
    assert shown(found["Size and cost: peak host memory"]) == [
        "3.00 GiB, planned 4.00 GiB",
        "3.00 GiB",
        "8.00 GiB, planned 7.00 GiB",
        "3.00 GiB",
    ]
    assert [cell.value for cell in found["Size and cost: peak host memory"]] == [3 << 30, 3 << 30, 8 << 30, 3 << 30]


def test_an_unfinished_run_shows_what_it_has(tmp_path):
    metrics = [{**row, "peak_host_bytes": (1 << 30) + row["step"]} for row in rows()]
    run = read_run(write_run(tmp_path / "a", results=None, metrics=metrics), "a")
    found = {title: shown(cells) for title, cells in by_title(run).items()}
    assert found == {
        "state": ["unfinished, step 4"],
        "Size and cost: tokens": ["4,000"],
        "Size and cost: epochs": ["0.5"],
        "Size and cost: training time": ["8 s"],
        "Size and cost: tokens per second": ["500"],
        "Size and cost: peak host memory": ["1.00 GiB"],
        "On its held-out texts: bits per byte": ["0.7500"],
        "On its held-out texts: loss, nats per token": ["2.0000"],
    }
    run.plan = {"num_steps": 1954, "num_parameters": 778_263_552}
    found = by_title(run)
    assert shown(found["state"]) == ["unfinished, step 4 of 1,954"]
    assert shown(found["Size and cost: parameters"]) == ["778 M"]


def test_a_model_and_a_run_without_rows():
    model, empty = Run("m", "model", num_parameters=124_439_808), Run("e", "unfinished")
    assert {title: shown(cells) for title, cells in by_title(model, empty).items()} == {
        "state": ["model only", "unfinished"],
        "Size and cost: parameters": ["124 M", None],
    }


def test_no_best_one_among_different_texts(tmp_path):
    better = RESULTS | {"bits_per_byte": 0.5}
    runs = [
        read_run(write_run(tmp_path / n, results=r, held_out=h), n)
        for n, r, h in (("a", RESULTS, "x"), ("b", better, "y"))
    ]
    found = by_title(*runs)
    assert shown(found["On its held-out texts: bits per byte"]) == ["0.7500", "0.5000"]
    assert shown(found["On its held-out texts: held-out texts"]) == ["set 1", "set 2"]
    assert summary(runs).note.startswith("The runs were not all measured on the same held-out texts")
    assert summary(runs[:1]).note == ""


def test_no_best_one_where_nobody_knows_the_texts():
    runs = [Run(name, "finished", results=RESULTS | {"bits_per_byte": bits}) for name, bits in (("a", 0.7), ("b", 0.6))]
    assert shown(by_title(*runs)["On its held-out texts: bits per byte"]) == ["0.7000", "0.6000"]
    runs[0].held_out = "x"
    assert shown(by_title(*runs)["On its held-out texts: bits per byte"]) == ["0.7000", "0.6000"]
    runs[1].held_out = "x"
    assert shown(by_title(*runs)["On its held-out texts: bits per byte"]) == ["0.7000", "*0.6000"]


@pytest.mark.parametrize(
    ("key", "title"),
    [("masked_accuracy", "masked words filled in right"), ("token_accuracy", "answer tokens right")],
)
def test_shares_of_tokens_have_no_best_one(key, title):
    """The tokenizers may differ, and with them what a token is."""
    runs = [Run(name, "finished", results={key: share}, held_out="x") for name, share in (("a", 0.4), ("b", 0.5))]
    assert shown(by_title(*runs)[f"On its held-out texts: {title}"]) == ["40.0 %", "50.0 %"]


def test_equal_as_far_as_shown_is_equally_good(tmp_path):
    figures = {"a": 0.61831, "b": 0.61829, "c": 0.62}
    runs = [read_run(write_run(tmp_path / n, results=RESULTS | {"bits_per_byte": f}), n) for n, f in figures.items()]
    assert shown(by_title(*runs)["On its held-out texts: bits per byte"]) == ["*0.6183", "*0.6183", "0.6200"]
    assert shown(by_title(*runs[:2])["On its held-out texts: bits per byte"]) == ["0.6183", "0.6183"]


@pytest.mark.parametrize(
    ("results", "unit"),
    [
        ({"bits_per_byte": 1.0}, "nats per token"),
        ({"masked_accuracy": 0.4}, "nats per masked token"),
        ({"token_accuracy": 0.4}, "nats per answer token"),
        ({"validation": {"accuracy": 0.9}}, "nats per row"),
        ({"validation": {"pearson": 0.2}}, "squared error"),
        ({"step": 1}, None),
    ],
)
def test_what_a_loss_is_measured_in(results, unit):
    run = Run("a", "finished", results=results | {"loss": 1.5})
    assert loss_unit(run) == unit
    losses = [title for title in by_title(run) if "loss" in title]
    assert losses == ([f"On its held-out texts: loss, {unit}"] if unit else [])


def test_answers_and_classes(tmp_path):
    answers = {"token_accuracy": 0.788, "answers_ended": {"before": 0.01, "after": 0.95}, "answers_right": 3}
    scores = {
        "validation": {"accuracy": 0.98, "standard_error": 0.008, "chance": 0.5},
        "test": {"pearson": -0.1},
    }
    found = by_title(Run("a", "finished", results=answers), Run("b", "finished", results=scores))
    assert found["On its held-out texts: answers that end by themselves"] == [Cell("1 % → 95 %", 0.95, bar=0.95), None]
    assert found["On its held-out texts: validation rows"] == [
        None,
        Cell("98.0 ± 0.8 % accuracy", 0.98, bar=0.98, mark=0.5),
    ]
    assert found["On its held-out texts: test rows"] == [None, Cell("-0.100 Pearson", -0.1, bar=0.0)]
    assert "On its held-out texts: right answers" not in found
    metrics = [{**place(0), "eval_answers_right": 0.0}, {**place(1), "eval_answers_right": 0.25}]
    unfinished = read_run(write_run(tmp_path / "c", results=None, metrics=metrics), "c")
    assert shown(by_title(unfinished)["On its held-out texts: right answers"]) == ["0 % → 25 %"]


def classified(name, accuracy, held_out="x", settings=None, **more):
    scores = {"accuracy": accuracy, "standard_error": 0.008, "chance": 0.5, "num_rows": 100} | more
    return Run(
        name, "finished", results={"validation": scores, "test": scores}, held_out=held_out, settings=settings or {}
    )


def test_a_classifier_in_training_shows_its_latest_evaluation(tmp_path):
    metrics = [{**place(step), "eval_loss": 0.3, "eval_accuracy": share} for step, share in ((0, 0.5), (4, 0.98))]
    begun = read_run(write_run(tmp_path / "a", results=None, metrics=metrics, held_out="rows"), "a")
    ended = classified("b", 0.9, held_out=begun.held_out)
    found = by_title(begun, ended)
    assert shown(found["On its held-out texts: validation rows"]) == ["*98.0 % accuracy", "90.0 ± 0.8 % accuracy"]
    assert shown(found["On its held-out texts: test rows"]) == [None, "90.0 ± 0.8 % accuracy"]
    equal = by_title(begun, ended, classified("c", 0.98, held_out=begun.held_out))
    assert [cell.is_best for cell in equal["On its held-out texts: validation rows"]] == [True, False, True]


def test_the_best_classifier_on_the_same_rows():
    def bests(*runs):
        found = by_title(*runs)
        titles = [f"On its held-out texts: {split} rows" for split in ("validation", "test")]
        return [[cell.is_best for cell in found[title] if cell] for title in titles]

    none, second = [False, False], [False, True]
    first = classified("a", 0.9)
    assert bests(first, classified("b", 0.98)) == [second, second]
    assert bests(first, classified("b", 0.98, held_out="y")) == [none, none]
    assert bests(first, classified("b", 0.98, settings={"test_file": "other.csv"})) == [second, none]
    assert bests(first, classified("b", 0.98, num_rows=50)) == [second, none]
    assert bests(first, classified("b", None, pearson=0.98)) == [none, none]


def jglue(value, **keys):
    row = {"task": "jnli", "style": "base", "num_fewshot": 3, "metric": "acc", "n": 200, "chance": 1 / 3}
    return {"jglue": [row | {"value": value, "standard_error": 0.034, "is_constant": False} | keys]}


def test_jglue_stands_beside_chance():
    runs = [
        Run(
            "a",
            "finished",
            evaluations=[jglue(0.35, is_constant=True), jglue(0.2, metric="pearson", task="jsts", chance=0.0)],
        ),
        Run("b", "finished", evaluations=[jglue(0.39), jglue(0.5, n=50)]),
    ]
    rows = [row for row in summary(runs).rows if row.group == "JGLUE"]
    assert [(row.title, row.note, shown(row.cells)) for row in rows] == [
        ("JNLI accuracy", "base, 3 shots, 200 items, chance 33.3 %", ["35.0 ± 3.4 %, one answer", "*39.0 ± 3.4 %"]),
        ("JNLI accuracy", "base, 3 shots, 50 items, chance 33.3 %", [None, "50.0 ± 3.4 %"]),
        ("JSTS Pearson", "base, 3 shots, 200 items", ["0.200 ± 0.034", None]),
    ]
    assert rows[0].cells[1] == Cell("39.0 ± 3.4 %", 0.39, bar=0.39, mark=1 / 3, is_best=True)


def test_scores_without_items_in_the_training_texts_are_rows_of_their_own():
    """With no best one: other items are left of each run."""
    entries = [
        {"left_out": "items", "num_left_out": 30, "n": 2400, "value": 0.375, "standard_error": 0.0123},
        {"left_out": "items and contexts", "num_left_out": 2430, "n": 0, "value": None, "standard_error": None},
    ]
    odd = [{"n": 3}, {**entries[0], "value": "high"}, {**entries[0], "n": None}, {**entries[1], "n": 4}, "x"]
    runs = [
        Run("a", "finished", evaluations=[jglue(0.35, n=2430, without_hits=entries)]),
        Run("b", "finished", evaluations=[jglue(0.39, n=2430, without_hits=[{**entries[0], "value": 0.25}])]),
        Run("c", "finished", evaluations=[jglue(0.39, n=2430, without_hits=odd)]),
    ]
    rows = summary(runs).rows
    assert [(row.title, row.note) for row in rows] == [
        ("JNLI accuracy", "base, 3 shots, 2,430 items, chance 33.3 %"),
        ("JNLI accuracy, without items in its training texts", "base, 3 shots, chance 33.3 %"),
        ("JNLI accuracy, without items and contexts in its training texts", "base, 3 shots, chance 33.3 %"),
    ]
    left_out = "(n 2,400, 30 items left out)"
    assert [shown(row.cells) for row in rows] == [
        ["35.0 ± 3.4 %", "*39.0 ± 3.4 %", "*39.0 ± 3.4 %"],
        [f"37.5 ± 1.2 % {left_out}", f"25.0 ± 1.2 % {left_out}", None],
        ["none is left, 2,430 items and contexts left out", None, None],
    ]
    assert rows[1].cells[0] == Cell(f"37.5 ± 1.2 % {left_out}", 0.375, bar=0.375, mark=1 / 3)


def test_a_score_without_an_error_is_as_good_as_one_with():
    errors = {"a": 0.034, "b": None, "c": 0.01}
    values = {"a": 0.39, "b": 0.39, "c": 0.2}
    runs = [Run(n, "finished", evaluations=[jglue(values[n], standard_error=errors[n])]) for n in "abc"]
    (row,) = summary(runs).rows
    assert shown(row.cells) == ["*39.0 ± 3.4 %", "*39.0 %", "20.0 ± 1.0 %"]


def test_scores_of_fine_tuned_models_are_rows_of_their_own():
    row = {"task": "jnli", "metric": "acc", "value": 0.776, "standard_error": 0.019, "chance": 1 / 3, "n": 487}
    part = {"trainable": "head", "max_train_rows": 5000, "scored": "validation file", "learning_rate": 5e-5}
    runs = [
        Run("a", "finished", evaluations=[jglue(0.4) | {"jglue_finetuned": [row]}]),
        Run("b", "finished", evaluations=[{"jglue_finetuned": [row | part]}]),
    ]
    assert [
        (one.group, one.title, one.note, shown(one.cells)) for one in summary(runs).rows if "JGLUE" in one.group
    ] == [
        ("JGLUE", "JNLI accuracy", "base, 3 shots, 200 items, chance 33.3 %", ["40.0 ± 3.4 %", None]),
        ("JGLUE, fine-tuned", "JNLI accuracy", "487 items, chance 33.3 %", ["77.6 ± 1.9 %", None]),
        (
            "JGLUE, fine-tuned",
            "JNLI accuracy",
            "487 items, 5,000 training rows, only head trained, chance 33.3 %",
            [None, "77.6 ± 1.9 %"],
        ),
    ]


def test_scores_on_other_data_are_another_row():
    runs = [Run(name, "finished", evaluations=[jglue(0.4, data_sha256=name)]) for name in "ab"]
    rows = [row for row in summary(runs).rows if row.group == "JGLUE"]
    assert [shown(row.cells) for row in rows] == [["40.0 ± 3.4 %", None], [None, "40.0 ± 3.4 %"]]


def test_texts_that_evaluations_scored():
    def scored(bits, num_bytes=9000):
        return {
            "perplexity": [
                {"text": "wiki", "bits_per_byte": bits, "num_bytes": num_bytes},
                {"text": "average", "bits_per_byte": 1},
            ]
        }

    runs = [
        Run(n, "finished", evaluations=[e]) for n, e in (("a", scored(1.5)), ("b", scored(1.25)), ("c", scored(1.0, 8)))
    ]
    rows = [row for row in summary(runs).rows if row.group == "Bits per byte of other texts"]
    assert [(row.title, row.note, shown(row.cells)) for row in rows] == [
        ("wiki", "9,000 bytes", ["1.5000", "*1.2500", None]),
        ("wiki", "8 bytes", [None, None, "1.0000"]),
    ]


def test_texts_scored_with_other_windows_are_other_rows():
    def scored(bits, window, stride):
        row = {"text": "wiki", "num_bytes": 9000, "bits_per_byte": bits, "context_length": window, "stride": stride}
        return [{"perplexity": [row]}]

    found = [scored(1.5, 1024, 1023), scored(1.25, 1024, 512), scored(1.0, 2048, 512), scored(1.125, 2048, 512)]
    runs = [Run(str(index), "finished", evaluations=own) for index, own in enumerate(found)]
    assert [(row.note, shown(row.cells)) for row in summary(runs).rows] == [
        ("9,000 bytes, window 1,024, step 1,023 tokens", ["1.5000", None, None, None]),
        ("9,000 bytes, window 1,024, step 512 tokens", [None, "1.2500", None, None]),
        ("9,000 bytes, window 2,048, step 512 tokens", [None, None, "*1.0000", "1.1250"]),
    ]


def test_what_was_measured_again_replaces_nothing():
    texts = [{"perplexity": [{"text": "wiki", "num_bytes": 9000, "bits_per_byte": bits}]} for bits in (1.5, 1.625, 1.5)]
    runs = [
        Run("a", "finished", evaluations=[*texts, jglue(0.35), jglue(0.39), jglue(0.35)]),
        Run("b", "finished", evaluations=[texts[1], jglue(0.36)]),
    ]
    assert [shown(row.cells) for row in summary(runs).rows] == [
        ["35.0 ± 3.4 %, again 39.0 ± 3.4 %", "*36.0 ± 3.4 %"],
        ["*1.5000, again 1.6250", "1.6250"],
    ]


def test_forgetting_stands_in_the_summary():
    run = Run(
        "a",
        "finished",
        results={"groups": {"old": {"before": 0.943, "after": 0.9489}, "new": {"before": 2, "after": 1}}},
    )
    found = by_title(run)
    assert found["Change of bits per byte: old texts"] == [Cell("+0.0059", pytest.approx(0.0059), tone="bad")]
    assert found["Change of bits per byte: new texts"] == [Cell("-1.0000", -1.0, tone="good")]
    barely = Run("b", "finished", results={"groups": {"old": {"before": 1.0, "after": 1.0004}}})
    (row,) = [row for row in summary([run, barely]).rows if row.title == "old texts"]
    assert (row.cells[1].tone, row.note) == (None, "the runs' texts may differ")


def test_odd_results_change_nothing():
    odd = {"groups": "x", "mixture": 3, "validation": [], "step": {}, "loss": "1", "hours": True, "answers_ended": "x"}
    run = Run("a", "finished", results=odd, evaluations=[{"jglue": "x", "perplexity": {"a": 1}}, jglue("high")])
    assert summary([run]).rows == []
