"""The proof on a GPU: its commands parse, its failures show, and without a GPU it rehearses."""

import json
import subprocess
import sys

import pytest

from tests.configs.test_configs import ROOT, load_recipe

proof = load_recipe(ROOT / "benchmarks" / "gpu_proof.py")
PLAN = {"tensors": 9 * 2**30, "host": 2**30, "flops_per_token": 1e9, "peak_flops": 1e14}
TAKEN = {"tensors": 8 * 2**30, "reserved": 10 * 2**30, "host": 2**30, "speeds": [1e4, 3e4, 2e4], "losses": [10.4, 9.1]}


@pytest.mark.parametrize("measurement", proof.MEASUREMENTS, ids=lambda measurement: measurement.name)
def test_what_is_measured_is_what_was_promised(measurement, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    command = proof.command_of(measurement, tmp_path, rehearse=False)
    configuration = proof.parsed(measurement.recipe, command[command.index(f"recipes/{measurement.recipe}.py") + 1 :])
    data, training = proof.data_and_training(configuration)
    assert (ROOT / command[3]).is_file()
    assert (data.sequence_length, training.save_steps) == (1024, 0)
    assert training.tokens == proof.NUM_STEPS * training.blocks_per_step(1) * 1024
    if measurement.published:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
        proof.publish(measurement.published, tmp_path, with_weights=False, is_tiny=False)
        assert configuration[1].quantization == "nf4"
        plan = proof.expected(measurement, command)
        assert 4 < plan["tensors"] / proof.GIB < measurement.cap_gib
        return
    model = configuration[2]
    assert model.vocab_size == 32_000
    if measurement.config.startswith("neox_1b"):
        assert (model.model, training.precision, training.chunked_loss) == ("neox-1b", "fp16", True)
        assert training.per_device_train_batch_size >= 4
        assert training.blocks_per_step(1) * 1024 == 16_384
        plan = proof.expected(measurement, command)
        assert 4 < plan["tensors"] / proof.GIB < measurement.cap_gib


def test_row_of_a_run_that_fits():
    row = proof.row(proof.MEASUREMENTS[0], PLAN, TAKEN | {"problem": ""}, rehearse=False)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == ["11.2", "fits", "8.00", "9.00", "10.00", "1.00", "1.00", "20,000", "20.0%", "10.40 → 9.10"]


def test_row_of_a_run_that_failed():
    stderr = "Traceback …\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n  [rank0]\nlast line\n"
    taken = dict.fromkeys(TAKEN) | {"speeds": [], "losses": [], "problem": proof.reason(stderr)}
    row = proof.row(proof.MEASUREMENTS[0], PLAN, taken, rehearse=False)
    assert "| FAILED: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB |" in row


def test_the_cap_wraps_any_script_and_leaves_a_record_of_a_failure_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(3)\n")
    command = [sys.executable, "benchmarks/gpu_cap.py", "7.2", str(tmp_path / "record.json"), str(script), "--key", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "__main__ ['--key', '1']\n")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["host"] > 2**20
    assert set(record) == {"tensors", "reserved", "host"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "row"),
    [
        ("2", "| 0.778B, 8-bit Adam (`neox_1b_16gb`) | 11.2 | not measured; rehearsal passed |"),
        ("6", "| 4 B, QLoRA, for 8 GB (`qwen3_4b_qlora_12gb`) | 7.2 | not measured; rehearsal passed |"),
    ],
)
def test_rehearsal(number, row, tmp_path):
    """A measurement, as `make gpu-proof` would launch it on a GPU, with a tiny model."""
    report = tmp_path / "report.md"
    command = [sys.executable, "benchmarks/gpu_proof.py", "--rehearse", "--only", number, "--output", str(report)]
    done = subprocess.run([*command, "--work_dir", str(tmp_path / "work")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert row in report.read_text()
