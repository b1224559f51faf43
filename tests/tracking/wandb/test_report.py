"""The report at W&B names its runs and their metrics; it is built without a network."""

import importlib.util
import json
import socket

import pytest

from jpllm import cli
from jpllm.runtime import InputError
from jpllm.tracking.metrics import append_row
from jpllm.tracking.runs import read_all
from jpllm.tracking.wandb import content
from jpllm.tracking.wandb import mirror as wandb_mirror
from jpllm.tracking.wandb import report as wandb_report

FIGURES = ("loss", "eval_loss", "eval_bits_per_byte", "eval_bits_per_byte/news", "tokens_per_second")


@pytest.fixture
def folders(tmp_path):
    """Two runs that were mirrored and one that was not."""
    for name in ("one", "two", "alone"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text("tokens: 640\n")
        for step in (1, 2):
            row = {"step": step, "tokens": 64 * step, "epoch": step / 10, "training_seconds": 1.0 * step}
            append_row(folder / "metrics.jsonl", row | dict.fromkeys(FIGURES, 5.0 - step))
        if name != "alone":
            (folder / "wandb_run_id").write_text(f"id-of-{name}")
    return [str(tmp_path / name) for name in ("one", "two", "alone")]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*_):
        raise AssertionError("the network was to be used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def needs_the_package():
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")


def blocks(file, kind):
    return [block for block in json.loads(file.read_text())["spec"]["blocks"] if block["type"] == kind]


def test_the_json_names_runs_and_metrics(folders, tmp_path, capsys):
    needs_the_package()
    file = tmp_path / "report.json"
    assert cli.main(["compare", *folders, "--wandb", "team/project", "--wandb_dry_run", str(file)]) == 0
    assert f"report for team/project: {file}" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert (found["entity"], found["project"], found["title"]) == ("team", "project", "Comparison of one, two")
    (text,) = blocks(file, "markdown-block")
    for words in ("| one | id-of-one |", "| two | id-of-two |", "| alone | not mirrored"):
        assert words in text["content"]
    grids = [grid["metadata"] for grid in blocks(file, "panel-grid")]
    for grid in grids:
        (runs,) = grid["runSets"]
        assert "project" not in runs  # that of the report
        assert json.dumps(["id-of-one", "id-of-two"]) in json.dumps(runs["filters"])
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert {(line["metrics"][0], line["xAxis"]) for line in lines} == {
        (figure, axis) for figure in FIGURES for axis in ("tokens", "step")
    }
    assert [line["metrics"][0] for line in lines[:6:2]] == ["loss", "eval_loss", "eval_bits_per_byte"]
    assert "Run Comparer" in {panel["viewType"] for panel in panels}
    asked = [json.dumps(panel) for panel in panels if panel["viewType"] == "Weave"]
    assert [name in text for name, text in zip(content.REPORT_TABLES, asked, strict=True)] == [True] * 6
    assert {"evaluation_jglue_finetuned", "evaluation_samples", "evaluation_forgetting"} <= set(content.REPORT_TABLES)
    assert {line["limit"] for line in lines} == {2}  # all that are mirrored
    places = [tuple(panel["layout"].values()) for panel in panels if panel["viewType"] == "Run History Line Plot"][:8]
    assert len(set(places)) == 8  # no plot on another


def test_many_runs_have_a_title_of_the_length_that_is_allowed(folders):
    needs_the_package()
    runs, _ = read_all(folders[:2])
    runs[0].name = "long " * 40
    assert len(wandb_report.report(runs, "team", "project").title) == 128


def test_what_cannot_be_reported(folders, tmp_path, monkeypatch):
    needs_the_package()
    runs, _ = read_all(folders)
    with pytest.raises(InputError, match="wandb: write ENTITY/PROJECT, not project"):
        wandb_report.save(runs, "project")
    with pytest.raises(InputError, match="none of the runs was mirrored to W&B; train with report_to: wandb"):
        wandb_report.write(runs[2:], "team/project", tmp_path / "x.json")
    with pytest.raises(InputError, match="wandb: no login; run wandb login"):
        wandb_report.save(runs, "team/project")
    monkeypatch.setattr(wandb_report, "has_login", lambda: True)
    with pytest.raises(InputError, match="wandb: the report cannot be saved in team/project: "):
        wandb_report.save(runs, "team/project")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package wandb-workspaces: pip install 'jpllm\[wandb\]'"):
        wandb_report.report(runs, "team", "project")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--wandb_dry_run", "x.json"], "wandb_dry_run: give wandb too: ENTITY/PROJECT"),
        (["--wandb", "a/b/c"], "wandb: write ENTITY/PROJECT, not a/b/c"),
    ],
)
def test_bad_keys(folders, argv, message, capsys):
    assert cli.main(["compare", *folders, *argv]) == 2
    assert message in capsys.readouterr().err


def test_a_login_is_a_key_or_an_entry_for_the_host(monkeypatch, tmp_path):
    assert not wandb_mirror.has_login()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 1234\n")
    assert wandb_mirror.has_login()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not wandb_mirror.has_login()
    monkeypatch.setenv("WANDB_API_KEY", "1234")
    assert wandb_mirror.has_login()
