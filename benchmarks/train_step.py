"""A training step of ours against transformers' defaults and a bare loop, side by side: ratios of one run.

  python benchmarks/train_step.py --output benchmarks/train_step.md
  python benchmarks/train_step.py --ways bare ours_fp32 --repeats 9     the overhead alone, more exactly

Every way trains the same new GPT-2 on the same random tokens in a process of its own, all ways in turn, `--repeats`
times. Timed are the steps after the first ones, with all that happens between them, without evaluation and checkpoints.
The table compares medians; the goals are held against the median of the ratios of runs that followed each other.

  run_clm          Trainer as transformers' run_clm.py leaves it: fp32, fused AdamW, the loss of all logits at once
  run_clm_unfused  the same with optim: adamw_torch, the default of earlier versions
  bare             a loop of PyTorch's parts with our settings in fp32, without logs, checks and callbacks
  ours_fp32        jpllm
  ours_half        jpllm in bf16 where the hardware has instructions for it, in fp16 on older GPUs
  compiled_fp32    jpllm with torch_compile: true
  compiled_half    both
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from training_ways import SIZES, WAYS, cpu_flags, half_precision

from jpllm import runtime

MAX_OVERHEAD = 1.02
MIN_SPEED_UP = {"ours_half": 1.3, "compiled_half": 1.8}  # over run_clm_unfused
PRODUCT_SIZE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default=runtime.device().type)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, help="Markdown report")
    arguments = parser.parse_args()
    ways = [way for way in arguments.ways if half_precision() or not way.endswith("half")]
    lines = heading(arguments)
    runs: dict[str, list[dict]] = {way: [] for way in ways}
    for _ in range(arguments.repeats):
        for way in ways:
            runs[way].append(run_worker(way, arguments.size))
            print(way, runs[way][-1], file=sys.stderr, flush=True)
    report = "\n".join([*lines, "", *table(runs, arguments.size), "", *goals(runs)]) + "\n"
    print(report)
    if arguments.output:
        arguments.output.write_text(report, encoding="utf-8")


def run_worker(way: str, size: str) -> dict:
    """One way in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("training_ways.py")), way, size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(runs: dict[str, list[dict]], size: str) -> list[str]:
    """A row for each way, speeds as ratios."""
    tokens = SIZES[size].batch_size * SIZES[size].sequence_length
    seconds = {way: statistics.median(run["seconds"] for run in results) for way, results in runs.items()}
    against = [way for way in ("run_clm", "run_clm_unfused") if way in runs]
    rows = [
        "| way | seconds a step | fastest–slowest run | tokens/s |"
        + "".join(f" × {way} |" for way in against)
        + " loss |",
        "| --- | ---: | ---: | ---: |" + " ---: |" * len(against) + " ---: |",
    ]
    for way, results in runs.items():
        every = sorted(run["seconds"] for run in results)
        ratios = "".join(f" {seconds[other] / seconds[way]:.2f} |" for other in against)
        rows.append(
            f"| {way} | {seconds[way]:.3f} | {every[0]:.3f}–{every[-1]:.3f} | {tokens / seconds[way]:,.0f} |{ratios} "
            f"{results[0]['loss']:.4f} |"
        )
    return rows


def goals(runs: dict[str, list[dict]]) -> list[str]:
    """What was to be reached, and what was."""
    lines = []
    if {"bare", "ours_fp32"} <= runs.keys():
        overhead = ratio(runs, "ours_fp32", "bare")
        lines.append(
            f"- Trainer and our callbacks over a bare loop: {overhead - 1:+.1%}, goal at most +{MAX_OVERHEAD - 1:.0%}"
            f": {'reached' if overhead <= MAX_OVERHEAD else 'not reached'}"
        )
    for way, least in MIN_SPEED_UP.items():
        if {way, "run_clm_unfused"} <= runs.keys():
            speed_up = ratio(runs, "run_clm_unfused", way)
            lines.append(
                f"- {way} over run_clm_unfused: {speed_up:.2f} times the speed, goal at least {least}: "
                f"{'reached' if speed_up >= least else 'not reached'}"
            )
    return lines


def ratio(runs: dict[str, list[dict]], slower: str, faster: str) -> float:
    """The median of the ratios of the seconds of runs that followed each other."""
    pairs = zip(runs[slower], runs[faster], strict=True)
    return statistics.median(one["seconds"] / other["seconds"] for one, other in pairs)


def heading(arguments: argparse.Namespace) -> list[str]:
    """When, where and what; the speed of products decides which precision pays."""
    from jpllm.training.arguments import choose_precision

    versions = runtime.versions()
    installed = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "python"))
    speeds = {name: product_tflops(name) for name in filter(None, ("fp32", half_precision()))}
    return [
        f"# A training step, ours and others' ({time.strftime('%Y-%m-%d')})",
        "",
        f"{SIZES[arguments.size]}; {arguments.repeats} interleaved runs, medians. {device_text()}; "
        f"{installed}; commit {commit()}.",
        "",
        "Products of matrices: "
        + ", ".join(f"{tflops:.2f} TFLOPS in {name}" for name, tflops in speeds.items())
        + f". `precision: auto` takes {choose_precision('auto')} here.",
    ]


def device_text() -> str:
    """The GPU, or the CPU with those of its instructions that matter here."""
    import torch

    if runtime.device().type == "cuda":
        return torch.cuda.get_device_name()
    found = [flag for flag in cpu_flags() if flag in ("avx2", "avx512f") or "bf16" in flag or "amx" in flag]
    return f"CPU, {runtime.num_cores()} cores, {' '.join(found) or 'no vector instructions known'}"


def product_tflops(precision: str) -> float:
    """Speed of products of square matrices, in 10¹² operations a second; the best of five."""
    import torch
    from training_ways import now

    runtime.use_all_cores()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype, device=runtime.device())
    times = [now()]
    for _ in range(6):
        matrix @ matrix
        times.append(now())
    best = min(later - earlier for earlier, later in pairwise(times))
    return 2 * PRODUCT_SIZE**3 / best / 1e12


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
