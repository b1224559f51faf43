"""Run a command: errors and exit codes, ranks and devices, work on all cores, and progress."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jpllm import streams, terminal, xla
from jpllm.processes import Ended, WorkerPool, end_with_launcher, ending_by_signals

if TYPE_CHECKING:
    import torch
    from rich.text import Text

EXIT_BAD_INPUT = 2
EXIT_STOPPED_EARLY = 75  # EX_TEMPFAIL of sysexits.h: the same command, later, goes on
_GIT_SECONDS = 10
_FULL_DISK_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_DISK_WORDS = (*map(os.strerror, _FULL_DISK_NUMBERS), *(f"os error {number}" for number in _FULL_DISK_NUMBERS))
_FULL_DISK_WORDS += ("file write failed", "PytorchStreamWriter failed", "iostream error")  # of PyTorch
STARTED_SECONDS = time.monotonic()  # by the clock of `time.monotonic`


class InputError(ValueError):
    """Raised when something that the user gave cannot be used.

    The message names the file, line or key, the value, and the fix. Commands print it without a traceback and exit
    with code 2 (see `run_command`).
    """


class UnusableRow(InputError):
    """Raised when one row of the data cannot be used; others may be.

    Attributes:
        reason: a fixed phrase, which counts are kept of.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Diverged(InputError):
    """Raised when a loss, a weight or a gradient of a training is no longer finite."""


class StoppedEarly(Exception):
    """Raised when work was stopped early and saved; the same command continues it. Commands exit with code 75."""


def run_command(command: Callable[[], object]) -> int:
    """Run `command` and return its exit code; an error of the user becomes one message instead of a traceback.

    The code is 0 when the command returns, 2 after an `InputError`, a file that cannot be used or a disk without room,
    75 when the command was stopped early with its work saved, 130 on Ctrl-C, 143 on SIGTERM and 129 on SIGHUP. Any
    other exception is a bug and propagates.
    """
    streams.hold_out()
    try:
        with ending_by_signals():
            return _exit_code(command)
    except Ended as end:
        print(f"ended: {end.reason}", file=sys.stderr)
        return end.exit_code


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
        _destroy_process_group()
    except InputError as error:
        terminal.write(f"error: {error}", to_stderr=True)
        return EXIT_BAD_INPUT
    except StoppedEarly as stop:
        terminal.write(str(stop), to_stderr=True)
        _destroy_process_group()
        return EXIT_STOPPED_EARLY
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BaseException as error:
        if full := full_disk(error):
            message = f"{full}; make room, then run the same command again"
        elif isinstance(error, OSError):
            reason = error.strerror or str(error) or type(error).__name__
            message = f"{error.filename}: {reason}" if error.filename else reason
        elif _is_of_safetensors(error) or str(error).startswith("embedded null "):  # Python's words for a path with NUL
            message = str(error)
        elif is_panic(error):
            message = f"tokenizers gave up on a text: {error}; take another tokenizer"
        else:
            raise
        terminal.write(f"error: {message}", to_stderr=True)
        return EXIT_BAD_INPUT
    return 0


def full_disk(error: BaseException | None) -> str | None:
    """Return what an error says where it comes from a disk without room, or a quota; None for another error.

    A failed write does not know the name of its file, PyTorch and safetensors raise errors of their own, and what is
    raised while a file is closed hides the first one.
    """
    while error is not None:
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno in _FULL_DISK_NUMBERS:
            return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        if any(words in text for words in _FULL_DISK_WORDS):
            return f"a file could not be written ({text:.200})"
        error = error.__cause__ or error.__context__
    return None


def is_panic(error: BaseException) -> bool:
    """Return whether tokenizers gave up on something that it is not ready for; its panic is no Exception."""
    return type(error).__name__ == "PanicException"


def _is_of_safetensors(error: BaseException) -> bool:
    """Return whether a file of weights could not be read or written: safetensors has an error of its own for that."""
    library = sys.modules.get("safetensors")
    return library is not None and isinstance(error, library.SafetensorError)


def run_recipe(main: Callable[[], object]) -> None:
    """Run a recipe's `main` and end the process with its exit code (see `run_command`).

    accelerate's launcher for TPUs calls this through the recipe's `launch`, in each process that it starts.
    """
    end_with_launcher()
    if xla.is_launched():
        xla.take_rank()
    if code := run_command(main):
        sys.exit(code)


def _destroy_process_group() -> None:
    """Destroy the process group of `torch.distributed`, if there is one, after the work has ended well.

    The group's threads sometimes abort a process that ends while the group exists. A process that failed does not call
    this: the others may be waiting for it, and its exit code makes the launcher end them.
    """
    distributed = sys.modules.get("torch.distributed")  # a command without torch does not import it
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def process_rank() -> int:
    """Return the rank of this process among all that the launcher started (0 without a launcher)."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """Return the number of processes that the launcher started on all machines together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this is the process that prints, writes metrics and saves."""
    return process_rank() == 0


def is_first_on_machine() -> bool:
    """Return whether this is the process that does what is to be done once on each machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def configure_logging() -> None:
    """Send log lines of the main process to stderr, and only warnings of the other processes."""
    level = logging.INFO if is_main_process() else logging.WARNING
    lines = logging.StreamHandler()
    lines.setFormatter(terminal.LogFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[lines], level=logging.WARNING, force=True)
    logging.getLogger("jpllm").setLevel(level)
    hide_kernels()


def hide_kernels() -> None:
    """Have no library take compiled code from the Hub, which nobody has looked at, with the package `kernels`.

    bitsandbytes (0.50) does so on some CPUs when it is imported, peft imports it, and Trainer peft.
    """
    sys.modules["kernels"] = None  # ty: ignore[invalid-assignment]  # what Python takes for: not installed
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it would say that the package is missing


def announce(message: str | Text) -> None:
    """Print a result to stdout, in the main process only; progress and warnings go to stderr instead."""
    if not is_main_process():
        return
    if isinstance(message, str):
        terminal.write(message)
    else:
        terminal.console(highlight=False).print(message, soft_wrap=True)


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on; absent packages are left out."""
    import importlib.metadata
    import platform

    from jpllm import __version__

    found = {"jpllm": __version__, "python": platform.python_version()}
    for name in (
        "torch",
        "torch_xla",
        "transformers",
        "accelerate",
        "deepspeed",
        "tokenizers",
        "sentencepiece",
        "datasets",
        "lm_eval",
    ):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of this package's checkout, with -dirty where files have changed; None if it is installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # a repository around it, as around an environment, is not its own
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def device() -> torch.device:
    """Return where this process computes: its XLA device, its CUDA GPU, or the CPU, which a launcher can ask for."""
    import torch

    if xla.is_launched():
        return xla.device()
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return torch.device("cuda" if torch.cuda.is_available() and not wants_cpu else "cpu")


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Give PyTorch the cores of this machine, shared by the processes that the launcher started on it.

    `accelerate launch` sets OMP_NUM_THREADS=1 when it starts one process on a CPU, which leaves the other cores idle.
    """
    import torch

    torch.set_num_threads(max(1, num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@contextmanager
def progress_bar(description: str, *units: str) -> Generator[Callable[..., None]]:
    """Show the progress of long work: a bar with counts, rate and time left on a terminal, one last line in a log.

    Yields `update(done, total, **counts)`: `done` of `total` (None when unknown) drives the bar, `counts` adds to the
    number shown for each of `units`; the rate is given in the last unit.
    """
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = terminal.console(stderr=True)
    counted = dict.fromkeys(units, 0)
    started = time.monotonic()

    def summary() -> str:
        seconds = max(time.monotonic() - started, 1e-9)
        totals = ", ".join(f"{count:,} {unit}" for unit, count in counted.items())
        return f"{totals}, {counted[units[-1]] / seconds:,.0f} {units[-1]}/s"

    description = terminal.on_one_line(description)
    texts = [TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[summary]}")]
    with Progress(
        *(SpinnerColumn(), texts[0], BarColumn(), texts[1]),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal and is_main_process()),
    ) as progress:
        task = progress.add_task(description, total=None, summary="")
        shown = 0.0

        def update(done: float, total: float | None, **counts: int) -> None:
            nonlocal shown
            for unit, count in counts.items():
                counted[unit] += count
            if time.monotonic() - shown > 0.1:  # formatting for every document would cost more than reading it
                shown = time.monotonic()
                progress.update(task, completed=done, total=total, summary=summary())

        yield update
    logging.getLogger(__name__).info("%s: %s", description, summary())


Item = TypeVar("Item")
Result = TypeVar("Result")
_ITEMS_AHEAD = 2  # per process


def map_in_order(work: Callable[[Item], Result], items: Iterator[Item], processes: int = 0) -> Iterator[Result]:
    """Yield `work(item)` of each item, in several processes (0 is one per core), reading only a few items ahead.

    Raises:
        InputError: one of the processes was killed.
    """
    processes = processes or num_cores()
    head = list(islice(items, 2))
    if processes == 1 or len(head) < 2:  # not worth starting processes
        yield from map(work, chain(head, items))
        return
    waiting: deque[Future[Result]] = deque()
    try:
        with WorkerPool(processes) as pool:
            for item in chain(head, items):
                waiting.append(pool.submit(work, item))
                if len(waiting) > _ITEMS_AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a process that shares this work was killed, as where memory runs out; use fewer of them (processes)"
        ) from None
