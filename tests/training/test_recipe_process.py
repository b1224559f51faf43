"""A recipe in a process of its own: how it ends, and that a signal to the one that waits reaches it once."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from jpllm.runtime import InputError, StoppedEarly
from jpllm.training import jglue_finetuning

LISTENER = """
import signal, sys, time
from pathlib import Path
folder, received = Path(sys.argv[1]), []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: received.append(number))
(folder / "ready").touch()
while not received:
    time.sleep(0.01)
time.sleep(0.3)
(folder / "received").write_text(" ".join(map(str, received)))
sys.exit(75)
"""


def script(folder: Path, text: str) -> list[str]:
    (folder / "recipe.py").write_text(text)
    return [sys.executable, str(folder / "recipe.py"), str(folder)]


def test_ends(tmp_path):
    jglue_finetuning.run_recipe(script(tmp_path, "pass"), tmp_path)
    with pytest.raises(InputError, match=r"recipe\.py ended with exit code 2; it says above why"):
        jglue_finetuning.run_recipe(script(tmp_path, "raise SystemExit(2)"), tmp_path)
    with pytest.raises(StoppedEarly, match="stopped; the same command goes on with it"):
        jglue_finetuning.run_recipe(script(tmp_path, "raise SystemExit(75)"), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        jglue_finetuning.run_recipe(script(tmp_path, "raise SystemExit(130)"), tmp_path)


def test_what_it_prints_goes_to_stderr(tmp_path, capfd):
    jglue_finetuning.run_recipe(script(tmp_path, "print('figures')"), tmp_path)
    assert capfd.readouterr() == ("", "figures\n")


def test_what_a_launcher_set_is_kept_from_it(tmp_path, monkeypatch, capfd):
    """Else it would take itself for a process of that launcher, and meet the others where this one does."""
    of_torchrun = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    of_torchrun += ("GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
    names = (*of_torchrun, "ACCELERATE_USE_CPU", "MY_RANK")
    for name in names:
        monkeypatch.setenv(name, "1")
    lines = f"import os\nprint(*(name for name in {names} if name in os.environ))"
    jglue_finetuning.run_recipe(script(tmp_path, lines), tmp_path)
    assert capfd.readouterr().err.split() == ["ACCELERATE_USE_CPU", "MY_RANK"]


@pytest.fixture
def heeded(request):
    """A background job of a shell ignores Ctrl-C, and hands nothing on that it ignores itself."""
    earlier = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, earlier)


@pytest.mark.parametrize("heeded", [signal.SIGTERM, signal.SIGINT], indirect=True)
def test_a_signal_is_handed_on_once(tmp_path, heeded):
    def send():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), heeded)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(heeded)
    with pytest.raises(StoppedEarly):
        jglue_finetuning.run_recipe(script(tmp_path, LISTENER), tmp_path)
    sender.join()
    assert (tmp_path / "received").read_text() == str(int(heeded))
    assert signal.getsignal(heeded) is before
