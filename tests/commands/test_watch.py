"""`jpllm watch` as typed: once, following, and without a run."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from jpllm import cli
from jpllm.commands import watch
from jpllm.tracking.watch import frame
from jpllm.tracking.watch.status import RunReader


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("tokens: 640\n")
    rows = [{"step": step, "tokens": 64 * step, "epoch": 0.1 * step, "loss": 5.0 - step} for step in range(1, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_once(run, capsys):
    assert cli.main(["watch", str(run), "--once"]) == 0
    output = capsys.readouterr().out
    assert "unknown  step 3 of 10, 192 tokens, epoch 0.30" in output
    assert "loss 2.0000" in output
    assert "\x1b" not in output  # no terminal, no colours
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert cli.main(["watch", "--run", str(run)]) == 0  # a pipe gets one frame too
    assert capsys.readouterr().out == output
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "run: no folder nowhere; --wait waits for it to begin"),
        (["."], "run: . is no folder of a run: it has no config.yaml"),
        ([], "run: required, but not set"),
        (["a", "b"], "run: name one run folder; jpllm compare shows several"),
        (["a", "--once", "--wait"], "wait: once looks a single time"),
    ],
)
def test_without_a_run(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch", *argv]) == 2
    assert message in capsys.readouterr().err


def test_what_is_known_is_not_drawn_again(run, monkeypatch):
    console, drawn = Console(file=io.StringIO(), force_terminal=True, width=80, height=24), []
    monkeypatch.setattr(frame, "frame", lambda status, *size: drawn.append(status.latest("step")) or "")
    looks = iter(["", "", '{"step": 4, "tokens": 256, "epoch": 0.4, "loss": 1.5}\n', "", "end"])

    def wait(seconds):
        if (found := next(looks)) == "end":
            (run / "results.json").write_text("{}")
        with (run / "metrics.jsonl").open("a") as stream:
            stream.write(found if found != "end" else "")

    monkeypatch.setattr(watch.time, "sleep", wait)
    watch.follow(RunReader(run), console, 1.0)
    assert drawn == [3, 4, 4, 4]  # at first, a new row, finished, and what stays on the terminal


@pytest.fixture
def start():
    """Starts `jpllm watch` in a terminal of its own; gives the process, and a list that gets what it writes there."""
    processes = []

    def start(*argv):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "jpllm.cli", "watch", *map(str, argv), "--seconds", "0.1"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "30"}
        process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        )
        processes.append(process)
        os.close(theirs)
        written = []
        threading.Thread(target=read, args=(ours, written), daemon=True).start()
        return process, written

    yield start
    for process in processes:
        process.kill()
        process.wait()


def read(terminal, written):
    while True:
        try:
            written.append(os.read(terminal, 65536))
        except OSError:  # the other end is closed
            return


def wait_for(words, written):
    deadline = time.monotonic() + 60
    while words.encode() not in b"".join(written):
        assert time.monotonic() < deadline, b"".join(written).decode()
        time.sleep(0.05)


def test_it_follows_a_run_that_begins_later_until_it_is_finished(run, tmp_path, start):
    process, written = start(tmp_path / "later", "--wait")
    wait_for("waiting", written)
    run.rename(tmp_path / "later")
    wait_for("step 3 of 10", written)
    with (tmp_path / "later" / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 4, "tokens": 256, "epoch": 0.4, "loss": 1.5}) + "\n")
    wait_for("step 4 of 10", written)
    (tmp_path / "later" / "results.json").write_text("{}")
    assert process.wait(60) == 0
    wait_for("finished", written)
    everything = b"".join(written)
    assert everything.count(b"\x1b[?1049h") == everything.count(b"\x1b[?1049l") == 1  # the screen is given back
    assert everything.rindex(b"finished") > everything.rindex(b"\x1b[?1049l")  # and the last frame stays on it


def test_ctrl_c_gives_the_screen_back(run, start):
    process, written = start(run)
    wait_for("step 3 of 10", written)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    wait_for("interrupted", written)
    everything = b"".join(written)
    assert b"Traceback" not in everything
    assert b"\x1b[?1049l" in everything
    assert everything.count(b"\x1b[?25h") >= everything.count(b"\x1b[?25l") > 0  # so is the cursor
