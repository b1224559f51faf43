"""The mirror at Weights & Biases: every row arrives, nothing of the machine does, and no fault of it costs anything."""

import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jpllm import whole_files
from jpllm.runtime import InputError
from jpllm.tracking.metrics import append_row
from jpllm.tracking.wandb import mirror as wandb_mirror
from jpllm.tracking.wandb.mirror import WandbMirror

ROWS = [{"step": step, "epoch": step / 10, "tokens": 64 * step, "loss": 5 - step / 10} for step in range(1, 5)]
SAMPLES = [
    {"step": step, "tokens": 64 * step, "prompt": prompt, "text": f"猫{step}"} for step in (1, 3) for prompt in "ab"
]
CANARY = "canary-5f1d"
_BLOCK, _HEADER = 32768, 7


def records(file):
    """What an offline file holds, read without wandb's own reader: LevelDB's log format around protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), _HEADER, []
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:  # too little is left of the block for another part
            at += _BLOCK - at % _BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + _HEADER : at + _HEADER + size])
        at += _HEADER + size
        if kind in (1, 4):  # whole, or the last of several
            yield Record.FromString(b"".join(parts))
            parts = []


def all_records(folder):
    """Those of all files of a run folder, the oldest first."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.parent.name)
    return [record for file in files for record in records(file)]


def history(folder, key="loss"):
    """The logged rows that have the key."""
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in all_records(folder)
        if record.HasField("history")
    ]
    return [row for row in rows if key in row or f"{key}._type" in row]


def tables(folder, key):
    """The tables of a key as W&B has them: columns and data."""
    found = [json.loads(file.read_text()) for file in sorted(folder.glob(f"wandb/*/files/media/table/{key}_*.json"))]
    return [(table["columns"], table["data"]) for table in found]


def mirror(folder, rows, samples=(), settings=()):
    run = WandbMirror(folder, dict(settings))
    run.start()
    for row in rows:
        append_row(folder / "metrics.jsonl", row)
        for sample in samples:
            if sample["step"] == row["step"]:
                append_row(folder / "samples.jsonl", sample)
    run.stop()


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setattr(wandb_mirror, "CLOSING_SECONDS", 300)  # on a busy machine
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.mark.usefixtures("offline")
def test_offline_files_hold_every_row_and_nothing_of_the_machine(tmp_path, monkeypatch):
    home = tmp_path / CANARY
    folder = home / "run"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for variable in ("SOME_TOKEN", "WANDB_API_KEY", "WANDB_NOTES_OF_NOBODY"):
        monkeypatch.setenv(variable, f"{CANARY}-{'0' * 40}")
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--token", CANARY])
    append_row(folder / "metrics.jsonl", {"step": 0, "loss": 9.0})  # before the mirror was wished for
    mirror(folder, ROWS[:2], SAMPLES, {"learning_rate": 3e-4})
    mirror(folder, ROWS[2:], SAMPLES)  # after an interruption
    rows = [{key: row[key] for key in ROWS[0]} for row in history(folder)]
    assert rows == ROWS
    first, second = sorted(tables(folder, "samples"), key=lambda table: table[1])
    assert first == (["step", "tokens", "prompt", "text"], [[1, 64, "a", "猫1"], [1, 64, "b", "猫1"]])
    assert second[1] == [[3, 192, "a", "猫3"], [3, 192, "b", "猫3"]]
    assert [row["tokens"] for row in history(folder, "samples")] == [64, 192]
    everything = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(b"learning_rate" in content for content in everything.values())
    assert [path for path, content in everything.items() if CANARY.encode() in content] == []
    assert [path for path in folder.rglob("*") if path.is_symlink()] == []


@pytest.mark.usefixtures("offline")
def test_segments_of_a_run_are_one_run_and_share_a_group(tmp_path):
    mirror(tmp_path, ROWS[:1])
    mirror(tmp_path, ROWS[1:])
    runs = [record.run for record in all_records(tmp_path) if record.HasField("run")]
    run_id = (tmp_path / "wandb_run_id").read_text()
    assert [(run.run_id, run.run_group, run.display_name, run.host) for run in runs] == [
        (run_id, run_id, tmp_path.name, "")
    ] * 2
    metrics = [record.metric for record in all_records(tmp_path) if record.HasField("metric")]
    assert {metric.name or metric.glob_name: metric.step_metric for metric in metrics} == {
        **{"step": "", "tokens": "", "epoch": "", "*": "tokens"}
    }


@pytest.mark.usefixtures("offline")
def test_tables_and_a_card_are_added_to_the_run(tmp_path, monkeypatch):
    home = tmp_path / CANARY
    folder = home / "run"
    (folder / "model").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(InputError, match="is not the model of a run that was mirrored to W&B"):
        wandb_mirror.mirrored_run(folder / "model")
    (folder / "results.json").write_text('{"bits_per_byte": 1.5, "step": 4, "device": "cpu", "groups": {}}')
    mirror(folder, ROWS)
    assert wandb_mirror.mirrored_run(folder / "model") == folder
    results = {
        "model": f"{home}/run/model",
        "perplexity": [{"text": "a", "loss": 1.25, "stride": None}, {"text": "average", "loss": 1.0}],
        "jglue": [{"task": "jnli", "value": 0.5, "is_constant": True, "versions": {"torch": "2"}}],
        "sample_quality": {"japanese": 1.0},
        "forgetting": {
            "models": [f"{home}/run/model", "org/after"],
            "bits_per_byte": {"old": [1.0, 1.25], "new": [2.0, 1.5]},
            "stride": 63,
        },
        "samples": [],
    }
    wandb_mirror.send_evaluation(folder, results)
    card = folder / "model" / "README.md"
    card.write_text("# A model\n")
    wandb_mirror.send_card(folder, card)
    assert tables(folder, "evaluation_perplexity") == [
        (["text", "loss", "stride"], [["a", 1.25, None], ["average", 1.0, None]])
    ]
    assert tables(folder, "evaluation_jglue") == [(["task", "value", "is_constant"], [["jnli", 0.5, True]])]
    columns = ["group", "model", "bits_per_byte", "change"]
    matrix = [
        ["old", "run", 1.0, 0.0],
        ["old", "after", 1.25, 0.25],
        ["new", "run", 2.0, 0.0],
        ["new", "after", 1.5, -0.5],
    ]
    assert tables(folder, "evaluation_forgetting") == [(columns, matrix)]
    artifacts = [record.artifact for record in all_records(folder) if record.HasField("artifact")]
    (sent,) = [artifact for artifact in artifacts if artifact.type == "model-card"]
    assert [entry.path for entry in sent.manifest.contents] == ["README.md"]
    summaries = [item for record in all_records(folder) for item in record.summary.update]
    assert {item.key or item.nested_key[0]: item.value_json for item in summaries}["result/bits_per_byte"] == "1.5"
    assert "result/device" not in {item.key for item in summaries}
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(CANARY.encode() in content for content in contents)


FAKE = """
import json, os, pathlib, sys, time

def perhaps(what):
    if os.environ["FAKE_WANDB"] == f"{what} raises":
        raise OSError("no route to host")
    if os.environ["FAKE_WANDB"] == f"{what} dies":
        os.kill(os.getpid(), 9)
    while os.environ["FAKE_WANDB"] == f"{what} hangs":
        time.sleep(0.1)

class Run:
    summary = {}
    def define_metric(self, *args, **kwargs):
        pass
    def log(self, row):
        perhaps("log")
        with pathlib.Path("logged.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\\n")
    def finish(self):
        perhaps("finish")
        pathlib.Path("finished").touch()

def init(mode=None, **kwargs):
    if mode == "online":
        perhaps("connecting")
    perhaps("init")
    return Run()

def teardown():
    pass

def Settings(**kwargs):
    return kwargs
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A wandb that behaves as FAKE_WANDB says, for the process of the mirror; and a folder to be mirrored."""
    package = tmp_path / "fake" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    monkeypatch.setattr(wandb_mirror, "refuse_without_wandb", lambda: None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("FAKE_WANDB", "works")
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["import", "init", "log", "finish"])
def test_one_that_raises_is_left_alone(fake, monkeypatch, caplog, what):
    monkeypatch.setenv("FAKE_WANDB", f"{what} raises")
    if what == "import":
        (fake.parent / "fake" / "wandb" / "__init__.py").write_text("raise OSError('no route to host')")
    with caplog.at_level(logging.WARNING):
        mirror(fake, ROWS)
        wait_for(lambda: warnings(caplog))
    (record,) = warnings(caplog)
    assert record.getMessage() == (
        "wandb: OSError: no route to host; nothing more is mirrored, the rows are in the run folder"
    )


def warnings(caplog):
    """Without the line that names the mode, which another test's level may let through."""
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("what", ["init", "log", "finish"])
def test_one_that_hangs_is_left_alone(fake, monkeypatch, caplog, what):
    monkeypatch.setenv("FAKE_WANDB", f"{what} hangs")
    monkeypatch.setattr(wandb_mirror, "CLOSING_SECONDS", 0.5)
    run = WandbMirror(fake, {})
    run.start()
    process = run._process
    with caplog.at_level(logging.WARNING):
        began = time.monotonic()
        run.stop()
        assert time.monotonic() - began < 0.5 + wandb_mirror._GRACE_SECONDS + 5
        assert process.poll() is not None  # nothing is left behind
        if what != "log":  # nothing was logged
            wait_for(lambda: warnings(caplog))
            (record,) = warnings(caplog)
            assert record.getMessage() == "wandb: not done after 0.5 s, left alone; the rows are in the run folder"


def test_one_that_dies_without_a_word_is_named(fake, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_WANDB", "init dies")
    with caplog.at_level(logging.WARNING):
        mirror(fake, ROWS)
        wait_for(lambda: warnings(caplog))
    (record,) = warnings(caplog)
    assert record.getMessage() == (
        "wandb: ended with code -9; nothing more is mirrored, the rows are in the run folder"
    )


def test_files_where_the_training_was_started_are_no_modules(fake, monkeypatch, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    mirror(fake, ROWS[:1])
    assert json.loads((fake / "logged.jsonl").read_text()) == ROWS[0]


def test_an_id_that_cannot_be_written_costs_the_mirror_alone(fake, monkeypatch, caplog):
    def fail(file, text):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(whole_files, "write_whole", fail)
    with caplog.at_level(logging.WARNING):
        mirror(fake, ROWS)
    assert "wandb: not started: [Errno 28] No space left on device" in caplog.text


@pytest.mark.parametrize("broken", ["", "\n", "a/b", "\x00"])
def test_a_broken_id_is_none(fake, broken):
    (fake / "wandb_run_id").write_text(broken)
    with pytest.raises(InputError, match="is not the model of a run that was mirrored"):
        wandb_mirror.mirrored_run(fake / "model")
    mirror(fake, ROWS[:1])
    made = (fake / "wandb_run_id").read_text()
    assert re.fullmatch("[0-9a-f]{8}", made)
    mirror(fake, ROWS[1:])
    assert (fake / "wandb_run_id").read_text() == made
    assert wandb_mirror.mirrored_run(fake / "model") == fake


def test_the_mode_is_named_with_its_reason(fake, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for variables, words in (
        ({"WANDB_MODE": "offline"}, "wandb: offline, as WANDB_MODE says"),
        ({"WANDB_MODE": ""}, "wandb: offline, as there is no login for https://api.wandb.ai: written to files"),
        ({"WANDB_API_KEY": "1"}, "wandb: online, with the login for https://api.wandb.ai"),
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            mirror(fake, ROWS[:1])
        assert caplog.records[0].getMessage().startswith(words)


def test_where_the_network_is_dead_files_are_written(fake, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_WANDB", "connecting raises")
    monkeypatch.setenv("WANDB_MODE", "online")
    with caplog.at_level(logging.WARNING):
        mirror(fake, ROWS)
        wait_for(lambda: warnings(caplog))
    (record,) = warnings(caplog)
    assert record.getMessage() == "wandb: OSError: no route to host; written to files for wandb sync instead"
    assert [json.loads(line) for line in (fake / "logged.jsonl").read_text().splitlines()] == ROWS


def test_a_training_that_is_killed_leaves_no_process_and_no_row_behind(fake):
    code = (
        "import sys, time; from pathlib import Path; from jpllm.tracking.wandb.mirror import WandbMirror\n"
        "mirror = WandbMirror(Path(sys.argv[1]), {}); mirror.start(); print(mirror._process.pid, flush=True)\n"
        "time.sleep(600)"
    )
    training = subprocess.Popen([sys.executable, "-c", code, str(fake)], stdout=subprocess.PIPE, text=True)
    mirror_pid = int(training.stdout.readline())
    append_row(fake / "metrics.jsonl", ROWS[0])
    os.kill(training.pid, signal.SIGKILL)
    training.communicate()
    wait_for((fake / "finished").exists)
    assert json.loads((fake / "logged.jsonl").read_text()) == ROWS[0]
    wait_for(lambda: not Path(f"/proc/{mirror_pid}/cmdline").exists() or not is_running(mirror_pid))


def is_running(pid):
    return b"jpllm.tracking.wandb.process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_process_that_cannot_be_started(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb_mirror, "refuse_without_wandb", lambda: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    mirror(tmp_path, ROWS)
    assert "wandb: not started: [Errno 2]" in caplog.text


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for attempt in (lambda: WandbMirror(tmp_path, {}), lambda: wandb_mirror.mirrored_run(tmp_path / "model")):
        with pytest.raises(InputError, match=r"report_to: wandb needs the package: pip install 'jpllm\[wandb\]'"):
            attempt()
