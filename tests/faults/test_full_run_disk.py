"""A disk that is full while a run writes to it: a checkpoint is left out, and anything else can be done again."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.faults import small_runs
from tests.faults.small_runs import SCRATCH, log, outcome, rows

FILLER = Path("disk/filler")
SETTINGS = SCRATCH | {"output_dir": "disk/run", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return small_runs.inputs_and_run(tmp_path_factory.mktemp("inputs"), output_dir="whole", learning_rate=0.01)


@pytest.fixture
def folder(inputs, tmp_path):
    """The inputs, and a small file system of its own, `disk`."""
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here; that takes root")
    yield tmp_path
    subprocess.run(["umount", str(disk)], check=True)


def fill(free_bytes: int) -> None:
    """Leave so many bytes of the disk, in pages of 4 kB."""
    with FILLER.open("ab") as stream:
        os.posix_fallocate(stream.fileno(), 0, stream.tell() + max(shutil.disk_usage("disk").free - free_bytes, 1))


def fill_at(method: str, free_bytes: int, step: int = 3, module: str = "trainer", then_empty: bool = True) -> None:
    """Have the disk full while a method of the training, or a function of the proof, is at work at a step."""
    from jpllm.training import early_stopping, proof
    from jpllm.training.trainer import BaseTrainer

    BaseTrainer._has_room = lambda self: True  # what it looked at is gone when the file is written
    owner = {"trainer": BaseTrainer, "best": early_stopping.EarlyStopping, "proof": proof}[module]
    usual = getattr(owner, method)

    def while_full(first, *args, **kwargs):
        trainer = getattr(first, "_trainer", first)
        if trainer.state.global_step != step:
            return usual(first, *args, **kwargs)
        fill(free_bytes)
        found = usual(first, *args, **kwargs)
        if then_empty:
            FILLER.unlink()
        return found

    setattr(owner, method, while_full)


# Of about 130 kB: nothing; the weights cut; the optimizer's states; the random numbers; the state of Trainer; the
# manifest, which is written last.
@pytest.mark.parametrize("free_kb", [0, 8, 40, 88, 96, 100, 104, 108, 112])
def test_a_checkpoint_without_room_is_left_out(folder, free_kb):
    arrange = partial(fill_at, "_save_checkpoint", free_kb * 1024)
    assert small_runs.run(folder, SETTINGS, arrange=arrange) == 0, log(folder)
    printed = log(folder)
    assert "step 3: no checkpoint written:" in printed
    assert "make room, training goes on" in printed
    assert "Traceback" not in printed
    assert outcome(folder / "disk" / "run") == outcome(folder / "whole")
    assert not (folder / "disk" / "run" / "checkpoints" / "partial").exists()


def test_without_room_at_the_only_checkpoint_a_stop_keeps_the_one_before(folder):
    arrange = partial(fill_at, "_save_checkpoint", 0, 6)
    assert small_runs.run(folder, SETTINGS, "7", arrange=arrange) == -9
    kept = folder / "disk" / "run" / "checkpoints"
    assert sorted(path.name for path in kept.glob("checkpoint-*")) == ["checkpoint-3"]
    assert list((kept / "partial").iterdir()) == []
    assert small_runs.run(folder, SETTINGS) == 0
    assert outcome(folder / "disk" / "run") == outcome(folder / "whole")


@pytest.mark.parametrize("free_kb", [0, 4, 12, 24, 28])
def test_the_final_model_without_room(folder, free_kb):
    arrange = partial(fill_at, "_save", free_kb * 1024, 12, "proof")
    assert small_runs.run(folder, SETTINGS, arrange=arrange) == 2, log(folder)
    ends_in_one_message(folder)
    run = folder / "disk" / "run"
    assert {path.name for path in run.iterdir()}.isdisjoint({"model", "model.unproved", "results.json"})
    (folder / FILLER).unlink()
    assert small_runs.run(folder, SETTINGS) == 0
    assert rows(run) == rows(folder / "whole")


@pytest.mark.parametrize("free_kb", [0, 4, 20])
def test_the_best_model_without_room(folder, free_kb):
    settings = SETTINGS | {"early_stopping_evals": 5, "learning_rate": 0.005}
    arrange = partial(fill_at, "_save", free_kb * 1024, 6, "best")
    assert small_runs.run(folder, settings, arrange=arrange) == 2, log(folder)
    ends_in_one_message(folder)
    run = folder / "disk" / "run"
    assert not (run / "best.unfinished").exists()
    (folder / FILLER).unlink()
    assert small_runs.run(folder, settings) == 0, log(folder)
    assert small_runs.run(folder, settings | {"output_dir": "best"}) == 0
    assert outcome(run) == outcome(folder / "best")


@pytest.mark.parametrize("free_kb", [0, 4, 8])
def test_the_first_files_without_room(folder, free_kb):
    assert small_runs.run(folder, SETTINGS, arrange=partial(fill, free_kb * 1024)) == 2, log(folder)
    message = ends_in_one_message(folder)
    assert message.startswith("error: disk/run/")
    assert not [path for path in (folder / "disk").rglob("*") if path.suffix in (".tmp", ".partial")]
    (folder / FILLER).unlink()
    assert small_runs.run(folder, SETTINGS) == 0, log(folder)
    assert outcome(folder / "disk" / "run") == outcome(folder / "whole")


def fill_for_good(step: int) -> None:
    """Have the disk full from the beginning of a step on."""
    from jpllm.training.callbacks import MetricsRecorder

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if state.global_step == step:
            fill(0)

    MetricsRecorder.on_step_begin = on_step_begin


def test_a_row_of_the_metrics_without_room(folder):
    """It does not fit into the page of 4 kB that the file has already."""
    settings = SETTINGS | {"tokens": 1536, "sample_prompts": []}
    assert small_runs.run(folder, settings, arrange=partial(fill_for_good, 5)) == 2, log(folder)
    assert ends_in_one_message(folder).startswith("error: disk/run/metrics.jsonl: No space left on device")
    (folder / FILLER).unlink()
    assert small_runs.run(folder, settings) == 0, log(folder)
    assert [row["step"] for row in rows(folder / "disk" / "run") if "loss" in row] == list(range(1, 25))


def ends_in_one_message(folder) -> str:
    """The last line of the log, which says what to do."""
    printed = log(folder)
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert last.endswith("; make room, then run the same command again")
    return last
