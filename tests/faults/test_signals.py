"""Signals to a training and to its launcher, as people and machines send them: a checkpoint, and no process left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.small_runs import obey_signals

ROOT = Path(__file__).resolve().parents[2]
RECIPE = str(ROOT / "recipes" / "pretrain_scratch.py")
ALONE = [sys.executable]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
TWO = ["--config_file", str(ROOT / "accelerate_configs" / "multi_gpu.yaml"), "--num_processes", "2"]
TWO += ["--main_process_port", "0"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SETTINGS = {
    "model": "gpt2-tiny",
    "sequence_length": 64,
    "tokens": 100_000_000,  # none of these runs comes to its end
    "per_device_train_batch_size": 2,
    "held_out_fraction": 0.05,
    "held_out_bytes": 5_000,
    "logging_steps": 1,
    "eval_steps": 1_000_000,
    "save_steps": 1_000_000,  # the only checkpoints are those of a stop
    "max_new_tokens": 2,
    "precision": "fp32",
}
BEGINNING_SECONDS, END_SECONDS = 150, 60


class Run:
    """A training in processes of its own, in a session of its own."""

    def __init__(self, folder, launcher, settings):
        self.folder, self.log = folder / "run", folder / "log"
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        with self.log.open("w") as log:
            self.launched = subprocess.Popen(
                [*launcher, RECIPE, *words, "--output_dir", str(self.folder), "--shards_dir", str(folder / "shards")],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=obey_signals,
            )
        self.processes = []

    def step(self):
        file = self.folder / "metrics.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    def wait_for_step(self, step):
        deadline = time.monotonic() + BEGINNING_SECONDS
        while self.step() < step:
            assert self.launched.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)
        launcher = psutil.Process(self.launched.pid)
        self.processes = [launcher, *launcher.children(recursive=True)]

    @property
    def recipes(self):
        """The processes that train, in the order of their ranks."""
        found = [process for process in self.processes[1:] if RECIPE in process.cmdline()]
        return sorted(found, key=lambda process: int(process.environ().get("RANK", "0")))

    def wait_for_end(self, seconds=END_SECONDS):
        """Wait until the launcher and all processes that it had have ended; return the launcher's exit code."""
        code = self.launched.wait(seconds)
        _, alive = psutil.wait_procs(self.processes, seconds)
        assert alive == [], self.log.read_text()[-3000:]
        return code

    def checkpoint(self):
        """The step of the only checkpoint, which has to be a whole one."""
        (folder,) = (self.folder / "checkpoints").glob("checkpoint-*")
        assert (folder / "manifest.json").is_file()
        return int(folder.name.removeprefix("checkpoint-"))

    def is_free(self):
        """Whether no process holds the folder."""
        import filelock

        try:
            with filelock.FileLock(self.folder / ".lock", timeout=0):
                return True
        except filelock.Timeout:
            return False


@pytest.fixture
def begin(corpus_file, tokenizer_dir, tmp_path):
    """Start a training; whatever is left of it after the test is killed."""
    begun = []

    def run(launcher, **changes):
        settings = SETTINGS | {"sources": corpus_file, "tokenizer": tokenizer_dir} | changes
        begun.append(Run(tmp_path, launcher, settings))
        return begun[-1]

    yield run
    for one in begun:
        if one.launched.poll() is None:
            launcher = psutil.Process(one.launched.pid)
            one.processes += [*launcher.children(recursive=True), launcher]
        for process in one.processes:
            if process.is_running():
                process.kill()
        one.launched.wait()


def in_the_terminal(run, number):
    """Send a signal to all processes of the launcher's group, as a terminal does."""
    os.killpg(run.launched.pid, number)


def to_the_launcher(run, number):
    run.launched.send_signal(number)


STOPS = [
    # how it is launched, who is told, the signal, what the launcher ends with
    pytest.param(ALONE, to_the_launcher, signal.SIGTERM, 75, id="python-TERM"),
    pytest.param(ALONE, to_the_launcher, signal.SIGHUP, 75, id="python-HUP"),
    pytest.param(ALONE, to_the_launcher, signal.SIGINT, 75, id="python-INT"),
    pytest.param(ACCELERATE, to_the_launcher, signal.SIGTERM, -signal.SIGTERM, id="accelerate-TERM"),
    pytest.param(ACCELERATE, in_the_terminal, signal.SIGHUP, -signal.SIGHUP, id="accelerate-terminal-HUP"),
    pytest.param(ACCELERATE, in_the_terminal, signal.SIGINT, -signal.SIGINT, id="accelerate-terminal-INT"),
    pytest.param(ACCELERATE, to_the_launcher, signal.SIGKILL, -signal.SIGKILL, id="accelerate-KILL"),
    pytest.param([*ACCELERATE, *TWO], to_the_launcher, signal.SIGTERM, 1, id="accelerate-2-TERM"),
    pytest.param([*ACCELERATE, *TWO], to_the_launcher, signal.SIGKILL, -signal.SIGKILL, id="accelerate-2-KILL"),
    pytest.param(TORCHRUN, to_the_launcher, signal.SIGHUP, 1, id="torchrun-2-HUP"),
    pytest.param(TORCHRUN, to_the_launcher, signal.SIGINT, 1, id="torchrun-2-INT"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "send", "number", "code"), STOPS)
def test_a_checkpoint_and_no_process_left(begin, launcher, send, number, code):
    run = begin(launcher)
    run.wait_for_step(3)
    send(run, number)
    assert run.wait_for_end() == code, run.log.read_text()[-3000:]
    assert run.checkpoint() >= 3
    assert run.is_free()
    assert "the same command goes on" in run.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "send", "number", "code"),
    [
        pytest.param(ALONE, in_the_terminal, signal.SIGINT, 75, id="python-terminal-INT"),
        pytest.param(TORCHRUN, to_the_launcher, signal.SIGTERM, 1, id="torchrun-2-TERM"),
    ],
)
def test_processes_that_read_ahead_get_the_signal_too(begin, launcher, send, number, code):
    run = begin(launcher, dataloader_num_workers=2)
    run.wait_for_step(3)
    assert len(run.processes) >= 3
    send(run, number)
    assert run.wait_for_end() == code, run.log.read_text()[-3000:]
    assert run.checkpoint() >= 3
    log = run.log.read_text()
    assert log.count("stopping after this step") == (1 if launcher is ALONE else 2)
    assert "DataLoader" not in log


@pytest.mark.slow
def test_nohup_outlives_the_terminal(begin, tmp_path):
    run = begin(["nohup", sys.executable])
    run.wait_for_step(3)
    in_the_terminal(run, signal.SIGHUP)
    step = run.step()
    run.wait_for_step(step + 3)
    in_the_terminal(run, signal.SIGTERM)
    assert run.wait_for_end() == 75
    assert run.checkpoint() > step


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_wait_for_another_end_too(begin, number):
    """No Python runs while PyTorch waits for a process that never comes, as one of another machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", "1"]
    run = begin([*launcher, "--master_port", "29501", str(ROOT / "tests" / "faults" / "waiting_process.py")])
    deadline = time.monotonic() + BEGINNING_SECONDS
    while "waiting" not in run.log.read_text():
        assert time.monotonic() < deadline, run.log.read_text()
        time.sleep(0.05)
    launched = psutil.Process(run.launched.pid)
    run.processes = [launched, *launched.children(recursive=True)]
    time.sleep(1)
    run.launched.send_signal(number)
    run.wait_for_end(20)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_is_named_in_time(begin, rank):
    run = begin([*ACCELERATE, *TWO], ddp_timeout=20)
    run.wait_for_step(3)
    hanging = run.recipes[rank]
    hanging.suspend()
    stopped = time.monotonic()
    name = f"rank {rank} (process {hanging.pid} on {os.uname().nodename})"
    while f"error: {name} gave no sign of life" not in run.log.read_text():
        assert time.monotonic() - stopped < 20, run.log.read_text()[-3000:]
        time.sleep(0.1)
    assert f"{name} has given no sign of life for 10 s" in run.log.read_text()
    assert run.wait_for_end() == 1  # the launcher gives the one that hangs 30 seconds
    assert run.is_free()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_with_their_command(corpus_file, tokenizer_dir, tmp_path, number):
    """Also in the moment in which they start, where each would answer Ctrl-C with a traceback."""
    lines = corpus_file.read_text(encoding="utf-8").splitlines()
    many = tmp_path / "many.jsonl"
    texts = (json.loads(line)["text"] + str(copy) for copy in range(60) for line in lines)
    many.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    command = [sys.executable, "-m", "jpllm.cli", "data", "dedup", "--sources", str(many), "--processes", "2"]
    with subprocess.Popen(
        [*command, "--output_dir", str(tmp_path / "out")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=obey_signals,
    ) as process:
        parent = psutil.Process(process.pid)
        while not (workers := [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        if number == signal.SIGKILL:
            time.sleep(1)
            process.kill()
        else:
            os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
    _, alive = psutil.wait_procs(workers, 10)
    assert alive == []
    if number == signal.SIGKILL:  # Python's tracker of semaphores tells what it removes
        assert "Traceback" not in errors
    else:
        assert errors == ("interrupted\n" if number == signal.SIGINT else f"ended: {number.name} received\n")
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert not (tmp_path / "out").exists()
