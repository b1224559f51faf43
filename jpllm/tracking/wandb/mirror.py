"""Mirror a run folder to Weights & Biases. The folder stays the record; the mirror may fail.

W&B works in a process of its own (`jpllm.tracking.wandb.process`), which reads what the run writes to its folder. The
training hands nothing over and waits for nothing, so a network that hangs, an error or a crash there costs it nothing.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from jpllm import whole_files
from jpllm.runtime import InputError
from jpllm.tracking.metrics import METRICS_NAME, SAMPLES_NAME
from jpllm.tracking.wandb import content

ID_NAME = "wandb_run_id"
_MAX_ID_CHARACTERS = 200
CLOSING_SECONDS = 60  # for what is on its way when a run ends
_GRACE_SECONDS = 5  # the process ends itself in time
# The folder that the training was started in, which Python searches first for a -c or -m, may hold a json.py.
_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from jpllm.tracking.wandb.process import main; main()"
logger = logging.getLogger(__name__)


class WandbMirror:
    """The mirror of a run folder at W&B; a run that goes on after an interruption goes on there too.

    Without a login or a network, or with `WANDB_MODE=offline`, all is written to `output_dir/wandb` for `wandb sync`.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, output_dir: Path, settings: Mapping[str, object]) -> None:
        """Prepare a mirror whose configuration is `settings`, see `content.settings`."""
        refuse_without_wandb()
        self._output_dir, self._settings = output_dir, dict(settings)
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Mirror what is added to the folder from now on; returns at once."""
        files = {name: self._output_dir / name for name in (METRICS_NAME, SAMPLES_NAME)}
        offsets = {name: file.stat().st_size if file.exists() else 0 for name, file in files.items()}
        self._process = _start(self._output_dir, {"settings": self._settings, "offsets": offsets})

    def stop(self) -> None:
        """Wait for what is on its way, at most about a minute."""
        if self._process:
            _end(self._process)


def refuse_without_wandb() -> None:
    """Raise InputError where wandb is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise InputError("report_to: wandb needs the package: pip install 'jpllm[wandb]'")


def mirrored_run(model: Path) -> Path:
    """Return the run folder that a model lies in.

    Raises:
        InputError: it is in none that is mirrored, or wandb is not installed.
    """
    refuse_without_wandb()
    folder = model.resolve().parent
    if not known_id(folder):
        raise InputError(f"report_to: {model} is not the model of a run that was mirrored to W&B; remove report_to")
    return folder


def send_evaluation(folder: Path, results: Mapping[str, object]) -> None:
    """Add the tables of an `evaluation.json` to the mirrored run of a folder; waits for about a minute at most."""
    _end(_start(folder, {"tables": content.evaluation_tables(results)}))


def send_card(folder: Path, card: Path) -> None:
    """Add the model card, a Markdown file, to the mirrored run of a folder as an artifact; waits likewise."""
    _end(_start(folder, {"card": str(card.resolve())}))


def _start(folder: Path, job: Mapping[str, object]) -> subprocess.Popen | None:
    """Start the process and give it the job; None where it cannot be started."""
    try:
        mode, reason = _mode()
        common = {"folder": str(folder.resolve()), "id": _id(folder), "mode": mode, "seconds": CLOSING_SECONDS}
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the training, which then ends the mirror in peace
        )
        _tell(process, json.dumps(common | dict(job)))
    except (OSError, ImportError) as error:
        logger.warning("wandb: not started: %s; the rows are in the run folder", error)
        return None
    logger.info("wandb: %s, %s", mode, reason)
    threading.Thread(target=_pass_on_warnings, args=[process], name="wandb", daemon=True).start()
    return process


def has_login() -> bool:
    """Return whether there is a key for the server of W&B."""
    from requests.utils import get_netrc_auth

    return bool(os.environ.get("WANDB_API_KEY") or get_netrc_auth(_server()))


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def _mode() -> tuple[str, str]:
    """Return the mode of `wandb.init`, and why it is that one."""
    if asked := os.environ.get("WANDB_MODE"):
        return asked, "as WANDB_MODE says"
    if has_login():
        return "online", f"with the login for {_server()}"
    return "offline", f"as there is no login for {_server()}: written to files for wandb sync"


def known_id(folder: Path) -> str | None:
    """Return the id that the run of a folder has at W&B; None where it has no whole one yet."""
    file = folder / ID_NAME
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="replace") as stream:
        found = stream.read(_MAX_ID_CHARACTERS).strip()
    return found if re.fullmatch(r"[\w-]+", found, re.ASCII) else None


def _id(folder: Path) -> str:
    """Return the id that the run of a folder has at W&B; a new one is made and kept where there is none."""
    found = known_id(folder)
    if not found:
        found = secrets.token_hex(4)
        whole_files.write_whole(folder / ID_NAME, found)
    return found


def _end(process: subprocess.Popen | None) -> None:
    if process is None:
        return
    _tell(process, "end")
    try:
        process.wait(CLOSING_SECONDS + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tell(process: subprocess.Popen, line: str) -> None:
    try:
        assert process.stdin is not None, "`_start` made a pipe"
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:  # it is gone, and has said why
        pass


def _pass_on_warnings(process: subprocess.Popen) -> None:
    """Log what the process warns of until it ends; one that fails without a word is named too."""
    has_said = False
    for line in process.stdout or ():
        logger.warning("wandb: %s", line.strip())
        has_said = True
    code = process.wait()
    if code and not has_said:
        logger.warning("wandb: ended with code %d; nothing more is mirrored, the rows are in the run folder", code)
