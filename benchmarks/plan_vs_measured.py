"""What `jpllm plan` predicts of a training step's memory, beside what five real steps take.

  python benchmarks/plan_vs_measured.py --output benchmarks/plan_vs_measured.md

Each case trains a new model on random ids in a process of its own, with the recipes' Trainer. What is compared is all
tensors: weights, gradients, optimizer, activations, logits. On a GPU the measure is `torch.cuda.max_memory_allocated`.
On a CPU it is the resident memory, as the kernel counts it, that the process gained since before the model was built;
glibc is told to give each tensor pages of its own, so that the gaps of its heap are not in it. The file that holds the
output of frozen layers is mapped, so it counts there too.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from jpllm import runtime
from jpllm.models import build
from jpllm.models.presets import ModelConfig
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts
from jpllm.planning import calibrate
from jpllm.planning.memory import estimate, rehearsal_of
from jpllm.planning.rehearsal import rehearse
from jpllm.planning.report import MIB
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import VocabularyOnly, model_size
from jpllm.training.arguments import choose_precision
from jpllm.training.config import TrainingConfig

SMALL_GPT2 = {"model": "gpt2-small", "num_layers": 4}
SMALL_NEOX = {"model": "neox-160m", "num_layers": 6, "hidden_size": 512, "num_heads": 8, "intermediate_size": 2048}
SMALL_LLAMA = {"model": "llama-160m", "num_layers": 6, "hidden_size": 512, "num_heads": 8, "intermediate_size": 1408}
LARGER_LLAMA = {"model": "llama-160m", "num_layers": 6, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096}
SMALL_BERT = {"model": "bert-base", "num_layers": 4}
LORA = TrainedParts(lora_rank=16, lora_dropout=0.05)
LORA_BF16 = replace(LORA, frozen_dtype="bfloat16", saved_dtype="bfloat16")
QLORA = replace(LORA, frozen_dtype="nf4", saved_dtype="bfloat16")


@dataclass(frozen=True)
class Case:
    """A model and the keys of its training."""

    model: dict
    num_ids: int = 16_000
    sequence_length: int = 256
    training: dict = field(default_factory=dict)
    isolates: bool = False
    trained_parts: TrainedParts = ALL_PARTS
    keeps_trunk: bool = False

    def __str__(self) -> str:
        keys = {"per_device_train_batch_size": "micro-batch", "gradient_accumulation_steps": "accumulation"}
        settings = [f"{keys.get(key, key)} {value}" for key, value in self.training.items()]
        trained_parts = self.trained_parts
        ways = {
            "isolate_documents": self.isolates,
            f"lora_rank {trained_parts.lora_rank}": trained_parts.lora_rank,
            f"frozen weights in {trained_parts.frozen_dtype}": trained_parts.frozen_dtype != "float32",
            f"classifier, {trained_parts.classifier} learns": trained_parts.classifier,
            "kept trunk output": self.keeps_trunk,
        }
        return ", ".join([self.model["model"], *settings, *(name for name, is_so in ways.items() if is_so)])


def batch(micro_batch: int, accumulation: int = 1, **keys: object) -> dict:
    return {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation, **keys}


CPU_CASES = [
    Case(SMALL_GPT2, training=batch(4)),
    Case(SMALL_GPT2, training=batch(4, 2, chunked_loss=False)),
    Case(SMALL_GPT2, training=batch(8, 2, activation_checkpointing=True)),
    Case(SMALL_NEOX, training=batch(8)),
    Case(SMALL_NEOX, training=batch(8, 1, chunked_loss=False), isolates=True),
    Case(SMALL_NEOX, training=batch(4, 2, precision="bf16")),
    Case(SMALL_LLAMA, training=batch(8)),
    Case(SMALL_LLAMA, training=batch(8, 1, activation_checkpointing=True)),
    Case(SMALL_LLAMA, training=batch(4, 1, optimizer="muon")),
    Case(SMALL_BERT, training=batch(8)),
    Case(SMALL_LLAMA, training=batch(8), trained_parts=LORA),
    Case(SMALL_NEOX, training=batch(8, 2, activation_checkpointing=True), isolates=True, trained_parts=LORA),
    *(
        Case(LARGER_LLAMA, training=batch(2, 1, **keys), trained_parts=parts)
        for parts in (LORA, LORA_BF16, QLORA)
        for keys in ({"precision": "bf16"}, {"precision": "bf16", "activation_checkpointing": True})
    ),
    Case(LARGER_LLAMA, training=batch(2), trained_parts=QLORA),
    Case(SMALL_GPT2, training=batch(16), trained_parts=TrainedParts("last_block"), keeps_trunk=True),
    Case(SMALL_LLAMA, training=batch(16), trained_parts=TrainedParts("last_block")),
    Case(SMALL_BERT, training=batch(8), trained_parts=TrainedParts("all")),
]
GPU_CASES = [
    Case({"model": "gpt2-small"}, 32_000, 1024, batch(8, 2)),
    Case({"model": "gpt2-small"}, 32_000, 1024, batch(8, 1, chunked_loss=False)),
    Case({"model": "gpt2-small", "dropout": 0.1}, 32_000, 1024, batch(8, 2), isolates=True),
    Case({"model": "llama-160m"}, 32_000, 1024, batch(8, 2)),
    Case({"model": "neox-1b"}, 32_000, 1024, batch(4, 2)),
    Case({"model": "neox-1b"}, 32_000, 1024, batch(4, 2, activation_checkpointing=True)),
    Case({"model": "neox-1b"}, 32_000, 1024, batch(8, 2, activation_checkpointing=True, chunked_loss=False)),
    Case({"model": "neox-1b"}, 32_000, 1024, batch(4, 2, activation_checkpointing=True, optimizer="adamw_8bit")),
    Case({"model": "bert-base"}, 32_000, 512, batch(16, 2)),
    Case(
        {"model": "neox-1b"},
        32_000,
        1024,
        batch(4, 2, activation_checkpointing=True),
        isolates=True,
        trained_parts=LORA,
    ),
    Case({"model": "gpt2-small"}, 32_000, 512, batch(16), trained_parts=TrainedParts("last_block"), keeps_trunk=True),
    Case({"model": "bert-base"}, 32_000, 512, batch(16), trained_parts=TrainedParts("all")),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown report")
    parser.add_argument("--only", default="", help="cases whose description holds this text")
    arguments = parser.parse_args()
    on_gpu = runtime.device().type == "cuda"
    lines = [
        f"# Memory: predicted and measured ({time.strftime('%Y-%m-%d')})",
        "",
        f"{device_name(on_gpu)}, Python {platform.python_version()}; commit {commit()}. Tensors at their peak, in MiB.",
        "",
        "| case | parameters | trained | predicted | measured | predicted / measured |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in (case for case in (GPU_CASES if on_gpu else CPU_CASES) if arguments.only in str(case)):
        lines.append(row(case, on_gpu))
        print(lines[-1], file=sys.stderr, flush=True)
    report = "\n".join(lines) + "\n"
    print(report)
    if arguments.output:
        arguments.output.write_text(report, encoding="utf-8")


def row(case: Case, on_gpu: bool) -> str:
    """Predict and measure one case."""
    model = ModelConfig(**case.model)
    is_masked = model.shape.is_encoder and not case.trained_parts.classifier
    architecture = build.transformers_config(model, VocabularyOnly(case.num_ids))
    architecture.pad_token_id, architecture.num_labels = 0, 2  # of classifiers
    keys = {"output_dir": Path("unused"), "tokens": 1, "precision": "auto" if on_gpu else "fp32", **case.training}
    training = TrainingConfig(**keys)
    setup = TrainingSetup(
        micro_batch=training.per_device_train_batch_size,
        sequence_length=case.sequence_length,
        accumulation=training.gradient_accumulation_steps,
        arithmetic=choose_precision(training.precision),
        optimizer=training.optimizer,
        activation_checkpointing=training.activation_checkpointing,
        chunked_loss=training.chunked_loss,
        isolates=case.isolates,
        masked_share=0.15 if is_masked else 0.0,
        trained_parts=case.trained_parts,
        keeps_trunk=case.keeps_trunk,
        on_gpu=on_gpu,
    )
    size = model_size(architecture, is_masked, case.trained_parts)
    if case.keeps_trunk:  # each row is a token shorter or not
        num_tokens = calibrate.NUM_STEPS * setup.tokens_per_step
        setup = replace(setup, kept_bytes=4 * num_tokens * architecture.hidden_size)
    memory = estimate(size, setup, rehearse(architecture, rehearsal_of(setup)))
    predicted = memory.tensors + memory.mapped
    measured = calibrate.measure(architecture, training, setup).peak_bytes
    return (
        f"| {case} | {size.num_saved:,} | {size.num_trainable:,} | {predicted / MIB:,.0f} | {measured / MIB:,.0f} | "
        f"{predicted / measured:.3f} |"
    )


def device_name(on_gpu: bool) -> str:
    import torch

    return torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {runtime.num_cores()} cores"


def commit() -> str:
    command = ["git", "describe", "--always", "--exclude", "*", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
