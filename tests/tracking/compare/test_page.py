import json
import re

import numpy as np
import pytest

from jpllm.tracking.compare import page as module
from jpllm.tracking.compare.comparison import compare
from jpllm.tracking.compare.page import (
    differences,
    drawn,
    drawn_clock,
    embedded,
    metrics,
    payload,
    points_per_curve,
    rounded,
    to_html,
)
from jpllm.tracking.metrics import Clock, Curve, read_curves
from jpllm.tracking.runs import Refused, Run, read_run
from tests.tracking.run_folders import RESULTS, place, rows, write_run

HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 😀 \"'\\ /* style */ <!-- data -->"


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_what_is_embedded_is_read_back_and_ends_no_element():
    value = {HOSTILE: [HOSTILE, 1.5, None, True, "\ud800"]}
    text = embedded(value)
    assert not {"<", ">", "&", "\u2028"} & set(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE, 1.5, None, True, "?"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        embedded([float("nan")])


def test_the_page_holds_everything_itself(tmp_path):
    page = to_html(compare([read_run(write_run(tmp_path / "a"), "a")]))
    assert page.count("<script") == 2
    assert not re.search(r"""(src|href)\s*=\s*["']""", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page
    assert "<!-- " not in page
    assert data_of(page)["runs"][0]["name"] == "a"


def test_hostile_names_are_data(tmp_path):
    run = read_run(write_run(tmp_path / "a"), HOSTILE)
    page = to_html(compare([run], [Refused(HOSTILE, HOSTILE)]))
    assert page.count("<script") == page.count("</script>") == 2
    data = data_of(page)
    assert (data["runs"][0]["name"], data["refused"]) == (HOSTILE, [{"name": HOSTILE, "reason": HOSTILE}])
    (title,) = re.findall(r"<title>(.*?)</title>", page, re.DOTALL)
    assert title.startswith("&lt;/script&gt;&lt;script&gt;alert(1)")


def test_the_data_of_a_page(tmp_path):
    data = payload(compare([read_run(write_run(tmp_path / "a"), "a"), Run("m", "model", num_parameters=10)]))
    run, model = data["runs"]
    assert run["curves"]["loss"] == {"step": [1, 1, 1, 1], "mean": [8, 4, 3, 2.5]}
    assert run["clock"]["hours"] == [0, 0.000555556, 0.00111111, 0.00166667, 0.00222222]
    assert (model["curves"], model["clock"], model["state"]) == ({}, {}, "model")
    (summary,) = data["tables"]["summary"]
    assert summary["columns"] is None
    parameters = next(row for row in summary["rows"] if row["title"] == "parameters")
    assert parameters["cells"] == [{"text": "3.31 M", "value": 3_307_200.0}, {"text": "10", "value": 10.0}]
    (prompt,) = data["recorded"]["prompts"]
    assert prompt["texts"][0][1] == {"text": "名前はまだ無い。", "step": 2, "tokens": 2000.0, "ended": None}
    assert prompt["texts"][1] == []


def test_home_folders_are_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    secret = f"{tmp_path}/secret"
    groups = {secret: {"before": 1.0, "after": 2.0}}
    mixture = [{"source": f"{secret}/{n}", "requested_share": 0.5, "achieved_share": 0.5} for n in "ab"]
    forgetting = {"models": [secret], "bits_per_byte": {secret: [1.0]}}
    runs = []
    for name in "xy":
        folder = write_run(
            tmp_path / name,
            settings={"tokenizer": f"{secret}/{name}"},
            results=RESULTS | {"groups": groups, "mixture": mixture, "device": f"{secret}/{name}"},
            evaluation={"model": secret, "forgetting": forgetting},
        )
        (folder / "environment.json").write_text(json.dumps({"cpu": f"{secret}/{name}"}), encoding="utf-8")
        (folder / "model").mkdir()
        runs.append(read_run(folder, name))
    page = to_html(compare(runs))
    assert str(tmp_path) not in page
    assert page.count("~/secret/x") == 3  # tokenizer, device and CPU, which differ


def test_curves_in_the_order_of_their_interest(tmp_path):
    extra = {"eval_group_bits_per_byte/old": 1.0, "eval_bits_per_byte/stories": 1.0, "eval_new_figure": 1.0, "kwh": 0.1}
    run = read_run(write_run(tmp_path / "a", metrics=[*rows(), {**place(5), **extra, "grad_norm": 1.0}]), "a")
    found = metrics([run])
    assert [(one["key"], one["title"], one["isShown"], one["isNoisy"]) for one in found] == [
        ("loss", "training loss, nats per token", True, True),
        ("eval_loss", "held-out loss, nats per token", True, False),
        ("eval_bits_per_byte", "held-out bits per byte", True, False),
        ("eval_group_bits_per_byte/old", "bits per byte, old texts", True, False),
        ("learning_rate", "learning rate", False, True),
        ("grad_norm", "gradient norm", False, True),
        ("kwh", "energy, kWh", False, True),
        ("eval_bits_per_byte/stories", "bits per byte, stories", False, False),
        ("eval_new_figure", "new figure", True, False),
    ]


def test_losses_of_different_objectives(tmp_path):
    texts = read_run(write_run(tmp_path / "a"), "a")
    answers = read_run(write_run(tmp_path / "b", results=RESULTS | {"bits_per_byte": None, "token_accuracy": 0.5}), "b")
    assert [one["title"] for one in metrics([texts, answers])][:2] == [
        "training loss, units differ",
        "held-out loss, units differ",
    ]
    assert metrics([answers])[0]["title"] == "training loss, nats per answer token"
    assert metrics([Run("c", "finished", curves=texts.curves)])[0]["title"] == "training loss, nats per token"


def test_levels_that_all_runs_share(tmp_path):
    same = [read_run(write_run(tmp_path / name), name) for name in "ab"]
    (level,) = next(one["levels"] for one in metrics(same) if one["key"] == "eval_bits_per_byte")
    assert level == {"label": "xz -9", "value": 2.5}
    same[0].results["xz_bits_per_byte"] = 2.4
    assert next(one["levels"] for one in metrics(same) if one["key"] == "eval_bits_per_byte") == []
    scores = {"accuracy": 0.9, "chance": 0.5, "majority": 0.6}
    classes = read_run(
        write_run(tmp_path / "c", results={"validation": scores}, metrics=[{**place(1), "eval_accuracy": 0.9}]), "c"
    )
    assert metrics([classes])[0]["levels"] == [{"label": "chance", "value": 0.5}, {"label": "majority", "value": 0.6}]


@pytest.mark.parametrize(("num_curves", "num_points"), [(1, 1500), (80, 1500), (120, 1000), (600, 200), (6000, 200)])
def test_more_curves_have_fewer_points(num_curves, num_points):
    import numpy as np

    long, short = Curve(np.arange(201.0), np.arange(201.0)), Curve(np.arange(200.0), np.arange(200.0))
    run = Run(
        "a", "finished", curves={**{f"l{i}": long for i in range(num_curves)}, **{f"s{i}": short for i in range(99)}}
    )
    assert points_per_curve([run]) == num_points


def test_every_file_of_the_page_is_in_it():
    folder = module.resources.files("jpllm.tracking.compare") / "assets"
    assert {file.name for file in folder.iterdir()} == {"page.html", "page.css", *module.SCRIPTS}


def test_what_diverged_is_not_a_number(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": NaN}\n', encoding="utf-8")
    curves, _, _ = read_curves(file)
    assert json.dumps(drawn(curves["loss"], 10)) == '{"step": [1, 1], "mean": [2.5, null]}'


def test_a_short_curve_is_drawn_as_it_is():
    curve = Curve(np.array([0.0, 10.0, 30.0]), np.array([1.23456789, 2.0, 3e-5]))
    assert drawn(curve, 3) == {"step": [0, 10, 20], "mean": [1.23457, 2, 3e-05]}


def test_a_long_curve_keeps_means_and_extremes():
    values = np.array([1.0, 3.0, 2.0, np.nan, 9.0, 0.0, 5.0, 5.0, 6.0, np.nan])
    curve = Curve(np.arange(10.0), values)
    assert drawn(curve, 3) == {
        "step": [1, 3, 4],  # 1, 4 and 8: the middle row of rows 0–2, 3–5 and 6–9
        "mean": [2, 4.5, 5.33333],
        "low": [1, 0, 5],
        "high": [3, 9, 6],
    }
    assert drawn(Curve(np.arange(4.0), np.array([np.nan, np.nan, 1.0, 3.0])), 2) == {
        "step": [1, 2],
        "mean": [None, 2],
        "low": [None, 1],
        "high": [None, 3],
    }


def test_no_point_of_a_long_curve_is_outside_of_what_is_drawn():
    generator = np.random.default_rng(0)
    curve = Curve(np.arange(10_007.0), generator.normal(size=10_007))
    found = drawn(curve, 100)
    assert {len(values) for values in found.values()} == {100}
    assert min(found["low"]) == pytest.approx(curve.values.min(), rel=1e-5)
    assert max(found["high"]) == pytest.approx(curve.values.max(), rel=1e-5)
    sizes = np.diff(np.arange(100) * 10_007 // 100, append=10_007)
    assert np.dot(found["mean"], sizes) / 10_007 == pytest.approx(curve.values.mean(), abs=1e-6)


def test_extremes_that_nobody_sees_are_left_out():
    assert drawn(Curve(np.arange(10_000.0), np.arange(10_000.0)), 1000).keys() == {"step", "mean"}
    assert drawn(Curve(np.arange(10_000.0), np.ones(10_000)), 1000).keys() == {"step", "mean"}


def test_the_clock_of_a_page():
    steps = np.arange(5.0)
    clock = Clock(
        {"step": steps, "tokens": steps * 1_234_567_891, "epoch": steps / 3, "training_seconds": steps * 1800}
    )
    assert drawn_clock(clock) == {
        "step": [0, 1, 1, 1, 1],
        "tokens": [0, 1_234_567_891, 2_469_135_782, 3_703_703_673, 4_938_271_564],
        "epoch": [0, 0.333333, 0.666667, 1, 1.33333],
        "hours": [0, 0.5, 1, 1.5, 2],
    }
    steps = np.arange(100_000.0)
    long = drawn_clock(Clock(dict.fromkeys(("step", "tokens", "epoch", "training_seconds"), steps)))
    assert len(long["step"]) == 1000
    assert (long["tokens"][0], long["tokens"][-1], sum(long["step"])) == (0, 99_999, 99_999)
    assert drawn_clock(Clock()) == {}


def test_numbers_are_short():
    assert differences(np.array([2.0, 2.0, 3.5])) == [2, 0, 1.5]
    assert rounded(np.array([1 / 3, 1e20, -np.inf, np.nan, 5.0])) == [0.333333, 10**20, None, None, 5]
    assert place(3)["training_seconds"] == 6.0
