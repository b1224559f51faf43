"""What the memory recipes and `jpllm plan` promise, measured on an NVIDIA GPU: `make gpu-proof`.

  python benchmarks/gpu_proof.py                measure here; the report is benchmarks/gpu_proof-DATE.md
  python benchmarks/gpu_proof.py --rehearse     the same commands on a CPU, with a tiny model for two steps

Every measurement is a recipe's own command in a process of its own, on the built-in corpus. A smaller GPU is stood in
for by a hard cap on PyTorch's memory (`gpu_cap.py`). What fails is reported, and makes the exit code 1. Where there is
no GPU the report says "not measured", beside what `jpllm plan` expects. The log stays in runs/gpu_proof.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.data.corpus import DataConfig
from jpllm.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = "recipes/configs"
NUM_STEPS, NUM_WARM_UP_STEPS = 12, 4
TIMEOUT_SECONDS = 1800
GIB = 1 << 30


@dataclass(frozen=True)
class Measurement:
    """A shipped configuration and how it is launched.

    Attributes:
        launch: file in accelerate_configs/.
        cap_gib: of PyTorch's memory on the GPU, 0 for none.
        keys: what else the command line says, beside what shortens the run.
        published: of a model in `PUBLISHED` that the run begins with; "" for a new model.
    """

    name: str
    config: str
    launch: str
    cap_gib: float
    keys: tuple[str, ...]
    published: str = ""

    @property
    def recipe(self) -> str:
        """The recipe that reads the configuration."""
        return "cpt" if self.published else "pretrain_scratch"

    @property
    def engine(self) -> str:
        """The launcher's file in the words of `jpllm plan`."""
        return self.launch if self.launch.startswith("zero") else "single"


# Shapes of published models, with random weights: speed and memory are theirs.
_QWEN3 = {"model_type": "qwen3", "vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8}
_QWEN3 |= {"num_hidden_layers": 36, "num_attention_heads": 32, "max_position_embeddings": 32_768, "dtype": "bfloat16"}
PUBLISHED: dict[str, dict] = {
    "qwen3_4b": _QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True},
    "qwen3_8b": _QWEN3 | {"hidden_size": 4096, "intermediate_size": 12_288, "tie_word_embeddings": False},
}
_QLORA = ("--gradient_accumulation_steps=4", "--replay=0", "--replay_sources")
_GPT2 = ("--dropout=0", "--gradient_accumulation_steps=1")
MEASUREMENTS = (  # the first three: 16,384 tokens in an optimizer step
    Measurement("0.778B, offload", "neox_1b_12gb", "zero2_offload", 11.2, ("--gradient_accumulation_steps=4",)),
    Measurement("0.778B, 8-bit Adam", "neox_1b_16gb", "single_gpu", 11.2, ("--gradient_accumulation_steps=4",)),
    Measurement("0.778B for 8 GB", "neox_1b_8gb", "zero2_offload", 7.2, ("--gradient_accumulation_steps=2",)),
    Measurement("GPT-2 small", "aozora_gpt2_small", "single_gpu", 0, _GPT2),
    Measurement("GPT-2 small, compiled", "aozora_gpt2_small", "single_gpu", 0, (*_GPT2, "--torch_compile=true")),
    Measurement("4 B, QLoRA, for 8 GB", "qwen3_4b_qlora_12gb", "single_gpu", 7.2, _QLORA, "qwen3_4b"),
    Measurement("8 B, QLoRA, for 12 GB", "qwen3_4b_qlora_12gb", "single_gpu", 11.2, _QLORA, "qwen3_8b"),
)
_SHORT = ("--save_steps=0", "--eval_steps=1000000", "--logging_steps=1", "--warmup_steps=1", "--held_out_bytes=20000")
_SHORT += ("--max_new_tokens=8", "--sample_prompts=むかし、")
_NEW = ("--vocab_size=32000",)
# Without a GPU: a tiny model, and nothing that a CPU cannot do.
_TINY_MODEL = ("--model=neox-tiny", "--vocab_size=4000")
_TINY = ("--sequence_length=32", "--per_device_train_batch_size=2")
_TINY_SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
_TINY_SHAPE |= {"vocab_size": 4000, "num_attention_heads": 4, "num_key_value_heads": 2}
_TINY += ("--gradient_accumulation_steps=1", "--precision=fp32", "--optimizer=adamw", "--torch_compile=false")
LEGEND = f"""The cap is on what PyTorch reserves; the CUDA context, some 0.5 GiB, comes on top. Tensors and reserved
memory are peaks of the whole run, with evaluation and the proof of the saved model. Speed is the median of the steps
after the first {NUM_WARM_UP_STEPS}; MFU is tokens/s × operations a token ÷ the peak of the data sheet."""


def main() -> int:
    """Measure or rehearse, and write the report; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with a tiny model")
    parser.add_argument("--only", nargs="+", type=int, help="numbers of measurements, from 1")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/gpu_proof"))
    parser.add_argument("--output", type=Path, default=Path(f"benchmarks/gpu_proof-{time.strftime('%Y-%m-%d')}.md"))
    arguments = parser.parse_args()
    os.chdir(ROOT)
    if arguments.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    runs_here = arguments.rehearse or runtime.device().type == "cuda"
    if runs_here:
        shutil.rmtree(arguments.work_dir, ignore_errors=True)
        prepare(arguments.work_dir)
    chosen = [MEASUREMENTS[number - 1] for number in arguments.only or range(1, len(MEASUREMENTS) + 1)]
    lines, has_failed = heading(arguments.rehearse), False
    for measurement in chosen:
        if measurement.published:
            publish(measurement.published, arguments.work_dir, runs_here, arguments.rehearse)
        command = command_of(measurement, arguments.work_dir, arguments.rehearse)
        plan = expected(measurement, command_of(measurement, arguments.work_dir, rehearse=False))
        taken = run(command, arguments.work_dir) if runs_here else None
        lines.append(row(measurement, plan, taken, arguments.rehearse))
        print(lines[-1], file=sys.stderr, flush=True)
        has_failed |= bool(taken and taken["problem"])
    typed = shlex.join(command_of(chosen[0], arguments.work_dir, rehearse=False))
    report = "\n".join([*lines, "", LEGEND, "", "The first as typed:", "", f"    {typed}"]) + "\n"
    print(report)
    arguments.output.write_text(report, encoding="utf-8")
    return int(has_failed)


def prepare(work_dir: Path) -> None:
    """A corpus of 2 MB and a tokenizer of 4,000 ids; models get as many ids as they are to have."""
    work_dir.mkdir(parents=True)
    corpus, tokenizer = f"{work_dir}/corpus", f"{work_dir}/tokenizer"
    for words in (
        f"data builtin --num_bytes 2_000_000 --output_dir {corpus}",
        f"tokenizer train --vocab_size 4000 --input {corpus}/documents.jsonl --output_dir {tokenizer}",
    ):
        subprocess.run([sys.executable, "-m", "jpllm.cli", *words.split()], check=True, stdout=subprocess.DEVNULL)


def publish(name: str, work_dir: Path, with_weights: bool, is_tiny: bool) -> None:
    """Write a model of a published shape, with random bf16 weights and our tokenizer, or its configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    AutoConfig.for_model(**PUBLISHED[name]).save_pretrained(work_dir / name)  # what the plan is made of
    if not with_weights:
        return
    tokenizer = AutoTokenizer.from_pretrained(work_dir / "tokenizer")
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(**PUBLISHED[name] | ids | (_TINY_SHAPE if is_tiny else {}))
    folder = work_dir / f"{name}_weights"
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)


def command_of(measurement: Measurement, work_dir: Path, rehearse: bool) -> list[str]:
    """The launch command, shortened to a few steps; the part after the recipe is what it parses."""
    keys = [f"--config={CONFIGS}/{measurement.recipe}/{measurement.config}.yaml", *_SHORT, *measurement.keys]
    keys += _TINY if rehearse else ()
    if measurement.published:
        keys += [f"--model={work_dir}/{measurement.published}_weights"]
    else:
        keys += [*_NEW, *(_TINY_MODEL if rehearse else ()), f"--tokenizer={work_dir}/tokenizer"]
    keys += [f"--sources={work_dir}/corpus/documents.jsonl"]
    keys += [f"--shards_dir={work_dir}/shards", f"--output_dir={work_dir}/run"]
    last = {key.partition("=")[0]: key for key in keys}  # the recipe refuses a key that comes twice
    data, training = data_and_training(parsed(measurement.recipe, [*last.values()]))
    num_steps = 2 if rehearse else NUM_STEPS
    last["--tokens"] = f"--tokens={num_steps * training.blocks_per_step(1) * data.sequence_length}"
    launcher = ["accelerate", "launch", "--config_file", f"accelerate_configs/{measurement.launch}.yaml"]
    cap = ["benchmarks/gpu_cap.py", f"{measurement.cap_gib:g}", f"{work_dir}/taken.json"]
    return [*launcher, *cap, f"recipes/{measurement.recipe}.py", *last.values()]


def parsed(recipe: str, keys: list[str]) -> tuple:
    """The recipe's configuration, an instance of each class."""
    from jpllm.training.recipe_configs import RECIPES

    return parse(RECIPES[recipe], keys, prog="gpu_proof", description="")


def data_and_training(configuration: tuple) -> tuple[DataConfig, TrainingConfig]:
    """The instances of two of the classes."""
    data = next(part for part in configuration if isinstance(part, DataConfig))
    return data, next(part for part in configuration if isinstance(part, TrainingConfig))


def expected(measurement: Measurement, command: list[str]) -> dict[str, float | None]:
    """What `jpllm plan` says: bytes of tensors on the GPU and in the host, operations a token, and the GPU's peak."""
    from jpllm.models.presets import ModelConfig
    from jpllm.planning import hardware
    from jpllm.planning.memory import estimate, rehearsal_of
    from jpllm.planning.recipes import run_of
    from jpllm.planning.rehearsal import rehearse
    from jpllm.planning.size import flops_per_token

    script = f"recipes/{measurement.recipe}.py"
    keys = command[command.index(script) + 1 :]
    if measurement.published:  # the folder of the configuration alone
        keys = [word.removesuffix("_weights") if word.startswith("--model=") else word for word in keys]
    configuration = parsed(measurement.recipe, keys)
    data, _ = data_and_training(configuration)
    here = hardware.resolve(hardware.HardwareConfig())
    where = here if here.on_gpu else hardware.resolve(hardware.HardwareConfig(gpu_memory_gib=measurement.cap_gib or 12))
    shapes = [part for part in configuration if isinstance(part, ModelConfig)]
    shape = shapes[0] if shapes else ModelConfig(model=configuration[0].model)
    planned = run_of(measurement.recipe, configuration, shape, where).planned
    size, setup = planned.size(), planned.setup(where, measurement.engine)
    memory = estimate(size, setup, rehearse(planned.model, rehearsal_of(setup)))
    return {
        "tensors": memory.tensors,
        "host": memory.host,
        "flops_per_token": flops_per_token(size, data.sequence_length),
        "peak_flops": here.half_tflops and here.half_tflops * 1e12,
    }


def run(command: list[str], work_dir: Path) -> dict:
    """Run it as a user would; what it took, and `problem`: "" or the reason of a failure."""
    record, run_dir, log = work_dir / "taken.json", work_dir / "run", work_dir / "log.txt"
    shutil.rmtree(run_dir, ignore_errors=True)
    record.unlink(missing_ok=True)
    started = time.monotonic()
    launched = [sys.executable, "-m", "accelerate.commands.launch", *command[2:]]
    try:
        done = subprocess.run(launched, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        output, problem = done.stdout + done.stderr, "" if done.returncode == 0 else reason(done.stderr)
    except subprocess.TimeoutExpired:
        output, problem = "", f"not done after {TIMEOUT_SECONDS} seconds"
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{shlex.join(command)}\n{output}\n")
    metrics = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    steps = [row for row in rows if "loss" in row]
    return {
        **(json.loads(record.read_text()) if record.exists() else {"tensors": None, "reserved": None, "host": None}),
        "seconds": time.monotonic() - started,
        "speeds": [row["tokens_per_second"] for row in steps[NUM_WARM_UP_STEPS:]],
        "losses": [row["loss"] for row in steps],
        "problem": problem,
    }


def reason(stderr: str) -> str:
    """The line that says why a process ended."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith("error:") or "Error: " in line]
    return next((line for line in telling if "CalledProcessError" not in line), lines[-1] if lines else "no message")


def row(measurement: Measurement, plan: dict, taken: dict | None, rehearse: bool) -> str:
    """A line of the table: measured beside expected."""
    name = f"{measurement.name} (`{measurement.config}`)"
    cap = f"{measurement.cap_gib:g}" if measurement.cap_gib else "none"
    if taken is None or rehearse:
        said = "not measured"
        if taken:
            said += f"; rehearsal FAILED: {taken['problem']}" if taken["problem"] else "; rehearsal passed"
        return f"| {name} | {cap} | {said} | | {gib(plan['tensors'])} | | | {gib(plan['host'])} | | | |"
    said = f"FAILED: {taken['problem'][:200].replace('|', ' ')}" if taken["problem"] else "fits"
    speed = statistics.median(taken["speeds"]) if taken["speeds"] else None
    mfu = speed * plan["flops_per_token"] / plan["peak_flops"] if speed and plan["peak_flops"] else None
    losses = f"{taken['losses'][0]:.2f} → {taken['losses'][-1]:.2f}" if taken["losses"] else ""
    return (
        f"| {name} | {cap} | {said} | {gib(taken['tensors'])} | {gib(plan['tensors'])} | {gib(taken['reserved'])} | "
        f"{gib(taken['host'])} | {gib(plan['host'])} | {f'{speed:,.0f}' if speed else ''} | "
        f"{f'{mfu:.1%}' if mfu else ''} | {losses} |"
    )


def gib(num_bytes: float | None) -> str:
    """Two digits after the point, nothing for None."""
    return "" if num_bytes is None else f"{num_bytes / GIB:.2f}"


def heading(rehearse: bool) -> list[str]:
    """When, where, and the head of the table."""
    import torch

    if runtime.device().type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        where = f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, CUDA {torch.version.cuda}"
    else:
        where = "No NVIDIA GPU" + (", a rehearsal with tiny models on a CPU" if rehearse else "")
    versions = ", ".join(f"{name} {version}" for name, version in runtime.versions().items())
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return [
        f"# Proof on a GPU ({time.strftime('%Y-%m-%d')})",
        "",
        f"{where}; {runtime.num_cores()} cores; {versions}; commit {commit}.",
        "",
        "| what | cap, GiB | result | tensors, GiB | plan | reserved, GiB | host, GiB | plan | tokens/s | MFU | loss |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]


if __name__ == "__main__":
    sys.exit(main())
