"""The 0.778 B GPT-NeoX through its own files on this machine's CPU, below ZeRO with offload: `make proof-1b`.

  python benchmarks/proof_1b.py               24 GB of memory, 40 GB of disk; the report: benchmarks/proof_1b-DATE.md
  python benchmarks/proof_1b.py --rehearse    the same commands with a tiny model, in three minutes

Each configuration is launched with its own YAML and launch file; only what makes it short is changed. It is trained
once without a break, and once killed between two steps and gone on with by the same command. Its memory is held, part
by part, against the plan that the run wrote before its first step. The model that comes out is loaded by transformers
alone. It is trained in fp16 where DeepSpeed computes that on this CPU, elsewhere in bf16. FSDP2, which a CPU cannot
share by itself, runs in bf16 with a small model in two processes. What fails is reported, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime
from jpllm.training import engine, machine

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = "recipes/configs/pretrain_scratch"
GIB = 1 << 30
SEQUENCE_LENGTH, NUM_STEPS, SAVE_STEP, KILL_STEP = 256, 4, 2, 3
LARGEST_LOSS_DIFFERENCE = 2e-3  # nats; of a model in 16 bits that is computed once in bf16 and once in float32
LARGEST_MEMORY_DIFFERENCE = 0.1
WORK_DIR = Path("runs/proof_1b")
CASES = (("neox_1b_12gb", "zero2_offload"), ("neox_1b_8gb", "zero3_offload"))
SHORT = {
    "sequence_length": SEQUENCE_LENGTH,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "tokens": NUM_STEPS * 2 * SEQUENCE_LENGTH,
    "save_steps": SAVE_STEP,
    "save_total_limit": 1,
    "eval_steps": 1_000_000,
    "logging_steps": 1,
    "warmup_steps": 1,
    "held_out_bytes": 4000,
    "max_new_tokens": 8,
    "vocab_size": 32_000,
    "sample_prompts": "むかし、",
    "sources": f"{WORK_DIR}/corpus/documents.jsonl",
    "tokenizer": f"{WORK_DIR}/tokenizer",
    "shards_dir": f"{WORK_DIR}/shards",
}
TINY = {"model": "neox-tiny", "vocab_size": 4000, "max_positions": SEQUENCE_LENGTH}
SMALL = {**TINY, "num_layers": 2, "save_steps": 0}
ALONE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model_dir, held_out, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(model_dir)
model = AutoModelForCausalLM.from_pretrained(model_dir)
ids = [tokenizer.eos_token_id]
for line in open(held_out, encoding="utf-8"):
    ids += tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
nats = 0.0
with torch.no_grad(), torch.autocast("cpu", model.dtype, enabled=model.dtype != torch.float32):
    for start in range(0, len(ids) - 1, length - 1):
        piece = torch.tensor([ids[start : start + length]])
        logits = model(piece).logits[0, :-1].float()
        nats += torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum").item()
print(nats / (len(ids) - 1), model.dtype, "jpllm" in sys.modules)
"""


@dataclass(frozen=True)
class Run:
    """What became of a run: its losses, its record (`memory_by_part.py`), its plan and its results; None if none."""

    losses: dict[int, float]
    record: dict | None
    plan: dict | None
    results: dict | None
    exit_code: int
    seconds: float
    output: str


def main() -> int:
    """Run all, and write the report; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="with a tiny model")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of configurations, from 1; FSDP2 is the last")
    parser.add_argument("--output", type=Path, default=Path(f"benchmarks/proof_1b-{time.strftime('%Y-%m-%d')}.md"))
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    precision = "fp16" if engine.has_fp16() else "bf16"
    shutil.rmtree(WORK_DIR, ignore_errors=True)
    prepare()
    chosen = arguments.only or range(1, len(CASES) + 2)
    lines, problems = heading(precision, arguments.rehearse), []
    for number in chosen:
        if number <= len(CASES):
            part, failed = prove(*CASES[number - 1], precision, TINY if arguments.rehearse else {})
        else:
            part, failed = compare_fsdp2()
        lines += part
        problems += failed
        print("\n".join(part), file=sys.stderr, flush=True)
    lines += ["## Result", "", *([f"- FAILED: {problem}" for problem in problems] or ["Everything above holds."]), ""]
    report = "\n".join(lines)
    arguments.output.write_text(report, encoding="utf-8")
    print(report)
    return int(bool(problems))


def prepare() -> None:
    """Make a corpus of 300 kB and a tokenizer of 1,200 ids; models get as many ids as they are to have."""
    WORK_DIR.mkdir(parents=True)
    for words in (
        f"data builtin --num_bytes 300_000 --output_dir {WORK_DIR}/corpus",
        f"tokenizer train --vocab_size 1200 --input {SHORT['sources']} --output_dir {WORK_DIR}/tokenizer",
    ):
        subprocess.run([sys.executable, "-m", "jpllm.cli", *words.split()], check=True, stdout=subprocess.DEVNULL)


def command_of(config: str, launch: str, name: str, changes: dict, kill_at: int = 0, num_processes: int = 1) -> list:
    """Return the launch command of a shortened run into WORK_DIR/name."""
    launcher = ["accelerate", "launch", "--config_file", f"accelerate_configs/{launch}.yaml"]
    launcher += ["--num_processes", str(num_processes)]
    if num_processes > 1:
        launcher += ["--main_process_port", "0"]
    wrapper = ["benchmarks/memory_by_part.py", f"{WORK_DIR}/{name}.json", str(kill_at)]
    if launch == "fsdp2":
        wrapper = ["tests/recipes/fsdp_on_cpu.py"]
    keys = SHORT | changes | {"output_dir": f"{WORK_DIR}/{name}"}
    typed = [f"--{key}={value}" for key, value in keys.items()]
    return [*launcher, *wrapper, "recipes/pretrain_scratch.py", f"--config={CONFIGS}/{config}.yaml", *typed]


def run(command: list[str], name: str) -> Run:
    """Run a command to its end; what it left in WORK_DIR/name."""
    started = time.monotonic()
    launched = [sys.executable, "-m", "accelerate.commands.launch", *command[2:]]
    done = subprocess.run(launched, capture_output=True, text=True, check=False)
    output, folder = done.stdout + done.stderr, WORK_DIR / name
    with (WORK_DIR / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{shlex.join(command)}\n{output}\n")
    metrics = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    return Run(
        losses={row["step"]: row["loss"] for row in rows if "loss" in row},
        record=read(WORK_DIR / f"{name}.json"),
        plan=read(folder / "plan.json"),
        results=read(folder / "results.json"),
        exit_code=done.returncode,
        seconds=time.monotonic() - started,
        output=output,
    )


def read(file: Path) -> dict | None:
    """Return a JSON file's content, None where there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def prove(config: str, launch: str, precision: str, changes: dict) -> tuple[list[str], list[str]]:
    """Train a shipped configuration, kill it and go on; return the lines of the report and what failed."""
    changes = {**changes, "precision": precision}
    command = command_of(config, launch, config, changes)
    whole = run(command, config)
    lines = [f"## `{config}.yaml`, `{launch}.yaml`", "", "    " + shlex.join(command), ""]
    if whole.exit_code or not whole.results or not whole.record or not whole.plan:
        return lines, [f"{config}: exit code {whole.exit_code}: {last_line(whole.output)}"]
    alone, is_16_bits = loss_alone(WORK_DIR / config)
    shutil.rmtree(WORK_DIR / config)  # with a checkpoint of 11 GB
    name = f"{config}_killed"
    killed = run(command_of(config, launch, name, changes, kill_at=KILL_STEP), name)
    resumed = run(command_of(config, launch, name, changes), name)
    shutil.rmtree(WORK_DIR / name)
    memory, ratio = memory_table(whole.record, whole.plan)
    differences = [abs(resumed.losses.get(step, float("inf")) - loss) for step, loss in whole.losses.items()]
    proved = whole.results["loss"]
    checks = {
        "the model is whole": (whole.results["num_parameters"] == whole.plan["num_parameters"], ""),
        "losses fall": (whole.losses[NUM_STEPS] < whole.losses[1], ""),
        "the saved model has 16 bits": (is_16_bits, ""),
        "transformers alone give the loss": (abs(alone - proved) <= LARGEST_LOSS_DIFFERENCE, f"{alone} for {proved}"),
        "the kill came between two steps": (killed.exit_code != 0 and KILL_STEP in killed.losses, killed.exit_code),
        "it went on from the checkpoint": (f"checkpoint-{SAVE_STEP}" in resumed.output, last_line(resumed.output)),
        "it ended": (resumed.exit_code == 0, last_line(resumed.output)),
    }
    if "model" not in changes:  # a tiny one is the process and little else
        checks["memory is within a tenth of the plan"] = (abs(ratio - 1) <= LARGEST_MEMORY_DIFFERENCE, f"{ratio:.3f}")
        checks["the proof takes little more than a step"] = (whole.record["end"] <= 1.05 * whole.record["step"], "")
    losses = " → ".join(f"{loss:.4f}" for loss in whole.losses.values())
    lines += [
        f"{whole.results['num_parameters']:,} parameters, {precision}, {whole.results['engine']}; "
        f"{whole.seconds:.0f} s.",
        f"Losses {losses}. Held-out loss {proved:.6f} in memory, {whole.results['reloaded_loss']:.6f} read back,",
        f"{alone:.6f} by transformers alone from the 16-bit folder.",
        "",
        f"Killed after step {KILL_STEP}, gone on with from step {SAVE_STEP}: the losses of all steps differ by at most "
        f"{max(differences):.2e} from those of the run without a break. Peak before the first step of the run that",
        f"went on: {gib(resumed.record['load']) if resumed.record else '?'} GiB (without checkpoint: "
        f"{gib(whole.record['load'])}).",
        "",
        *memory,
        "",
    ]
    failed = [f"{config}: {what}: {said}" for what, (holds, said) in checks.items() if not holds]
    return lines, failed


def loss_alone(folder: Path) -> tuple[float, bool]:
    """Return the held-out loss by a process with transformers alone, and whether the weights have 16 bits."""
    command = [sys.executable, "-c", ALONE, str(folder / "model"), str(folder / "held_out.jsonl"), str(SEQUENCE_LENGTH)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    loss, dtype, has_jpllm = done.stdout.split()
    assert has_jpllm == "False"
    return float(loss), dtype in ("torch.float16", "torch.bfloat16")


def memory_table(record: dict, plan: dict) -> tuple[list[str], float]:
    """Return a table of measured and planned memory, and what is planned ÷ measured at the peak of a step."""
    planned = plan["memory"]["parts"]
    lines = ["| memory, GiB | measured | planned |", "| --- | ---: | ---: |"]
    lasting = [name for name in planned if name in record["parts"]]
    lines += [f"| {name} | {gib(record['parts'][name])} | {gib(planned[name])} |" for name in lasting]
    rest_measured = record["step"] - sum(record["parts"][name] for name in lasting)
    rest_planned = sum(size for name, size in planned.items() if name not in lasting)
    between = record["between_steps"] - sum(record["parts"][name] for name in lasting)
    lines.append(f"| the process, and what lives and dies in a step | {gib(rest_measured)} | {gib(rest_planned)} |")
    lines.append(f"| – of this, between steps | {gib(between)} | |")
    lines.append(f"| **peak of a step** | {gib(record['step'])} | {gib(plan['memory']['peak_bytes'])} |")
    lines.append(f"| peak of the proof at the end | {gib(record['end'])} | |")
    return lines, plan["memory"]["peak_bytes"] / record["step"]


def compare_fsdp2() -> tuple[list[str], list[str]]:
    """Train a small model in bf16 in two processes of FSDP2 and in one process; return lines and what failed."""
    both = {
        name: run(command_of("neox_1b_8gb", launch, name, SMALL | changes, num_processes=processes), name)
        for name, launch, processes, changes in (
            ("fsdp2", "fsdp2", 2, {"precision": "bf16", "gradient_accumulation_steps": 1}),
            ("alone", "cpu", 1, {"precision": "bf16"}),
            ("float32", "cpu", 1, {"precision": "fp32"}),
        )
    }
    lines = ["## FSDP2 in bf16, a NeoX of two layers", "", "| run | losses |", "| --- | --- |"]
    for name, found in both.items():
        lines.append(f"| {name} | {' → '.join(f'{loss:.5f}' for loss in found.losses.values())} |")
    failed = [f"{name}: {last_line(found.output)}" for name, found in both.items() if found.exit_code]
    if not failed:
        furthest = max(abs(both["fsdp2"].losses[step] - loss) for step, loss in both["float32"].losses.items())
        lines += ["", f"FSDP2's losses are within {furthest:.1e} of float32's."]
        failed += [] if furthest < 0.02 else [f"FSDP2 is {furthest} nats from float32"]
    return [*lines, ""], failed


def last_line(output: str) -> str:
    """Return the line that says why a command ended."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error:")]
    theirs = [
        line for line in lines if "Error: " in line and not line.startswith(("subprocess.", "torch.distributed."))
    ]
    return (ours or theirs or lines or ["no message"])[-1][:300]


def gib(num_bytes: float) -> str:
    """Return GiB with two digits after the point."""
    return f"{num_bytes / GIB:.2f}"


def heading(precision: str, rehearse: bool) -> list[str]:
    """Return when, where and in which arithmetic."""
    versions = ", ".join(f"{name} {version}" for name, version in runtime.versions().items())
    reason = "" if precision == "fp16" else " (no fp16: this CPU lacks avx512_fp16, and DeepSpeed refuses it there)"
    return [
        f"# The 0.778 B GPT-NeoX on a CPU ({time.strftime('%Y-%m-%d')})",
        "",
        *(["A rehearsal with a tiny model.", ""] if rehearse else []),
        f"{runtime.num_cores()} cores of {machine.cpu_model()}, {gib(machine.host_memory_bytes())} GiB;",
        f"{precision}{reason};",
        f"{versions}; commit {runtime.commit()}.",
        "",
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
