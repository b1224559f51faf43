"""Memory of the output layer and the loss: in chunks against all logits at once, at vocabularies of Japanese models.

  python benchmarks/head_memory.py --output benchmarks/head_memory.md

Each number is from a process of its own: the largest memory during a forward and a backward pass, above what was there
before. On a GPU it is what PyTorch's allocator counts, in half precision; on a CPU the growth of the process, in fp32.

  head   the output layer and the loss alone: logits, probabilities, and the gradients for hidden states and weights
  step   a whole GPT-2 small
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from jpllm import runtime

VOCABULARIES = {48_000: 2.0, 100_000: 2.3, 256_000: 2.3}  # → how many times less memory the head is to take
HIDDEN_SIZE, SEQUENCE_LENGTH = 768, 1024
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=2, help=f"blocks of {SEQUENCE_LENGTH:,} tokens")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=list(VOCABULARIES))
    parser.add_argument("--output", type=Path, help="Markdown report")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        what, loss, vocabulary = arguments.worker
        print(json.dumps(peak_bytes(what, loss == "chunked", int(vocabulary), arguments.batch_size)))
        return
    report = "\n".join([*heading(arguments.batch_size), "", *table(arguments)]) + "\n"
    print(report)
    if arguments.output:
        arguments.output.write_text(report, encoding="utf-8")


def heading(batch_size: int) -> list[str]:
    """When, where and what."""
    import torch

    on_gpu = runtime.device().type == "cuda"
    return [
        f"# Memory of the output layer and the loss ({time.strftime('%Y-%m-%d')})",
        "",
        f"Width {HIDDEN_SIZE}, {batch_size} × {SEQUENCE_LENGTH:,} tokens; "
        f"{torch.cuda.get_device_name() + ', autocast' if on_gpu else 'CPU, fp32'}; torch {torch.__version__}.",
    ]


def table(arguments: argparse.Namespace) -> list[str]:
    """A row for each vocabulary, alone and in a step."""
    rows = [
        "| what | vocabulary | all at once, MiB | in chunks, MiB | times less | goal |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for what in ("head", "step"):
        for vocabulary in arguments.vocabularies:
            whole, chunked = (run_worker(what, loss, vocabulary, arguments) for loss in ("whole", "chunked"))
            ratio, goal = whole / chunked, VOCABULARIES.get(vocabulary) if what == "head" else None
            verdict = f"at least {goal}: {'reached' if ratio >= goal else 'not reached'}" if goal else ""
            row = f"| {what} | {vocabulary:,} | {whole / MIB:,.0f} | {chunked / MIB:,.0f} | {ratio:.1f} | {verdict} |"
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def run_worker(what: str, loss: str, vocabulary: int, arguments: argparse.Namespace) -> int:
    """Peak bytes, from a process of its own that gives freed memory back at once."""
    command = [sys.executable, __file__, "--worker", what, loss, str(vocabulary)]
    command += ["--batch_size", str(arguments.batch_size)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_bytes(what: str, is_chunked: bool, vocabulary: int, batch_size: int) -> int:
    """The largest memory of a forward and a backward pass, above that of weights and inputs."""
    import torch

    from jpllm.training import machine

    runtime.use_all_cores()
    on_gpu = runtime.device().type == "cuda"
    prepare = {"head": head_pass, "step": step_pass}[what]
    prepare(is_chunked, 64, 1, length=8)()  # loads what is loaded at first use
    run = prepare(is_chunked, vocabulary, batch_size, SEQUENCE_LENGTH)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    machine.forget_peak()
    before = machine.resident_bytes()
    run()
    return machine.resident_bytes(peak=True) - before


def head_pass(is_chunked: bool, vocabulary: int, batch_size: int, length: int):
    """A forward and a backward pass of the output layer and the loss, given hidden states."""
    import torch
    from torch.nn.functional import linear
    from transformers.loss.loss_utils import ForCausalLMLoss

    from jpllm.models.losses import causal_loss

    device = runtime.device()
    weight = torch.randn(vocabulary, HIDDEN_SIZE, device=device).mul_(0.02).requires_grad_()
    hidden = torch.randn(batch_size, length, HIDDEN_SIZE, device=device, requires_grad=True)
    labels = torch.randint(0, vocabulary, (batch_size, length), device=device)

    def run() -> None:
        with autocast():
            if is_chunked:
                loss = causal_loss(hidden, weight, labels, labels.numel())
            else:
                loss = ForCausalLMLoss(linear(hidden, weight), labels, vocabulary)
        loss.backward()

    return run


def step_pass(is_chunked: bool, vocabulary: int, batch_size: int, length: int):
    """A forward and a backward pass of a GPT-2 small."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    from jpllm.models.losses import use_chunked_loss

    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    config = GPT2Config(vocab_size=vocabulary, n_positions=length, bos_token_id=0, eos_token_id=0, **no_dropout)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(runtime.device()).train()
    model.loss_type, model.config.use_cache = "ForCausalLM", False
    if is_chunked:
        use_chunked_loss(model)
    ids = torch.randint(0, vocabulary, (batch_size, length), device=model.device)

    def run() -> None:
        with autocast():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    return run


def autocast():
    """Half precision on a GPU, as training has it there."""
    import torch

    from jpllm.training.arguments import choose_precision

    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision("auto"), torch.bfloat16)
    device = runtime.device().type
    return torch.autocast(device, half, enabled=device == "cuda")


if __name__ == "__main__":
    main()
