"""A process of several that hangs: it is named while the others wait for it, and they end in time.

Processes that train together wait for each other in every step. Where one is stopped, or its machine is gone, the
others would wait without a word until the communication between them gives up, and then say where they stood, not for
whom.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback

from jpllm import xla

FOLDER_NAME = ".alive"  # in the run folder, which all machines share
_BEATS_PER_TIMEOUT = 60
_WARNING_SHARE, _END_SHARE = 0.5, 0.9  # of the timeout; at its end the communication itself fails, with less to say
logger = logging.getLogger(__name__)


@dataclass
class _Seen:
    """The newest sign of life of a process, and when it was first seen by the clock of this one."""

    sign: str
    seconds: float


class HangWatch(TrainerCallback):
    """Writes signs of life in a thread while training, and watches those of the other processes.

    A sign says how far the training has come in that process. After half the timeout a process without one, or behind
    all others, is named; after nine tenths one without ends this process, and is killed where it is on this machine.
    """

    def __init__(self, output_dir: Path, timeout_seconds: float, rank: int, num_ranks: int) -> None:
        self._folder, self._timeout = output_dir / FOLDER_NAME, timeout_seconds
        self._rank, self._num_ranks = rank, num_ranks
        self._num_events = self._num_beats = 0
        self._seen: dict[int, _Seen] = {}
        self._named: set[int] = set()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        if self._num_ranks > 1 and not xla.is_launched():
            self._folder.mkdir(exist_ok=True)
            self._give_sign()  # before the first step, in which another one may wait for this process
            self._thread = threading.Thread(target=self._watch, name="hangs", daemon=True)
            self._thread.start()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._is_over.set()
        if self._thread:
            self._thread.join()
            self._file(self._rank).unlink(missing_ok=True)
            with suppress(OSError):  # not empty: the last one removes it
                self._folder.rmdir()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._num_events += 1

    on_substep_end = on_pre_optimizer_step = on_step_end = on_evaluate = on_save = on_step_begin

    def _watch(self) -> None:
        pause = self._timeout / _BEATS_PER_TIMEOUT
        before = progress_at = time.monotonic()
        num_events = 0
        while not self._is_over.wait(pause):
            now = time.monotonic()
            if now - before > self._timeout * _WARNING_SHARE / 2:  # this process, or the whole machine, was stopped
                self._seen.clear()
                progress_at = now
            before = now
            if self._num_events != num_events:
                num_events, progress_at = self._num_events, now
            self._give_sign()
            self._look(now)
            self._judge(now, now - progress_at)

    def _give_sign(self) -> None:
        self._num_beats += 1
        file = self._file(self._rank)
        sign = f"{self._num_events} {self._num_beats} {os.getpid()} {platform.node()}"
        try:
            file.write_text(sign, encoding="utf-8")
        except OSError:  # without room; one without a file is not judged
            with suppress(OSError):
                file.unlink()

    def _look(self, now: float) -> None:
        for rank in range(self._num_ranks):
            try:
                sign = self._file(rank).read_text(encoding="utf-8")
            except (OSError, ValueError):
                sign = ""
            if not sign or rank not in self._seen or self._seen[rank].sign != sign:
                self._seen[rank] = _Seen(sign, now)

    def _judge(self, now: float, waited_seconds: float) -> None:
        """Name those that the others wait for, once, and end this process where that has no hope."""
        silent_seconds = {rank: now - seen.seconds for rank, seen in self._seen.items()}
        silent = [rank for rank, seconds in silent_seconds.items() if seconds >= self._timeout * _WARNING_SHARE]
        gone = [rank for rank in silent if silent_seconds[rank] >= self._timeout * _END_SHARE]
        speaks = self._rank == min(set(self._seen) - set(silent), default=self._rank)
        if gone and waited_seconds >= self._timeout * _WARNING_SHARE:
            if speaks:
                seconds = max(silent_seconds[rank] for rank in gone)
                print(
                    f"error: {self._words(gone)} gave no sign of life for {seconds:.0f} s; the others end "
                    "(ddp_timeout). The same command goes on from the last checkpoint",
                    file=sys.stderr,
                    flush=True,
                )
            for rank in gone:
                self._kill_here(rank)
            os._exit(1)
        late = [] if silent or waited_seconds < self._timeout * _WARNING_SHARE else self._behind()
        new = [rank for rank in (*silent, *late) if rank not in self._named]
        self._named = {*silent, *late}
        if new and speaks:
            what = "has given no sign of life" if silent else "is behind the others, which have waited"
            logger.warning(
                "%s %s for %.0f s: was it stopped, does it wait for a disk, or is its machine gone? The run ends after "
                "%g s (ddp_timeout)",
                *(self._words(new), what, self._timeout * _WARNING_SHARE, self._timeout),
            )

    def _kill_here(self, rank: int) -> None:
        """Kill a process that was stopped, if it is on this machine: it would stay where its launcher is gone too."""
        sign = self._seen[rank].sign.split(maxsplit=3)
        if sign[3:] == [platform.node()]:
            with suppress(OSError):
                command = Path(f"/proc/{sign[2]}/cmdline").read_bytes()
                if command == Path("/proc/self/cmdline").read_bytes():  # the number is not another's
                    os.kill(int(sign[2]), signal.SIGKILL)

    def _behind(self) -> list[int]:
        events = {rank: int(seen.sign.split()[0]) for rank, seen in self._seen.items() if seen.sign[:1].isdigit()}
        return [rank for rank, number in events.items() if number < max(events.values())]

    def _words(self, ranks: Sequence[int]) -> str:
        """Return rank, process and machine of each."""
        named = []
        for rank in ranks:
            sign = self._seen[rank].sign.split(maxsplit=3)
            named.append(f"rank {rank}" + (f" (process {sign[2]} on {sign[3]})" if len(sign) == 4 else ""))
        return " and ".join(named)

    def _file(self, rank: int) -> Path:
        return self._folder / str(rank)
