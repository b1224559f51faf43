"""Time the packing of a corpus and the start of the commands in this tree and in an older one, as ratios of one run.

  git worktree add ../before COMMIT
  python benchmarks/before_after.py --before ../before --input aozora.jsonl.gz --tokenizer runs/tok

The two trees take turns, `--repeats` times; medians of wall-clock seconds and of CPU seconds are compared. CPU seconds
are the ones to believe on a machine that does other things. Both trees run with the interpreter of this script.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PLAN = (
    "-m",
    "jpllm.cli",
    "plan",
    "--config",
    "recipes/configs/pretrain_scratch/neox_1b_12gb.yaml",
    "--vocab_size",
    "32000",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the older commit")
    parser.add_argument("--input", type=Path, required=True, help=".jsonl.gz with a column text")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder from `jpllm tokenizer train`")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    corpus, tokenizer = arguments.input.resolve(), arguments.tokenizer.resolve()
    packing = ("benchmarks/data_prep.py", "--input", str(corpus), "--tokenizer", str(tokenizer), "--worker")
    jobs = {
        "packing, SentencePiece": (*packing, "sentencepiece"),
        "packing, fast tokenizer": (*packing, "fast"),
        "jpllm --help": ("-m", "jpllm.cli", "--help"),
        "jpllm plan": PLAN,
    }
    trees = {"before": arguments.before.resolve(), "after": HERE}
    print("| job | seconds before | after | ratio | CPU seconds before | after | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, command in jobs.items():
        runs: dict[str, list[tuple[float, float]]] = {tree: [] for tree in trees}
        for _ in range(arguments.repeats):
            for tree, folder in trees.items():
                runs[tree].append(seconds(command, folder))
        medians = {tree: [statistics.median(column) for column in zip(*runs[tree], strict=True)] for tree in trees}
        pairs = zip(medians["before"], medians["after"], strict=True)
        cells = [f"{before:.2f} | {after:.2f} | {after / before:.3f}" for before, after in pairs]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def seconds(command: tuple[str, ...], tree: Path) -> tuple[float, float]:
    """Return the wall-clock and the CPU seconds of a command of one tree, its children included."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wall = time.perf_counter() - started
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: {' '.join(command)}\n{done.stderr.decode(errors='replace')[-3000:]}")
    return wall, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


if __name__ == "__main__":
    main()
