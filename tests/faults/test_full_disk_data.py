"""A disk that is full while data is prepared: one message, exit code 2, and nothing half done that is not of use."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from jpllm.cli import main
from jpllm.data.read.jsonl import write_jsonl
from jpllm.demo.builtin import documents


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small file system can be mounted here; that takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path, free_bytes: int) -> Path:
    """Leave so many bytes of the disk, in pages of 4 kB; return the file that takes the others."""
    with (disk / "filler").open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free - free_bytes)
    return disk / "filler"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "filler")


@pytest.fixture
def large_corpus(tmp_path):
    write_jsonl(({"text": text} for text in documents(seed=2, num_bytes=4_000_000)), tmp_path / "large.jsonl")
    return tmp_path / "large.jsonl"


def refused(command: list[str], capfd) -> str:
    """Return the error of a command that ends with exit code 2."""
    capfd.readouterr()
    assert main(command) == 2
    lines = capfd.readouterr().err.splitlines()
    assert not [line for line in lines if "Traceback" in line]
    assert [line.startswith("error: ") for line in lines].count(True) == 1
    assert "No space left on device" in lines[-1]
    return lines[-1]


def test_data_builtin(disk, capfd):
    error = refused(["data", "builtin", "--output_dir", str(disk / "corpus"), "--num_bytes", "6_000_000"], capfd)
    assert error.startswith(f"error: {disk}/corpus/documents.jsonl: No space left on device")
    assert names(disk) == ["corpus"]


def test_data_pack_goes_on_when_there_is_room(disk, large_corpus, tokenizer_dir, tmp_path, capfd):
    command = ["data", "pack", "--sources", str(large_corpus), "--tokenizer", str(tokenizer_dir), "--output_dir"]
    filler = fill(disk, 2_300_000)
    error = refused([*command, str(disk / "shards")], capfd)
    assert "/tokens.bin: No space left on device; what is packed so far stays there" in error
    (partial,) = (disk / "shards").glob("*.partial")
    filler.unlink()
    assert main([*command, str(disk / "shards")]) == 0
    assert "going on after" in capfd.readouterr().err
    assert not partial.exists()
    assert main([*command, str(tmp_path / "whole")]) == 0
    (packed,), (whole,) = (list(folder.glob("large-*")) for folder in (disk / "shards", tmp_path / "whole"))
    for file in whole.iterdir():
        assert (packed / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("free_bytes", [0, 4096, 8192])
def test_data_pack_without_room_for_its_first_files(disk, large_corpus, tokenizer_dir, capfd, free_bytes):
    fill(disk, free_bytes)
    refused(["data", "pack", "--sources", str(large_corpus), "--tokenizer", str(tokenizer_dir), "--output_dir",
             str(disk / "shards")], capfd)  # fmt: skip
    assert [name for name in names(disk) if name.endswith(".tmp")] == []


def test_dedup(disk, tmp_path, capfd):
    write_jsonl(({"text": "同じ"} for _ in range(5000)), tmp_path / "a.jsonl")
    fill(disk, 100_000)
    command = ["data", "dedup", "--sources", str(tmp_path / "a.jsonl"), "--output_dir", str(disk / "drop")]
    assert refused(command, capfd).startswith(f"error: {disk}/drop/a.duplicates.jsonl: No space left")
    assert names(disk) == ["drop"]


def test_preview(disk, large_corpus, capfd):
    fill(disk, 0)
    page = disk / "preview.html"
    error = refused(["data", "preview", "--sources", str(large_corpus), "--output", str(page)], capfd)
    assert error.startswith(f"error: {page}: No space left on device")
    assert names(disk) == []


@pytest.mark.parametrize("free_bytes", [0, 8192, 40_000])
def test_tokenizer_train(disk, corpus_file, capfd, free_bytes):
    fill(disk, free_bytes)
    command = ["tokenizer", "train", "--input", str(corpus_file), "--vocab_size", "1200"]
    refused([*command, "--output_dir", str(disk / "tokenizer")], capfd)
    assert names(disk) == []


def test_tokenizer_report(disk, corpus_file, tokenizer_dir, capfd):
    fill(disk, 0)
    command = ["tokenizer", "report", "--tokenizer", str(tokenizer_dir), "--input", str(corpus_file)]
    refused([*command, "--output", str(disk / "report.md")], capfd)
    assert names(disk) == []
