"""DeepSpeed's C++ operators: where they lie compiled, and how a build that was killed does no harm."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

from jpllm.runtime import InputError, is_main_process

FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"  # of PyTorch; where it is set, it is obeyed
PROCESSES = "ShareMemCommBuilder"  # collectives between processes on CPUs; every DeepSpeed run without a GPU loads it
ADAM = "CPUAdamBuilder"  # AdamW in host memory; optimizer offload needs it
logger = logging.getLogger(__name__)


def load_operators(*names: str) -> None:
    """Load operators into this process, compiling them on first use: one to three minutes each on two cores.

    PyTorch guards a build with a file that stays behind when the build is killed, and every later run waits for it
    without a word. Here the operating system's lock is held around all of it, so such a file has no owner and is
    removed. DeepSpeed takes what is loaded already and does not build again.

    Raises:
        InputError: DeepSpeed or a C++ compiler is not installed.
    """
    from filelock import FileLock

    builders = _builders(names)
    directory = folder()
    with FileLock(directory / "jpllm.lock"):
        for builder in builders:
            baton = directory / builder.name / "lock"
            if baton.exists():
                logger.warning("%s: a build that was killed left this lock; removed", baton)
                baton.unlink()
            if not list(baton.parent.glob("*.so")) and is_main_process():
                logger.info("compiling DeepSpeed's operator %s, once, to %s", builder.name, baton.parent)
            with redirect_stdout(sys.stderr):  # stdout is for results
                builder.load(verbose=False)


def has_fp16() -> bool:
    """Return whether DeepSpeed computes fp16 on the accelerator that it has chosen.

    On a CPU that is where oneDNN has fp16 products: with the instructions avx512_fp16, as a Xeon of the fourth
    generation has them.

    Raises:
        InputError: DeepSpeed is not installed.
    """
    return bool(_accelerator().is_fp16_supported())


def folder() -> Path:
    """The folder of compiled operators, for this Python and this PyTorch alone; tells PyTorch of it."""
    import torch

    if FOLDER_VARIABLE not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        version = f"py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}"
        os.environ[FOLDER_VARIABLE] = str(cache / "jpllm" / "torch_extensions" / version)
    directory = Path(os.environ[FOLDER_VARIABLE])
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _builders(names: tuple[str, ...]) -> list:
    """DeepSpeed's builder of each name; those that this platform has no use for are left out."""
    accelerator = _accelerator()
    if not shutil.which("g++"):
        raise InputError("DeepSpeed compiles C++ on first use, and there is no g++ here: apt install g++")
    if not shutil.which("ninja"):  # installed, but the virtual environment is not active
        import ninja

        os.environ["PATH"] = os.pathsep.join([ninja.BIN_DIR, os.environ["PATH"]])
    found = (accelerator.create_op_builder(name) for name in names)
    return [builder for builder in found if builder is not None and builder.is_compatible(verbose=False)]


def _accelerator():
    """Return DeepSpeed's view of the device that it computes on."""
    try:
        import ninja  # noqa: F401 — builders need it, and it comes with the same extra
        from deepspeed.accelerator import get_accelerator
    except ImportError:
        raise InputError("DeepSpeed is not installed: pip install -c constraints.txt -e '.[deepspeed]'") from None
    return get_accelerator()
