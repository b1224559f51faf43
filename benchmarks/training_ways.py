"""One way to train, timed in this process; `train_step.py` runs each in a process of its own.

python benchmarks/training_ways.py WAY SIZE     prints seconds a step and the mean loss as JSON
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from jpllm import runtime

NUM_WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Size:
    """What is trained: a GPT-2 and its batches."""

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    sequence_length: int
    batch_size: int
    num_steps: int

    def __str__(self) -> str:
        return (
            f"GPT-2 of {self.num_layers} layers × {self.hidden_size}, vocabulary {self.vocab_size:,}, "
            f"{self.batch_size} × {self.sequence_length} tokens a step, {self.num_steps} steps timed"
        )


SIZES = {
    "cpu": Size(256, 4, 4, 16_000, 512, 4, num_steps=8),
    "cuda": Size(768, 12, 12, 32_000, 1024, 16, num_steps=30),
    "rehearsal": Size(32, 2, 2, 500, 32, 2, num_steps=2),
}


class RandomTokens:
    """Stands in for token shards: random ids, the same in every process."""

    eos_token_id, bos_token_id = 0, None

    def __init__(self, size: Size) -> None:
        import numpy as np

        num_tokens = (NUM_WARM_UP_STEPS + size.num_steps) * size.batch_size * size.sequence_length
        self.ids = np.random.default_rng(0).integers(0, size.vocab_size, num_tokens)
        self.size = SimpleNamespace(num_tokens=num_tokens)

    def tokens(self, start: int, stop: int):
        """Ids from `start` to before `stop`, int64."""
        return self.ids[start:stop].copy()


def half_precision() -> str | None:
    """bf16 where the hardware has instructions for it, fp16 on older GPUs, None on other CPUs."""
    from jpllm.training.arguments import choose_precision

    if runtime.device().type == "cuda":
        return choose_precision("auto")
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(cpu_flags()) else None


def cpu_flags() -> list[str]:
    """What /proc/cpuinfo says that the first core can do."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def measure(way: str, size: Size) -> dict:
    """Train one way in this process; seconds a step, and the mean loss."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config

    runtime.use_all_cores()
    torch.manual_seed(0)
    sizes = {"n_embd": size.hidden_size, "n_layer": size.num_layers, "n_head": size.num_heads}
    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    special = {"vocab_size": size.vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_positions=size.sequence_length, **sizes, **special, **no_dropout)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    model.loss_type = "ForCausalLM"
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loss = WAYS[way](model, size, Path(folder), lambda: times.append(now()))
    timed = times[NUM_WARM_UP_STEPS - 1 :]
    return {"seconds": (timed[-1] - timed[0]) / size.num_steps, "loss": loss}


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    import torch

    if runtime.device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def run_clm(model, size: Size, folder: Path, step_ended, **settings) -> float:
    """Trainer with its defaults, on a dataset of lists."""
    import datasets
    from transformers import Trainer, TrainingArguments, default_data_collator

    blocks = RandomTokens(size).ids.reshape(-1, size.sequence_length).tolist()
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=NUM_WARM_UP_STEPS + size.num_steps,
        per_device_train_batch_size=size.batch_size,
        use_cpu=runtime.device().type == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks}),
        data_collator=default_data_collator,
        callbacks=[at_step_end(step_ended)],
    )
    return trainer.train().training_loss


def ours(model, size: Size, folder: Path, step_ended, **settings) -> float:
    """The trainer of the recipes with their callbacks."""
    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.models.losses import use_chunked_loss
    from jpllm.training.arguments import training_arguments
    from jpllm.training.callbacks import LossScaleGuard, MetricsRecorder, SampleWriter, StopInTime
    from jpllm.training.causal import CausalLMTrainer
    from jpllm.training.facts import Facts
    from jpllm.training.run_data import Clock

    config = our_settings(size, folder, **settings)
    use_chunked_loss(model)
    num_steps = NUM_WARM_UP_STEPS + size.num_steps
    arguments = training_arguments(config, num_steps, config.precision)
    arguments.eval_strategy, arguments.eval_on_start = "no", False
    clock = Clock(size.batch_size * size.sequence_length, num_steps * size.batch_size * size.sequence_length)
    trainer = CausalLMTrainer(
        model=model,
        args=arguments,
        train_dataset=BlockDataset([RandomTokens(size)], size.sequence_length, num_steps * size.batch_size),
        config=config,
        facts=Facts("random tokens", "none", {}),
        held_out=[],
        eos_token_id=0,
        context_length=size.sequence_length,
        callbacks=[SampleWriter(folder, clock, [], None), MetricsRecorder(folder, clock), StopInTime(None)],
    )
    trainer.add_callback(LossScaleGuard(trainer.accelerator))
    trainer.add_callback(at_step_end(step_ended))
    return trainer.train().training_loss


def our_settings(size: Size, folder: Path, **settings):
    """The defaults of the recipes, in fp32 unless `settings` say otherwise."""
    from jpllm.training.config import TrainingConfig

    batch = {"per_device_train_batch_size": size.batch_size, "tokens": 1, "save_steps": 0}
    return TrainingConfig(output_dir=folder, **batch, **{"precision": "fp32"} | settings)


def bare(model, size: Size, folder: Path, step_ended) -> float:
    """What our settings come to in fp32, and nothing else: no logs, no checks, no callbacks."""
    import torch
    from transformers import get_scheduler
    from transformers.utils.import_utils import enable_tf32

    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.models.losses import use_chunked_loss

    config, num_steps = our_settings(size, folder), NUM_WARM_UP_STEPS + size.num_steps
    use_chunked_loss(model)
    model.to(runtime.device()).train()
    if model.device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        enable_tf32(True)  # as ours
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (config.adam_beta1, config.adam_beta2)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)
    warm_up_steps = math.ceil(num_steps * config.warmup_steps)
    schedule = get_scheduler(config.lr_scheduler_type, optimizer, warm_up_steps, num_steps)
    blocks = BlockDataset([RandomTokens(size)], size.sequence_length, num_steps * size.batch_size)
    losses = torch.zeros((), device=model.device)
    for batch in torch.utils.data.DataLoader(blocks, size.batch_size):
        loss = model(**{name: value.to(model.device) for name, value in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses += loss.detach()
        step_ended()
    return losses.item() / num_steps


def at_step_end(step_ended):
    """A callback of Trainer that calls `step_ended` after each optimizer step."""
    from transformers import TrainerCallback

    callback = TrainerCallback()
    callback.on_step_end = lambda *_, **__: step_ended()
    return callback


WAYS = {
    "run_clm": run_clm,
    "run_clm_unfused": lambda *args: run_clm(*args, optim="adamw_torch"),
    "bare": bare,
    "ours_fp32": ours,
    "ours_half": lambda *args: ours(*args, precision=half_precision()),
    "compiled_fp32": lambda *args: ours(*args, torch_compile=True),
    "compiled_half": lambda *args: ours(*args, precision=half_precision(), torch_compile=True),
}

if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], SIZES[sys.argv[2]])))
