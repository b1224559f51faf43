import numpy as np
import pytest

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
    machine.forget_peak()
    before = machine.resident_bytes()
    block = np.ones(50_000_000, dtype=np.uint8)
    assert machine.resident_bytes() - before == pytest.approx(block.nbytes, rel=0.1)
    del block
    assert machine.resident_bytes(peak=True) - before == pytest.approx(50_000_000, rel=0.1)
    machine.forget_peak()
    assert machine.resident_bytes(peak=True) - before < 10_000_000


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    missing = tmp_path / "a" / "b"
    assert machine.free_disk_bytes(missing) == pytest.approx(machine.free_disk_bytes(tmp_path), rel=0.01)
    assert machine.disk_of(missing) == tmp_path.stat().st_dev
