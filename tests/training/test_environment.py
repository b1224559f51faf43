"""Each start of a run leaves an entry; nothing typed is in it."""

import json
import shutil
import subprocess
import sys

import pytest

from jpllm import runtime
from jpllm.training import machine, run_folder


def sessions(folder):
    return json.loads((folder / "environment.json").read_text(encoding="utf-8"))["sessions"]


def test_each_start_is_added(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/home/cat/recipes/cpt.py", "--config", "/home/cat/c.yaml", "--token=canary", "x"]
    )
    run_folder.add_session(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cpt.py"])
    run_folder.add_session(tmp_path)
    first, second = sessions(tmp_path)
    assert (first["program"], first["keys"]) == ("cpt.py", ["config", "token"])
    assert second["keys"] == []
    assert first["cores"] == runtime.num_cores()
    assert first["host_memory_bytes"] == machine.host_memory_bytes()
    text = (tmp_path / "environment.json").read_text(encoding="utf-8")
    assert "canary" not in text
    assert "/home" not in text


def test_the_commit_is_that_of_the_checkout(tmp_path):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=runtime.__file__.rpartition("/")[0], capture_output=True)
    run_folder.add_session(tmp_path)
    (session,) = sessions(tmp_path)
    if head.returncode == 0:
        assert session["commit"].removesuffix("-dirty") == head.stdout.decode().strip()
    else:
        assert session["commit"] is None


def test_a_repository_around_an_environment_is_another_one(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a"]
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    subprocess.run([*git[:3], "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    (tmp_path / "venv" / "lib").mkdir(parents=True)
    for package, is_known in (("jpllm", True), ("venv/lib/jpllm", False)):
        monkeypatch.setattr(runtime, "__file__", str(tmp_path / package / "runtime.py"))
        assert (runtime.commit() is not None) == is_known


def test_a_git_that_hangs(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "jpllm" / "runtime.py"))

    def hang(*args, timeout, **kwargs):
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert runtime.commit() is None


def test_a_broken_file_is_begun_anew(tmp_path, caplog):
    (tmp_path / "environment.json").write_text('{"sessions": [{}')
    run_folder.add_session(tmp_path)
    assert len(sessions(tmp_path)) == 1
    assert "cannot be read and is begun anew" in caplog.text


def test_gpus_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [machine.LocalGpu("Tesla T4", (7, 5), 15 << 30)])
    run_folder.add_session(tmp_path)
    assert sessions(tmp_path)[0]["gpus"] == [{"name": "Tesla T4", "memory_bytes": 15 << 30}]


def test_the_name_of_the_cpu(monkeypatch):
    monkeypatch.setattr(machine, "_read", lambda *_: "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t: fpu\n")
    assert machine.cpu_model() == "Some CPU @ 2 GHz"
    monkeypatch.setattr(machine, "_read", lambda *_: "")
    assert machine.cpu_model()
