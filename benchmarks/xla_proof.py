"""Training through accelerate_configs/tpu.yaml on XLA's CPU device, held against plain runs: `make xla-proof`.

The recipes are run as commands, each in processes of its own, with `PJRT_DEVICE=CPU`; plain runs beside them leave
torch_xla out. What must hold: losses within 1e-4 of the plain ones; no graph is compiled after the second step; a run
that was killed, and one that was stopped by `max_hours`, go on bit for bit; gradients of two devices are averaged. The
report is benchmarks/xla_proof-DATE.md, the logs stay in runs/xla_proof. Exit code 1 if something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime
from jpllm.training import machine

ROOT = Path(__file__).resolve().parent.parent
MOST_NATS = 1e-4
SETTLED_STEP = 2  # no graph is new after it
TIMEOUT_SECONDS = 1200
NUM_TOKENS = 10_240  # 20 steps of 512
NEOX = ("--model=neox-1b", "--hidden_size=64", "--num_layers=2", "--num_heads=2", "--intermediate_size=128")
CASES = {
    "gpt2-tiny, loss in chunks": (),
    "gpt2-tiny, whole logits": ("--chunked_loss=false",),
    "GPT-NeoX of two layers": NEOX,
}

NOT_SHOWN = """## Not shown here

- The recipe in several XLA processes. torch_xla starts one process on its CPU device, whatever it is told
  (`torch_xla/_internal/pjrt.py`, `run_multiprocess`); several devices are threads of it, where a recipe stops with an
  error, since ranks are a process's. Two threads that compile the same sum at the same time do not meet (two values of
  `op_id` in XLA's message, then the process is ended), so `xla_two_devices.py` lets the second come later. What
  processes tell each other in host memory is tested with two of them in `tests/test_xla.py`.
- A TPU: speed, memory, bf16 there, eight processes. Not measured. This measures it, on a TPU host:
  `accelerate launch --config_file accelerate_configs/tpu.yaml recipes/pretrain_scratch.py --config
  recipes/configs/pretrain_scratch/published_c_tpu.yaml --max_hours 0.5` (exit code 75; `metrics.jsonl` has
  `tokens_per_second`, `peak_tpu_bytes` and `compilations`).
- Muon: the graphs of its first two steps, for two layers, took XLA more than eight minutes to compile; it is refused.
"""


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it holds, and the figures."""

    subject: str
    holds: bool
    figures: str


def main() -> int:
    """Run everything and write the report; 1 if something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work_dir", type=Path, default=ROOT / "runs/xla_proof")
    default = ROOT / f"benchmarks/xla_proof-{time.strftime('%Y-%m-%d')}.md"
    parser.add_argument("--output", type=Path, default=default)
    options = parser.parse_args()
    shutil.rmtree(options.work_dir, ignore_errors=True)
    options.work_dir.mkdir(parents=True)
    runs = Runs(options.work_dir.resolve())
    runs.make_data()
    findings = [*losses(runs), *bfloat16(runs), *checkpointing(runs), *resuming(runs), *two_devices(runs)]
    options.output.write_text(report(findings, runs), encoding="utf-8")
    print(options.output)
    return 0 if all(finding.holds for finding in findings) else 1


class Runs:
    """Runs of the recipe in one folder; `seconds` is what each took, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def make_data(self) -> None:
        """The built-in corpus, and a tokenizer."""
        jpllm = [sys.executable, "-m", "jpllm.cli"]
        corpus, tokenizer = self.folder / "corpus", self.folder / "tokenizer"
        made = ["data", "builtin", "--num_bytes=300_000", f"--output_dir={corpus}"]
        texts = f"--input={corpus / 'documents.jsonl'}"
        trained = ["tokenizer", "train", texts, "--vocab_size=1500", f"--output_dir={tokenizer}"]
        for words in (made, trained):
            subprocess.run([*jpllm, *words], check=True, cwd=ROOT, env=_environment(on_xla=False))

    def start(self, name: str, on_xla: bool, keys: Sequence[str], num_tokens: int = NUM_TOKENS) -> subprocess.Popen:
        """The recipe in a process group of its own; what it prints goes to NAME.log."""
        config = "recipes/configs/pretrain_scratch/smoke_cpu.yaml"
        data = {"sources": self.folder / "corpus/documents.jsonl", "tokenizer": self.folder / "tokenizer"}
        paths = {**data, "output_dir": self.folder / name, "shards_dir": self.folder / "shards"}
        words = [
            "recipes/pretrain_scratch.py",
            f"--config={config}",
            *(f"--{key}={path}" for key, path in paths.items()),
        ]
        words += ["--logging_steps=1", f"--tokens={num_tokens}", *keys]
        launch = [Path(sys.executable).with_name("accelerate"), "launch", "--config_file=accelerate_configs/tpu.yaml"]
        with (self.folder / f"{name}.log").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                [*(launch if on_xla else [sys.executable]), *words],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=_environment(on_xla),
                start_new_session=True,
            )

    def run(self, name: str, on_xla: bool, *keys: str, num_tokens: int = NUM_TOKENS) -> int:
        """The exit code of the recipe."""
        began = time.monotonic()
        code = self.start(name, on_xla, keys, num_tokens).wait(TIMEOUT_SECONDS)
        self.seconds[name] = time.monotonic() - began
        return code

    def rows(self, name: str) -> list[dict]:
        """What the run has logged so far."""
        file = self.folder / name / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    def of_steps(self, name: str, key: str) -> dict[int, float]:
        """A figure of the log by step."""
        return {row["step"]: row[key] for row in self.rows(name) if key in row}


def losses(runs: Runs) -> Iterator[Finding]:
    """The losses of each model beside those of a plain run, and how many graphs were compiled."""
    for number, (subject, keys) in enumerate(CASES.items(), 1):
        names = [f"{number}_{kind}" for kind in ("xla", "plain")]
        codes = [runs.run(name, "xla" in name, "--precision=fp32", *keys) for name in names]
        if codes != [0, 0]:
            yield Finding(subject, False, f"exit codes {codes}, see {', '.join(names)}.log")
            continue
        worst = [_largest_difference(*(runs.of_steps(name, key) for name in names)) for key in ("loss", "eval_loss")]
        last = [runs.of_steps(name, "loss")[NUM_TOKENS // 512] for name in names]
        figures = (
            f"loss of step 20: {last[0]:.6f} on XLA, {last[1]:.6f} plain; largest difference of a step "
            f"{worst[0]:.1e} nats, of an evaluation {worst[1]:.1e}"
        )
        yield Finding(subject, max(worst) <= MOST_NATS, figures)
        yield _settled(f"{subject}: graphs", runs, names[0])


def bfloat16(runs: Runs) -> Iterator[Finding]:
    """Autocast in bf16: other losses than in float32, and not far from them."""
    code = runs.run("bf16", True, "--precision=bf16")
    found, exact = runs.of_steps("bf16", "loss"), runs.of_steps("1_xla", "loss")
    if code or not found:
        yield Finding("bf16", False, f"exit code {code}, see bf16.log")
        return
    worst = _largest_difference(found, exact)
    yield Finding("bf16", 0 < worst < 0.05, f"largest difference of a step from fp32 {worst:.1e} nats")
    yield _settled("bf16: graphs", runs, "bf16")


def checkpointing(runs: Runs) -> Iterator[Finding]:
    """Activation checkpointing, with three accumulated passes: the same losses as without, in the same steps."""
    keys, num_tokens = ("--precision=fp32", "--gradient_accumulation_steps=3"), 10 * 768
    codes = [
        runs.run("checkpointed", True, *keys, "--activation_checkpointing=true", num_tokens=num_tokens),
        runs.run("checkpointed_plain", False, *keys, num_tokens=num_tokens),
    ]
    if codes != [0, 0]:
        yield Finding("activation checkpointing", False, f"exit codes {codes}, see checkpointed.log")
        return
    pair = [runs.of_steps(name, "loss") for name in ("checkpointed", "checkpointed_plain")]
    worst = _largest_difference(*pair)
    yield Finding("activation checkpointing", worst <= MOST_NATS, f"largest difference of a step {worst:.1e} nats")
    yield _settled("activation checkpointing, accumulation over three: graphs", runs, "checkpointed")


def resuming(runs: Runs) -> Iterator[Finding]:
    """Killed between two checkpoints, and stopped by `max_hours`: the same losses as without, to the last bit."""
    keys = ("--precision=fp32", "--dropout=0.1", "--save_steps=8")
    whole = runs.run("whole", True, *keys)
    process = runs.start("killed", True, keys)
    while process.poll() is None and not (runs.of_steps("killed", "loss").get(11)):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = max(runs.of_steps("killed", "loss"))
    codes = [whole, runs.run("killed", True, *keys)]
    yield _same(f"killed after step {reached}, begun again from step 8", runs, "killed", codes, [0, 0])
    codes = [runs.run("stopped", True, *keys, "--max_hours=0.0001"), runs.run("stopped", True, *keys)]
    yield _same(
        "stopped by max_hours after step 1, with dropout", runs, "stopped", codes, [runtime.EXIT_STOPPED_EARLY, 0]
    )


def _same(subject: str, runs: Runs, name: str, codes: list[int], expected: list[int]) -> Finding:
    differ = [
        key for key in ("loss", "grad_norm", "eval_loss") if runs.of_steps(name, key) != runs.of_steps("whole", key)
    ]
    figures = f"exit codes {codes}; " + (f"another {', '.join(differ)}" if differ else "every logged figure is equal")
    return Finding(subject, not differ and codes == expected, figures)


def two_devices(runs: Runs) -> Iterator[Finding]:
    """Weights after five steps of accelerate's optimizer on two devices, half of the batch each, and on one."""
    sums = {}
    for count in (1, 2):
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("xla_two_devices.py")],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            env={**_environment(on_xla=True), "CPU_NUM_DEVICES": str(count), "FORK_LAUNCHED": "1"},
        )
        (runs.folder / f"two_devices_{count}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        sums[count] = [json.loads(line)["weights"] for line in done.stdout.splitlines() if line.startswith("{")]
    holds = len(sums[1]) == 1 and len(sums[2]) == 2 and all(abs(s - sums[1][0]) < 1e-5 for s in sums[2])
    yield Finding(
        "two devices, half of the batch each", holds, f"sums of weights {sums[2]}, and {sums[1]} on one device"
    )


def report(findings: Sequence[Finding], runs: Runs) -> str:
    """The report as Markdown."""
    versions = runtime.versions()
    lines = [
        "# Training on XLA's CPU device",
        "",
        f"`make xla-proof` (`benchmarks/xla_proof.py`), {time.strftime('%Y-%m-%d')}, commit {runtime.commit()}.",
        f"{machine.cpu_model()}, {runtime.num_cores()} cores beside other work, "
        f"{machine.host_memory_bytes() / 1e9:.0f} GB; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        "Each run is `accelerate launch --config_file accelerate_configs/tpu.yaml recipes/pretrain_scratch.py` with",
        "`PJRT_DEVICE=CPU` and `smoke_cpu.yaml`, shortened to 20 steps of 512 tokens; plain runs: `USE_TORCH_XLA=0`.",
        "",
        "| | holds | figures |",
        "| --- | --- | --- |",
        *(f"| {found.subject} | {'yes' if found.holds else '**no**'} | {found.figures} |" for found in findings),
        "",
        "Wall-clock seconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in runs.seconds.items()) + ".",
        "",
        NOT_SHOWN,
    ]
    return "\n".join(lines)


def _settled(subject: str, runs: Runs, name: str) -> Finding:
    counts = runs.of_steps(name, "compilations")
    later = {step: count for step, count in counts.items() if step >= SETTLED_STEP}
    first = {step: count for step, count in counts.items() if step <= SETTLED_STEP}
    seconds = runs.of_steps(name, "training_seconds")
    tokens = runs.of_steps(name, "tokens")
    speed = (tokens[max(seconds)] - tokens[4]) / (seconds[max(seconds)] - seconds[4])
    figures = (
        f"compiled until step {', '.join(f'{step}: {count}' for step, count in first.items())}; until the last: "
        f"{counts[max(counts)]}; {speed:,.0f} tokens/s after step 4"
    )
    return Finding(subject, len(set(later.values())) == 1, figures)


def _largest_difference(found: dict[int, float], expected: dict[int, float]) -> float:
    if found.keys() != expected.keys():
        return float("inf")
    return max(abs(found[step] - expected[step]) for step in found)


def _environment(on_xla: bool) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, **({"PJRT_DEVICE": "CPU"} if on_xla else {"USE_TORCH_XLA": "0"})}


if __name__ == "__main__":
    sys.exit(main())
