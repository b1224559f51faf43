"""What `pip install .` takes along."""

from __future__ import annotations

import configparser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_file_that_is_no_code_is_named_in_setup_cfg() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    named = set()
    for package, patterns in setup["options.package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        assert (folder / "__init__.py").exists()
        named |= {file for pattern in patterns.split() for file in folder.glob(pattern)}
    files = {file for file in (ROOT / "jpllm").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert named == {file for file in files if file.suffix != ".py"}
