"""Signals of one event are one, and stopping in time where no signal can be taken."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from jpllm.training.callbacks import StopInTime


def test_in_a_thread_the_handlers_stay_as_they_are():
    """Python lets only the main thread set them, and the launcher for TPUs calls a recipe in another one."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    stop = StopInTime(max_hours=1.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stop.on_train_begin, None, None, None).result()
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
        pool.submit(stop.on_train_end, None, None, None).result()
    assert stop.reason is None


SENDER = """
import os, signal, sys, time
from jpllm.training.callbacks import StopInTime
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
StopInTime(max_hours=None).on_train_begin(None, None, None)
for word in sys.argv[1:]:
    os.kill(os.getpid(), signal.Signals[word]) if word.startswith("SIG") else time.sleep(float(word))
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (["SIGTERM", "SIGTERM", "SIGHUP"], 7),  # `timeout` and a service manager send several at once
        (["SIGHUP", "1.2", "SIGHUP", "SIGUSR2"], 7),  # a shell sends its own after that of the terminal
        (["SIGUSR2", "1.2", "SIGTERM"], -signal.SIGTERM),
        (["SIGTERM", "1.2", "SIGINT"], -signal.SIGINT),
    ],
)
def test_only_a_person_who_asks_again_stops_at_once(sent, code):
    done = subprocess.run([sys.executable, "-c", SENDER, *sent], capture_output=True, text=True, timeout=100)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("stopping after this step") == 1
