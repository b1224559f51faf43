import mmap
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from jpllm.training import machine


@pytest.mark.parametrize(
    ("membership", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "5000", "a/b/memory.max": "max"}, [5000]),
        ("0::/\n", {"memory.max": "7000"}, [7000]),
        ("4:memory:/c\n3:cpu:/d\n", {"memory/c/memory.limit_in_bytes": "9000"}, [9000]),
        ("0::/a\n", {}, []),
    ],
    ids=["version-2", "container", "version-1", "no-limit"],
)
def test_limits_of_control_groups(tmp_path, membership, limits, expected):
    (tmp_path / "cgroup").write_text(membership)
    for name, text in limits.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert list(machine._cgroup_limits(tmp_path / "fs", tmp_path / "cgroup")) == expected


def test_host_memory_is_what_a_control_group_leaves(monkeypatch):
    whole = machine.host_memory_bytes()
    monkeypatch.setattr(machine, "_cgroup_limits", lambda *_: [1 << 30])
    assert machine.host_memory_bytes() == min(whole, 1 << 30)


def test_resident_memory_and_its_peak():
    block = mmap.mmap(-1, 50_000_000)  # from the kernel; malloc might hand out memory that is resident already
    machine.forget_peak()
    before = machine.resident_bytes()
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    assert machine.resident_bytes() - before == pytest.approx(50_000_000, rel=0.1)
    block.close()
    assert machine.resident_bytes() - before < 10_000_000
    assert machine.resident_bytes(peak=True) - before == pytest.approx(50_000_000, rel=0.1)
    machine.forget_peak()
    assert machine.resident_bytes(peak=True) - before < 10_000_000


def test_a_process_of_any_name():
    """The kernel cuts a name after 15 bytes, wherever in a letter that is."""
    code = (
        "from pathlib import Path; from jpllm.training import machine\n"
        "Path('/proc/self/comm').write_bytes('日本語の学習'.encode()); print(machine.peak_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "peak_host_bytes" in done.stdout


def test_peak_memory(monkeypatch):
    before = machine.resident_bytes(peak=True)
    peaks = machine.peak_memory()
    assert peaks == {"peak_host_bytes": peaks["peak_host_bytes"]}
    assert before <= peaks["peak_host_bytes"] <= machine.resident_bytes(peak=True)

    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machine, "resident_bytes", fail)  # as on systems without /proc
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert machine.peak_memory()["peak_host_bytes"] == pytest.approx(1024 * largest, rel=0.01)


def test_gpus_and_the_peak_on_one_of_them(monkeypatch):
    found = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=15 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    assert machine.gpus() == [machine.LocalGpu("Tesla T4", (7, 5), 15 << 30)] * 2
    assert "peak_gpu_bytes" not in machine.peak_memory()  # nothing was computed there
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 12345)
    assert machine.peak_memory()["peak_gpu_bytes"] == 12345


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    missing = tmp_path / "a" / "b"
    assert machine.free_disk_bytes(missing) == pytest.approx(machine.free_disk_bytes(tmp_path), rel=0.01)
    assert machine.disk_of(missing) == tmp_path.stat().st_dev
