"""`jpllm watch`: show a run in the terminal while it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import terminal
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from jpllm.tracking.watch.status import RunReader


@dataclass
class WatchConfig:
    """Watching"""

    run: list[Path] = option(REQUIRED, "Folder of the run.")
    once: bool = option(False, "Print how it stands and end; so it is where the output is no terminal.")
    wait: bool = option(False, "Wait for a run that has not begun yet.")
    seconds: float = option(2.0, "Seconds between two looks.", minimum=0.1)

    def check(self) -> Iterator[tuple[str, str]]:
        """Yield problems: not exactly one run, or one that is both shown once and waited for."""
        if len(self.run) != 1:
            yield "run", "name one run folder; jpllm compare shows several"
        if self.once and self.wait:
            yield "wait", "once looks a single time; remove one of both"


def watch(argv: Sequence[str]) -> None:
    """Watch a run: progress, curves, memory, samples and warnings."""
    (settings,) = parse(
        [WatchConfig],
        argv,
        prog="jpllm watch",
        description=f"{watch.__doc__} Example: jpllm watch runs/NAME. Ctrl-C ends it, not the run.",
        positional="run",
    )
    from jpllm.tracking.watch.status import RunReader

    (folder,) = settings.run
    if not settings.wait:
        refuse_what_is_no_run(folder)
    console, reader = terminal.console(), RunReader(folder)
    if settings.once or not console.is_terminal:
        print_frame(reader, console)
    else:
        follow(reader, console, settings.seconds)


def refuse_what_is_no_run(folder: Path) -> None:
    """Raise InputError where there is no run to watch."""
    from jpllm.tracking.runs import CONFIG_NAME

    if not folder.exists():
        raise InputError(f"run: no folder {folder}; --wait waits for it to begin")
    if not (folder / CONFIG_NAME).is_file():
        raise InputError(f"run: {folder} is no folder of a run: it has no {CONFIG_NAME}; --wait waits for it")


def follow(reader: RunReader, console: Console, seconds: float) -> None:
    """Show the run until it is finished; the last frame stays on the terminal."""
    from rich.live import Live

    from jpllm.tracking.watch.frame import frame

    def now():
        status = reader.read()
        return status, (status.shown, console.size)

    try:
        status, shown = now()
        with Live(frame(status, *console.size), console=console, screen=True, auto_refresh=False) as live:
            while status.state != "finished":
                time.sleep(seconds)
                before, (status, shown) = shown, now()
                if shown != before:
                    live.update(frame(status, *console.size), refresh=True)
    finally:
        print_frame(reader, console)


def print_frame(reader: RunReader, console: Console) -> None:
    """Print how the run stands."""
    from jpllm.tracking.watch.frame import frame

    console.print(frame(reader.read(), *console.size), highlight=False)
