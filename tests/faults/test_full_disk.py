"""A disk that is full while a report is written: one message, exit code 2, and nothing half-written is left."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch

from jpllm import cli, runtime
from jpllm.data.read.jsonl import write_jsonl
from tests.tracking.run_folders import write_run

FULL = "No space left on device; make room, then run the same command again"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of 64 kB; it takes root to make one."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def room(disk):
    """That disk with 16 kB of room: a file can be begun, and not ended."""
    (disk / "filling").write_bytes(b"x" * 48 * 1024)
    yield disk
    assert [file.name for file in disk.iterdir()] == ["filling"]


def test_compare(room, tmp_path, capsys):
    write_run(tmp_path / "a")
    for name in ("report.html", "report.md"):
        file = room / name
        texts = [str(tmp_path / "a")]
        if name.endswith("md"):
            texts = [str(write_run(tmp_path / "b", texts=[{"step": 4, "prompt": "猫" * 9000, "text": "い"}]))]
        assert cli.main(["compare", *texts, "--output", str(file)]) == 2
        assert capsys.readouterr().err.endswith(f"error: {file}: {FULL}\n")


def test_the_builtin_corpus(room, capsys):
    assert cli.main(["data", "builtin", "--output_dir", str(room), "--num_bytes", "100_000", "--num_rows", "5"]) == 2
    assert capsys.readouterr().err == f"error: {room / 'documents.jsonl'}: {FULL}\n"


def test_the_page_of_a_preview(room, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{"猫" * 150}"}}\n' for _ in range(50)), encoding="utf-8")
    sources = f"{{path: {tmp_path / 'a.jsonl'}, clean: [nfkc]}}"
    file = room / "page.html"
    (room / "filling").write_bytes(b"x" * 63 * 1024)
    assert cli.main(["data", "preview", "--sources", sources, "--output", str(file)]) == 2
    assert capsys.readouterr().err.endswith(f"error: {file}: {FULL}\n")


def test_a_limit_of_file_sizes(tmp_path):
    """The same without root, in a process that may write 8 kB a file."""
    write_run(tmp_path / "a")
    done = subprocess.run(
        [sys.executable, "-m", "jpllm.cli", "compare", str(tmp_path / "a"), "--output", str(tmp_path / "r.html")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        f"error: {tmp_path / 'r.html'}: File too large; make room, then run the same command again\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_rows_whose_source_fails_leave_nothing(tmp_path):
    def rows():
        yield {"text": "猫"}
        raise LookupError

    with pytest.raises(LookupError):
        write_jsonl(rows(), tmp_path / "rows.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), FULL),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "Input/output error"),
        (OSError("words of a library"), "words of a library"),
        (OSError(), "OSError"),
    ],
)
def test_errors_without_a_file_name(error, message, capsys):
    def command():
        raise error

    assert runtime.run_command(command) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_weights_that_cannot_be_written_or_read(tmp_path, capsys):
    file = tmp_path / "cut.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(100)}, file)
    os.truncate(file, 200)
    assert runtime.run_command(lambda: safetensors.torch.load_file(file)) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_other_errors_stay_bugs():
    def command():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        runtime.run_command(command)
