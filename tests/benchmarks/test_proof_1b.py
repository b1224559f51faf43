"""The proof of the 0.778 B model on a CPU: its commands parse, its table adds up, and it rehearses."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.configs.test_configs import ROOT, load_recipe

proof = load_recipe(ROOT / "benchmarks" / "proof_1b.py")
memory_by_part = load_recipe(ROOT / "benchmarks" / "memory_by_part.py")
GIB = 1 << 30


@pytest.mark.parametrize(("config", "launch"), proof.CASES)
def test_commands_name_shipped_files_and_keep_the_model(config, launch):
    command = proof.command_of(config, launch, "run", {"precision": "bf16"}, kill_at=3)
    assert (ROOT / command[3]).is_file()
    assert (ROOT / "recipes/configs/pretrain_scratch" / f"{config}.yaml").is_file()
    assert command[command.index("benchmarks/memory_by_part.py") + 2] == "3"
    assert not [word for word in command if word.startswith(("--model=", "--hidden", "--num_layers"))]


def test_memory_of_the_table_adds_up():
    record = {
        "parts": {"weights": 2 * GIB, "float32 weights": 4 * GIB},
        "step": 9 * GIB,
        "between_steps": 7 * GIB,
        "end": GIB,
    }
    planned = {"weights": 2 * GIB, "float32 weights": 4 * GIB, "activations": 3 * GIB, "the process": GIB}
    lines, ratio = proof.memory_table(record, {"memory": {"parts": planned, "peak_bytes": 10 * GIB}})
    assert ratio == pytest.approx(10 / 9)
    assert lines[2:] == [
        "| weights | 2.00 | 2.00 |",
        "| float32 weights | 4.00 | 4.00 |",
        "| the process, and what lives and dies in a step | 3.00 | 4.00 |",
        "| – of this, between steps | 1.00 | |",
        "| **peak of a step** | 9.00 | 10.00 |",
        "| peak of the proof at the end | 1.00 | |",
    ]


def test_the_line_that_says_why():
    output = "AttributeError: gone\nsubprocess.CalledProcessError: Error: x\n"
    assert proof.last_line(output) == "AttributeError: gone"
    assert proof.last_line("error: sequence_length: too long\n" + output) == "error: sequence_length: too long"
    assert proof.last_line("\n") == "no message"


def test_parts_of_a_zero2_optimizer():
    weight = torch.zeros(10, requires_grad=True)
    weight.grad = torch.zeros(10)
    inner = SimpleNamespace(state={weight: {"exp_avg": torch.zeros(10), "exp_avg_sq": torch.zeros(10), "step": 3}})
    zero2 = SimpleNamespace(
        single_partition_of_fp32_groups=[weight],
        optimizer=inner,
        bit16_groups_flat=[torch.zeros(10, dtype=torch.bfloat16)],
        param_buffer_of_bit16_for_cpu_offload_groups=[torch.zeros(10, dtype=torch.bfloat16)],
        accumulated_grads_in_cpu={0: torch.zeros(4, dtype=torch.bfloat16)},
    )
    assert memory_by_part.parts(zero2) == {
        "float32 weights": 40,
        "optimizer states": 80,
        "float32 gradients": 40,
        "weights": 20,
        "weights as the device has them": 20,
        "gradients between forward passes": 8,
    }
    assert memory_by_part.parts(torch.optim.SGD([weight])) == {}


@pytest.mark.slow
def test_rehearsal(tmp_path):
    pytest.importorskip("deepspeed")
    report = tmp_path / "report.md"
    command = [sys.executable, "benchmarks/proof_1b.py", "--rehearse", "--only", "1", "--output", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    text = report.read_text()
    assert "differ by at most 0.00e+00 from those of the run without a break" in text
    assert "Everything above holds." in text
