"""A run seen from outside: states, files that are cut, what is left to do, what is wrong."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from rich.console import Console

from jpllm.tracking import runs
from jpllm.tracking.watch import status as module
from jpllm.tracking.watch.frame import frame, shown
from jpllm.tracking.watch.status import RunReader

ESCAPE = "\x1b[31m"


def row(step, **figures):
    return {"step": step, "epoch": step / 50, "tokens": 64 * step, "training_seconds": 0.5 * step, **figures}


def grow_old(folder, seconds):
    for name in ("metrics.jsonl", "samples.jsonl", "config.yaml"):
        if (folder / name).exists():
            os.utime(folder / name, (time.time() - seconds,) * 2)


def append(folder, *rows, name="metrics.jsonl"):
    with (folder / name).open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(one) + "\n" for one in rows)


@pytest.fixture
def run(tmp_path):
    """A folder as a run has it after ten steps; nobody is at work there."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("tokens: 6400\nepochs: null\n")
    (folder / ".lock").touch()
    append(folder, row(0, eval_loss=6.0, eval_bits_per_byte=3.0))
    append(folder, *(row(step, loss=6 - step / 10, tokens_per_second=128.0) for step in range(1, 11)))
    append(folder, row(10, eval_loss=5.0, eval_bits_per_byte=2.5))
    for step in (0, 10):
        text = f"い{step}\n{ESCAPE}"
        append(folder, {"step": step, "prompt": "むかし、", "text": text}, name="samples.jsonl")
    return folder


def text_of(status, width=100, height=40):
    console = Console(width=width, height=height, file=io.StringIO())
    console.print(frame(status, width, height), highlight=False)
    return console.file.getvalue()


def test_states(run, tmp_path):
    reader = RunReader(run)
    assert RunReader(tmp_path / "later").read().state == "waiting"
    assert reader.read().state == "unknown"  # a lock is not seen from another machine
    grow_old(run, 170)
    assert "at work on another machine, whose lock cannot be seen" in " ".join(text_of(reader.read()).split())
    grow_old(run, 190)
    assert reader.read().state == "stopped"
    with filelock.FileLock(run / ".lock"):
        assert reader.read().state == "training"
        (run / "metrics.jsonl").unlink()
        assert reader.read().state == "starting"
    (run / "results.json").write_text("{}")
    assert reader.read().state == "finished"


def test_the_folder_of_somebody_else(run, monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(module, "is_held", refuse)
    assert RunReader(run).read().state == "unknown"
    grow_old(run, 190)
    assert RunReader(run).read().state == "stopped"


def test_the_name_of_the_folder_one_stands_in(run, monkeypatch):
    monkeypatch.chdir(run)
    assert RunReader(Path()).read().name == f"{run.parent.name}/run"


def test_the_lock_of_another_process(run):
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(run / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "1\n"
    assert runs.is_held(run)
    other.communicate("\n")
    assert not runs.is_held(run)
    (run / ".lock").unlink()
    assert not runs.is_held(run)
    assert not (run / ".lock").exists()  # looking leaves nothing behind


def test_progress_and_time_left(run):
    status = RunReader(run).read()
    assert status.share == pytest.approx(0.1)  # 640 of 6,400 tokens
    assert status.num_steps == 100
    assert status.seconds_left == pytest.approx(5760 / 128)
    (run / "plan.json").write_text('{"num_steps": 40}')
    status = RunReader(run).read()
    assert (status.share, status.num_steps) == (0.25, 40)
    (run / "plan.json").write_text('{"num_st')
    (run / "config.yaml").write_text("epochs: 0.5\ntokens: null\n")
    assert RunReader(run).read().share == pytest.approx(0.4)
    (run / "config.yaml").write_text("\x00")
    status = RunReader(run).read()
    assert (status.share, status.seconds_left, status.num_steps) == (None, None, None)
    assert "step 10," in text_of(status)


def test_the_frame(run):
    (run / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint-10").mkdir()
    append(run, row(11, loss=4.5, tokens_per_second=128.0, peak_host_bytes=3 << 30))
    plan = {"num_steps": 100, "num_processes": 1, "memory": {"peak_bytes": 2 << 30}}
    (run / "plan.json").write_text(json.dumps(plan))
    grow_old(run, 190)
    text = text_of(RunReader(run).read())
    for words in (
        *("stopped", "step 11 of 100", "11.0%", "goes on from checkpoint-10", "loss 4.5000", "held-out 5.0000"),
        *("best 2.5000 at step 10", "host memory 3.00 GiB (planned 2.00 GiB)", "tokens/s 128"),
        *("━ training loss  ━ held-out loss", "━ held-out bits per byte", "written at step 10", "むかし、▸い10⏎"),
    ):
        assert words in text
    assert "い0" not in text
    assert ESCAPE not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(("num_processes", "planned"), [(1, " (planned 8.00 GiB)"), (4, "")])
def test_host_memory_of_the_main_process_stands_beside_a_plan_of_one(run, num_processes, planned):
    append(run, row(11, peak_host_bytes=3 << 30, peak_gpu_bytes=1 << 30))
    memory = {"host_bytes": 8 << 30, "tensor_bytes": 2 << 30}
    (run / "plan.json").write_text(json.dumps({"num_processes": num_processes, "memory": memory}))
    text = text_of(RunReader(run).read())
    (line,) = (line.rstrip() for line in text.splitlines() if "GPU memory" in line)
    assert line.endswith(f"GPU memory 1.00 GiB (planned 2.00 GiB)  host memory 3.00 GiB{planned}")


@pytest.mark.parametrize(("width", "height"), [(40, 20), (80, 24), (99, 50), (200, 60)])
def test_it_fits_the_screen(run, width, height):
    text = text_of(RunReader(run).read(), width, height)
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= max(height, 28)  # below that the plots are as small as they get
    assert max(map(len, lines)) <= width


def test_groups_are_drawn_beside_each_other(run):
    figures = {"eval_group_bits_per_byte/new": 2.0, "eval_group_bits_per_byte/old": 1.5}
    append(run, row(12, **figures), row(14, **figures))
    text = text_of(RunReader(run).read())
    assert "━ new, bits per byte  ━ old, bits per byte" in text


def test_warnings(run, monkeypatch):
    assert RunReader(run).read().warnings() == []
    append(run, *(row(step, loss=5.0) for step in range(11, 40)), row(40, loss=9.0), row(41, loss=5.0))
    assert RunReader(run).read().warnings() == ["step 40: loss 9.0000, the median of the 20 rows before is 5.0000"]
    append(run, row(42, loss=4.0), row(42, eval_loss=5.5), row(43, eval_loss=5.6), row(44, loss=float("nan")))
    assert [words.partition(":")[0] for words in RunReader(run).read().warnings()] == ["step 40", "step 44"]
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace('"loss": NaN', '"loss": 3.9'))
    assert "learns its texts by heart" in RunReader(run).read().warnings()[-1]
    assert "! step 40: loss 9.0000" in text_of(RunReader(run).read())


@pytest.mark.parametrize("value", [None, "none", [1.0], {}])
def test_a_loss_that_is_no_number_at_all_is_passed_over(run, value):
    append(run, row(11, loss=value, eval_loss=value), row(12, loss=float("inf")))
    assert RunReader(run).read().warnings() == ["step 12: loss is inf, training has diverged"]


def test_each_row_is_looked_at_once(run):
    """However often one looks; and a file that is cut back is begun anew."""
    reader = RunReader(run)
    first = reader.read()
    taken = len(first.points("step"))
    assert taken == len(first.rows) == 12
    for old in first.rows:
        old["loss"] = 99.0  # would be seen by whoever read the rows again
    append(run, row(11, loss=4.5))
    status = reader.read()
    assert [loss for _, loss in status.points("loss")] == [*(6 - step / 10 for step in range(1, 11)), 4.5]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:5]))
    assert reader.read().points("loss") == [(step, 6 - step / 10) for step in range(1, 5)]


def test_what_is_shown_changes_with_what_is_new(run):
    reader = RunReader(run)
    before = reader.read().shown
    assert reader.read().shown == before
    append(run, row(11, loss=4.5))
    assert reader.read().shown != before
    before = reader.read().shown
    append(run, {"step": 11, "prompt": "a", "text": "b"}, name="samples.jsonl")
    assert reader.read().shown != before


def test_a_run_that_says_nothing_for_long(run):
    with filelock.FileLock(run / ".lock"):
        grow_old(run, 170)
        assert RunReader(run).read().warnings() == []
        grow_old(run, 600)
        (words,) = RunReader(run).read().warnings()
        assert words == "nothing written for 10 min, rows came every 0 s: a long evaluation, or the process hangs"
    assert RunReader(run).read().warnings() == []  # stopped


def test_a_run_before_its_first_row(run):
    for name in ("metrics.jsonl", "samples.jsonl"):
        (run / name).unlink()
    with filelock.FileLock(run / ".lock"):
        status = RunReader(run).read()
    assert status.state == "starting"
    assert "starting" in text_of(status)


def test_what_a_terminal_would_obey_is_not_shown():
    assert shown(f"a\n{ESCAPE}b\t\x07") == "a⏎ [31mb  "
