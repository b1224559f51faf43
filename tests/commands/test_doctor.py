import pytest
import torch

from jpllm import cli
from jpllm.planning import checkup
from jpllm.planning.checkup import Finding
from jpllm.training import machine
from jpllm.training.machine import LocalGpu

GIB = 1 << 30
CUDA_12_6 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CUDA_12_8 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def run(*argv):
    """Exit code of `jpllm doctor …`."""
    try:
        return cli.main(["doctor", *argv])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_exit_code(status, code, monkeypatch, capsys):
    findings = [Finding("a", "ok", "fine"), Finding("b", status, "found [this]", "do that")]
    monkeypatch.setattr(checkup, "examine", lambda folder: iter(findings))
    assert run() == code
    output = capsys.readouterr().out
    assert "found [this]" in output
    assert status in output
    assert "do that" in output


def test_this_machine_is_examined_without_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(checkup, "deepspeed", lambda: Finding("DeepSpeed", "ok", "not asked here"))
    findings = {finding.subject: finding for finding in checkup.examine(tmp_path)}
    assert {"Python", "packages", "host", "disk", "compiler", "operators", "Japanese font"} <= findings.keys()
    assert findings["Python"].status == "ok"
    assert all(finding.fix for finding in findings.values() if finding.status != "ok")


def test_a_lock_that_nobody_holds_is_named(tmp_path):
    stale, held = tmp_path / "cpu_adam" / "lock", tmp_path / "py311" / "shm" / "lock"
    for lock in (stale, held):
        lock.parent.mkdir(parents=True)
    stale.touch()
    with held.open("w"):
        findings = list(checkup.stale_locks([tmp_path]))
    assert findings == [
        Finding("operators", "fail", f"{stale} is left of a build that was killed", f"rm {stale}"),
    ]
    stale.unlink()
    held.unlink()
    assert [finding.status for finding in checkup.stale_locks([tmp_path])] == ["ok"]


def test_operators_built_at_first_use_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert not checkup.has_been_built("cpu_adam")
    (tmp_path / "cpu_adam").mkdir()
    (tmp_path / "cpu_adam" / "cpu_adam.so").touch()
    assert checkup.has_been_built("cpu_adam")


def test_packages(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "rich": None, "numpy": "1.26", "rensa": "0.6.0"}
    real = checkup.installed_version
    monkeypatch.setattr(checkup, "installed_version", lambda name: versions.get(name, real(name)))
    found = {finding.subject: finding for finding in checkup.packages()}
    assert (found["rich"].status, found["rich"].found) == ("fail", "not installed")
    assert (found["numpy"].status, found["numpy"].found) == ("fail", "1.26, and >=2 is needed")
    assert found["packages"].status == "warn"
    assert found["packages"].found == "rensa 0.6.0, tested with 0.5.0"


@pytest.mark.parametrize(
    ("gpu", "free_gib", "status", "words"),
    [
        (LocalGpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * GIB), 12, "ok", ""),
        (LocalGpu("Tesla T4", (7, 5), 15 * GIB), 15, "warn", "precision: auto takes fp16"),
        (LocalGpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * GIB), 5, "warn", "nvidia-smi"),
    ],
)
def test_gpus(gpu, free_gib, status, words, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [gpu])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_12_6)
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda index: free_gib * GIB)
    (finding,) = checkup.gpus()
    assert finding.status == status
    assert words in finding.fix


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 1), CUDA_12_6, True),  # GTX 10 by code for sm_60
        ((6, 1), CUDA_12_8, False),
        ((7, 0), CUDA_12_6, True),
        ((7, 0), CUDA_12_8, False),
        ((7, 5), CUDA_12_8, True),
        ((8, 9), CUDA_12_8, True),  # RTX 40 by code for sm_86
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), CUDA_12_8, True),
        ((12, 0), ["sm_90", "compute_90"], True),  # translated by the driver
        ((12, 0), ["sm_90", "compute_90a"], False),
        ((7, 5), [], False),
    ],
)
def test_code_for_a_gpu(capability, architectures, runs):
    assert machine.has_kernels(capability, architectures) == runs


@pytest.mark.parametrize(
    ("name", "capability", "words"),
    [
        ("NVIDIA GeForce GTX 1080", (6, 1), "whl/cu126"),
        ("Tesla V100-SXM2-16GB", (7, 0), "whl/cu126"),
        ("NVIDIA Of Tomorrow", (13, 0), "install a newer PyTorch"),
    ],
)
def test_a_gpu_that_this_pytorch_has_no_code_for(name, capability, words, monkeypatch):
    monkeypatch.setattr(machine, "gpus", lambda: [LocalGpu(name, capability, 8 * GIB)])
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda index: 8 * GIB)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_12_8)
    (finding,) = checkup.gpus()
    assert finding.status == "fail"
    assert finding.found.startswith(f"{name}, compute capability {capability[0]}.{capability[1]}, 8.0 of 8.0 GiB free")
    assert finding.found.endswith("was built for sm_75 sm_80 sm_86 sm_90 sm_100 sm_120")
    assert words in finding.fix


def test_a_driver_that_pytorch_does_not_use(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "gpus", lambda: [])
    monkeypatch.setattr(checkup, "_DRIVER", tmp_path / "none")
    assert [finding.status for finding in checkup.gpus()] == ["warn"]
    monkeypatch.setattr(checkup, "_DRIVER", tmp_path)
    assert [finding.status for finding in checkup.gpus()] == ["fail"]


@pytest.mark.parametrize(("gigabytes", "status"), [(64, "ok"), (12, "warn"), (2, "fail")])
def test_host_memory(gigabytes, status, monkeypatch):
    monkeypatch.setattr(machine, "host_memory_bytes", lambda: gigabytes * 10**9)
    assert checkup.cores_and_memory().status == status


def test_without_deepspeed_and_a_compiler(monkeypatch):
    monkeypatch.setattr(checkup, "installed_version", lambda name: None)
    assert checkup.deepspeed().status == "warn"
    assert "pip install" in checkup.deepspeed().fix
    monkeypatch.setattr(checkup.shutil, "which", lambda name: None)
    monkeypatch.setattr(checkup.sys, "executable", "/nowhere/python")
    assert checkup.compiler() == Finding(
        "compiler",
        "warn",
        "no g++ and no ninja",
        "apt install g++ and pip install ninja, for DeepSpeed and torch_compile",
    )


@pytest.fixture
def tpu_host(tmp_path):
    """Four v5e chips and the network card of the same maker."""
    for index, device in enumerate(["0x0063"] * 4 + ["0x0042"]):
        folder = tmp_path / f"0000:00:0{index}.0"
        folder.mkdir()
        (folder / "vendor").write_text("0x1ae0\n")
        (folder / "device").write_text(f"{device}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("torch", "torch_xla", "switch", "status", "found", "fix"),
    [
        ("2.13.0", None, "1", "fail", "4 chips, but torch_xla is not installed", "-c constraints-tpu.txt -e '.[tpu]'"),
        ("2.13.0", "2.9.0", "1", "fail", "torch_xla 2.9.0 with torch 2.13.0: they are made", "constraints-tpu.txt"),
        ("2.9.0", "2.9.0", "0", "warn", "4 chips; torch_xla 2.9.0 with torch 2.9.0, switched off", "unset it"),
        ("2.9.0", "2.9.0", "1", "ok", "4 chips; torch_xla 2.9.0 with torch 2.9.0: launch with accelerate_configs", ""),
    ],
)
def test_tpu(torch, torch_xla, switch, status, found, fix, monkeypatch, tpu_host):
    versions = {"torch": torch, "torch_xla": torch_xla}
    monkeypatch.setattr(checkup, "installed_version", versions.get)
    monkeypatch.setattr(checkup.xla, "is_available", lambda: switch == "1")
    (finding,) = checkup.tpu(tpu_host)
    assert finding.status == status
    assert found in finding.found
    assert fix in finding.fix


def test_hosts_without_a_tpu(monkeypatch, tmp_path):
    monkeypatch.setattr(checkup, "installed_version", {"torch": "2.13.0"}.get)
    assert list(checkup.tpu(tmp_path)) == []
    assert checkup.constraints_name() == "constraints.txt"
    monkeypatch.setattr(checkup, "installed_version", {"torch": "2.9.0", "torch_xla": "2.9.0"}.get)
    monkeypatch.setattr(checkup.xla, "is_available", lambda: True)
    (finding,) = checkup.tpu(tmp_path)
    assert (finding.status, finding.fix[:16]) == ("warn", "USE_TORCH_XLA=0 ")
    assert checkup.constraints_name() == "constraints-tpu.txt"


def test_both_files_of_constraints_name_the_same_versions_but_for_pytorch():
    versions = []
    for name in ("constraints.txt", "constraints-tpu.txt"):
        lines = (checkup._REPOSITORY / name).read_text(encoding="utf-8").splitlines()
        versions.append(dict(line.split("==") for line in lines if "==" in line and not line.startswith("#")))
    usual, for_tpus = versions
    assert (for_tpus.pop("torch"), for_tpus.pop("torch_xla")) == ("2.9.0", "2.9.0")
    assert for_tpus.items() <= usual.items()
