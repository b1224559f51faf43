"""Runs of a few thousand parameters, each in a process of its own that is ended in earnest at a moment of the test."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.configs.test_configs import ROOT, load_recipe

TIMES = ("training_seconds", "tokens_per_second", "peak_host_bytes", "peak_gpu_bytes")
LETTERS = "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
COMMON = {
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "eval_steps": 2,
    "save_steps": 3,
    "precision": "fp32",
    "learning_rate": 0.05,
}
OF_TEXTS = COMMON | {"sequence_length": 16, "sources": "corpus.jsonl", "shards_dir": "shards", "held_out_fraction": 0.2}
SCRATCH = OF_TEXTS | {
    "tokenizer": "tokenizer",
    "model": "gpt2-tiny",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "max_positions": 32,
    "tokens": 768,  # 12 steps of 4 blocks of 16
    "sample_prompts": "むかし",
    "max_new_tokens": 4,
}
_CONTEXT = multiprocessing.get_context("forkserver")  # imports once, and forks a child in no time
_CONTEXT.set_forkserver_preload(["torch", "transformers", "accelerate", "jpllm.training.run", "jpllm.planning.of_run"])


def obey_signals() -> None:
    """Take back what a shell's background job (SIGINT) or nohup (SIGHUP) ignores; run in a child before it starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def inputs_and_run(folder: Path, **settings: object) -> Path:
    """Write the inputs and a finished run of `SCRATCH` with these settings into a folder; return the folder."""
    write_inputs(folder)
    assert run(folder, SCRATCH | settings) == 0, log(folder)
    return folder


def write_inputs(folder: Path) -> None:
    """A tokenizer with an id for each letter, and texts and rows of random letters."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<pad>": 1, "</s>": 2} | {letter: number for number, letter in enumerate(LETTERS, 3)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder / "tokenizer")
    generator = random.Random(0)
    texts = ["".join(generator.choices(LETTERS, k=30)) for _ in range(60)]
    write_rows(folder / "corpus.jsonl", [{"text": text} for text in texts])
    write_rows(folder / "rows.jsonl", [{"instruction": text[:5], "output": text[5:10]} for text in texts])
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *((text[:8], "あか"[n % 2]) for n, text in enumerate(texts))])


def write_rows(file: Path, rows: list[dict]) -> None:
    """A line for each."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(
    folder: Path,
    settings: Mapping[str, object],
    end: str = "",
    recipe: str = "pretrain_scratch",
    arrange: Callable[[], None] | None = None,
) -> int:
    """Run a recipe in `folder` as if typed there, and return its exit code, or −9 where `end` ended it.

    `end` is "" for no such moment, "proof", or a number of optimizer steps, with "s" behind it after its checkpoint.
    `arrange`, a function of a module, is called in the process before. What it printed is in `folder/log`.
    """
    argv = [f"--{key}={value}" for key, value in settings.items() if not isinstance(value, list)]
    for key, values in settings.items():
        argv += [f"--{key}", *map(str, values)] if isinstance(values, list) else []
    process = _CONTEXT.Process(target=_train, args=(str(folder), recipe, argv, end, arrange))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def log(folder: Path) -> str:
    """What the latest run in this folder has printed."""
    return (folder / "log").read_text(encoding="utf-8", errors="replace")


def _train(folder: str, recipe: str, argv: list[str], end: str, arrange: Callable[[], None] | None) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    with Path("log").open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.path.insert(0, str(ROOT))
    from jpllm import runtime

    runtime.use_all_cores = lambda: None
    if end:
        _end_at(end)
    if arrange:
        arrange()
    sys.argv = [f"recipes/{recipe}.py", *argv]
    os._exit(runtime.run_command(load_recipe(ROOT / "recipes" / f"{recipe}.py").main))


def _end_at(moment: str) -> None:
    """Have this process end itself as `kill -9` does."""
    from jpllm.training import proof
    from jpllm.training.callbacks import MetricsRecorder

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "proof":
        proof._verify = die
        return
    event, step = ("on_save" if moment.endswith("s") else "on_step_end"), int(moment.removesuffix("s"))
    usual = getattr(MetricsRecorder, event)

    def at_step(self, args, state, control, **kwargs) -> None:
        if state.global_step == step:
            die()
        usual(self, args, state, control, **kwargs)

    setattr(MetricsRecorder, event, at_step)


def rows(run_dir: Path) -> list[dict]:
    """The rows of the metrics without their times."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def results(run_dir: Path) -> dict:
    """What `results.json` holds."""
    return json.loads((run_dir / "results.json").read_text(encoding="utf-8"))


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder; the lock of a run folder is no content."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def outcome(run_dir: Path) -> tuple:
    """What two runs that are one must have in common: rows, weights, and which evaluation was the best."""
    weights = (run_dir / "model" / "model.safetensors").read_bytes()
    return rows(run_dir), hashlib.sha256(weights).hexdigest(), results(run_dir)["best_step"]
