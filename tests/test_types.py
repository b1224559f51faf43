"""The type checker passes because the types are right, not because it was told to look away."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.conftest import ROOT

IGNORE = re.compile(r"#\s*(?:ty|type|pyright|mypy):\s*ignore\b(.*)")
WITH_RULE_AND_REASON = re.compile(r"\[[a-z-]+\]  # \S.+")


def test_the_check_finds_nothing() -> None:
    ty = ROOT / ".venv" / "bin" / "ty"
    if not ty.is_file():
        pytest.skip("ty is not installed in .venv, the environment that pyproject.toml names; make lint installs it")
    checked = subprocess.run([ty, "check", "--output-format", "concise"], cwd=ROOT, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "All checks passed!\n"), checked.stderr


def test_ignores_are_few_and_say_why() -> None:
    files = [*(ROOT / "jpllm").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]
    ignores = [(file.name, rest) for file in files for rest in IGNORE.findall(file.read_text(encoding="utf-8"))]
    assert len(ignores) < 20
    assert [found for found in ignores if not WITH_RULE_AND_REASON.fullmatch(found[1])] == []


def test_no_module_is_left_out() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = re.findall(r"^(\w[\w-]*) = ", text.partition("[tool.ty.environment]")[2], re.MULTILINE)
    assert settings == ["python", "python-version", "include", "allowed-unresolved-imports", "error-on-warning"]
