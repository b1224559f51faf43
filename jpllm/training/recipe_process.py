"""A recipe in a process of its own, waited for; whoever stops this one stops that one, with a checkpoint."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from jpllm.runtime import EXIT_STOPPED_EARLY, InputError, StoppedEarly

_EXIT_INTERRUPTED = 130
_OF_A_LAUNCHER = re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+")


def run(command: Sequence[str], run_dir: Path) -> None:
    """Wait for a command that works in `run_dir`; what it prints goes to stderr.

    SIGTERM and Ctrl-C are handed on to it. It is in a process group of its own, so that the terminal does not send it
    Ctrl-C a second time, which would end it at once. It is no process of the launcher (torchrun) that started this one,
    whose meeting point it would else take for its own.

    Raises:
        StoppedEarly: it was stopped with a checkpoint.
        KeyboardInterrupt: it was stopped before it had one.
        InputError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if not _OF_A_LAUNCHER.fullmatch(name)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, process_group=0, env=environment) as process:

        def hand_on(number: int, frame: object) -> None:
            process.send_signal(number)

        handlers = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = process.wait()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if code == EXIT_STOPPED_EARLY:
        raise StoppedEarly(f"{run_dir}: stopped; the same command goes on with it")
    if code in (_EXIT_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        raise KeyboardInterrupt
    if code != 0:
        raise InputError(f"{run_dir}: {Path(command[1]).name} ended with exit code {code}; it says above why")
