"""Where a run was computed, kept in its folder: an entry for each start, as a run that goes on may do so elsewhere."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from pathlib import Path

from jpllm import runtime
from jpllm.tracking.runs import ENVIRONMENT_NAME
from jpllm.training import engine, machine

logger = logging.getLogger(__name__)


def add_session(output_dir: Path) -> None:
    """Add this start to `environment.json`."""
    file = output_dir / ENVIRONMENT_NAME
    content = {"sessions": [*_earlier_sessions(file), session()]}
    runtime.write_whole(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def session() -> dict:
    """Time, program, versions and hardware of this process: no path, user, host name or value that was typed."""
    program, *arguments = sys.argv
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "program": Path(program).name,
        "keys": [argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")],
        "commit": runtime.commit(),
        "versions": runtime.versions(),
        "engine": str(engine.requested()),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": machine.cpu_model(),
        "cores": runtime.num_cores(),
        "host_memory_bytes": machine.host_memory_bytes(),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_bytes} for gpu in machine.gpus()],
    }


def _earlier_sessions(file: Path) -> list:
    if not file.exists():
        return []
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["sessions"])
    except (ValueError, KeyError, TypeError):
        logger.warning("%s cannot be read and is begun anew", file)
        return []
