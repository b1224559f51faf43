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
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
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
        for process in one.processes or [psutil.Process(one.launched.pid)] if one.launched.poll() is None else []:
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
