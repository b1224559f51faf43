"""Whether a training run fits its hardware, and the ways to make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from math import log2
from typing import TYPE_CHECKING, Any

from jpllm.planning.hardware import FP32_SLOWDOWN, FP32_SLOWDOWN_WITH_TF32, Hardware
from jpllm.planning.memory import (
    GPU_OVERHEAD_BYTES,
    Memory,
    estimate,
    evaluation_bytes,
    evaluation_of,
    rehearsal_of,
    states,
)
from jpllm.planning.setup import TrainingSetup, changes, is_possible
from jpllm.planning.size import ModelSize
from jpllm.runtime import InputError
from jpllm.training.engine import PlannedEngine
from jpllm.training.optimizer import OPTIMIZERS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from jpllm.planning.rehearsal import Rehearsal, StepBytes

NUM_ALTERNATIVES = 3
COMFORTABLE = 0.95  # of the memory; above it the gaps that the allocator leaves between tensors decide
# The simple ones first; each next one needs less memory of a GPU, and more of something else.
ENGINES_ONE_GPU: tuple[PlannedEngine, ...] = ("single", "zero2_offload", "zero3_offload")
ENGINES_TPU: tuple[PlannedEngine, ...] = ("xla",)
ENGINES_MANY_GPUS: tuple[PlannedEngine, ...] = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
# How much longer a step takes: estimates, to order the ways that fit. Only that of checkpointing is arithmetic: one
# more forward pass, beside a forward pass and a backward one of twice its size.
CHECKPOINTING_TIME = 4 / 3
HALF_MICRO_BATCH_TIME = 1.03
# Weights are made 16-bit in each pass: https://magazine.sebastianraschka.com/p/practical-tips-for-finetuning-llms
FOUR_BIT_TIME = 1.39
ADAMW_OPTIMIZERS = [name for name, optimizer in OPTIMIZERS.items() if optimizer.is_adamw]
ENGINE_TIME = {
    "single": 1.0,
    "ddp": 1.0,
    "xla": 1.0,
    "zero1": 1.02,
    "zero2": 1.03,
    "zero3": 1.2,
    "fsdp2": 1.2,
    "zero3_offload": 1.5,
}
OFFLOAD_TOKENS = 1638  # zero2_offload moves all gradients each step: a tenth of the time of 16,384 tokens on a GPU


@dataclass(frozen=True)
class Candidate:
    """A way to train, and what it takes.

    Attributes:
        changes: keys that differ from what was asked for, with their values.
        time_factor: how much longer than one process without any of the savings.
    """

    setup: TrainingSetup
    memory: Memory
    changes: dict[str, object]
    time_factor: float

    def fits(self, hardware: Hardware, share: float = 1.0) -> bool:
        """Return whether there is memory enough, on the device (a share of it) and in the host."""
        enough = self.memory.claimed <= share * hardware.memory
        host = max(self.memory.host, self.memory.host_resuming)
        return enough and (hardware.host is None or host <= hardware.host)


@dataclass(frozen=True)
class Search:
    """Looks for ways to train a model on the hardware.

    Attributes:
        engine: the only one to be considered, or None.
    """

    config: PretrainedConfig
    size: ModelSize
    hardware: Hardware
    engine: PlannedEngine | None = None
    _rehearsed: dict[Rehearsal, StepBytes] = field(default_factory=dict)

    @property
    def engines(self) -> tuple[PlannedEngine, ...]:
        """Those to be considered, the simplest first."""
        if not self.hardware.on_gpu:
            return ("single",)
        if self.hardware.is_tpu:
            return ENGINES_TPU
        if self.engine:
            return (self.engine,)
        return ENGINES_ONE_GPU if self.hardware.num_gpus == 1 else ENGINES_MANY_GPUS

    def candidate(self, setup: TrainingSetup, asked: TrainingSetup) -> Candidate:
        """Return the setup with its memory and what it changes of `asked`."""
        memory = estimate(self.size, setup, self._bytes_of(rehearsal_of(setup)), self._bytes_of_evaluation(setup))
        return Candidate(setup, memory, changes(asked, setup), time_factor(setup, asked.micro_batch))

    def best(self, asked: TrainingSetup) -> Candidate:
        """Return what was asked for, with the first engine that fits it; with the first one where none does.

        Raises InputError if no engine to be considered, or LoRA, takes the optimizer.
        """
        first = None
        for setup in filter(is_possible, (replace(asked, engine=engine) for engine in self.engines)):
            candidate = self.candidate(setup, asked)
            if candidate.fits(self.hardware):
                return candidate
            first = first or candidate
        if first is None:
            raise InputError(self._contradiction(asked))
        return first

    def _contradiction(self, asked: TrainingSetup) -> str:
        """Return why no engine to be considered can train what was asked for."""
        engine = self.engine or self.engines[0]
        if any(is_possible(replace(asked, engine=engine, optimizer="adamw")) for engine in self.engines):
            has_lora = asked.trained_parts.lora_rank and asked.optimizer == "muon"
            what = "LoRA" if has_lora else f"engine {engine}"
            return f"optimizer: {asked.optimizer} does not work with {what}; write adamw"
        if asked.trained_parts.frozen_dtype == "nf4":
            return f"quantization: 4-bit weights are for single or ddp on GPUs, or a CPU, not for engine {engine}"
        return f"lora_rank: engine {engine} cuts up weights, and LoRA's are merged whole; write single, ddp or zero2"

    def alternatives(self, asked: TrainingSetup) -> list[Candidate]:
        """Return the fastest other ways that fit, at the same tokens per optimizer step.

        None does all that another one does and something more.
        """
        found: list[Candidate] = []

        def cost(setup: TrainingSetup) -> tuple[float, int]:
            return time_factor(setup, asked.micro_batch), len(changes(asked, setup))

        for setup in sorted(self._setups(asked), key=cost):
            kinds = changes(asked, setup).keys()
            if any(other.changes.keys() <= kinds for other in found) or not self._may_fit(setup):
                continue
            candidate = self.candidate(setup, asked)
            if candidate.fits(self.hardware, COMFORTABLE):
                found.append(candidate)
            if len(found) == NUM_ALTERNATIVES:
                break
        return found

    def savings(self, asked: TrainingSetup) -> list[Candidate]:
        """Return what each change alone saves, the most first; those that save nothing are left out."""
        half = {"micro_batch": asked.micro_batch // 2, "accumulation": asked.accumulation * 2}
        if asked.micro_batch % 2:
            half = {"micro_batch": 1, "accumulation": asked.accumulation * asked.micro_batch}
        ways: list[dict[str, Any]] = [
            half,
            {"activation_checkpointing": True},
            {"chunked_loss": True},
            {"eval_batch": 1},
        ]
        if self.hardware.on_gpu:
            ways += [
                *({"optimizer": name} for name in ADAMW_OPTIMIZERS if name != "adamw"),
                *({"engine": engine} for engine in self.engines),
            ]
        setups = [setup for setup in (replace(asked, **way) for way in ways) if setup != asked and is_possible(setup)]
        peak = self.candidate(asked, asked).memory.peak
        found = [self.candidate(setup, asked) for setup in dict.fromkeys(setups)]
        return sorted((way for way in found if way.memory.peak < peak), key=lambda way: way.memory.peak)

    def _setups(self, asked: TrainingSetup) -> Iterator[TrainingSetup]:
        """Yield all ways but the one asked for, with the same tokens per optimizer step."""
        blocks = asked.micro_batch * asked.accumulation
        optimizers = dict.fromkeys([asked.optimizer, *(ADAMW_OPTIMIZERS if self.hardware.on_gpu else [])])
        for engine, chunked_loss, micro_batch, checkpointing, optimizer in product(
            self.engines,
            {True, asked.chunked_loss},
            [size for size in range(1, asked.micro_batch + 1) if asked.micro_batch % size == 0],
            {True, asked.activation_checkpointing},
            optimizers,
        ):
            setup = replace(
                asked,
                engine=engine,
                chunked_loss=chunked_loss,
                micro_batch=micro_batch,
                accumulation=blocks // micro_batch,
                activation_checkpointing=checkpointing,
                optimizer=optimizer,
            )
            if not self._evaluation_fits(setup):
                setup = replace(setup, eval_batch=1)  # costs next to nothing
            if setup != asked and is_possible(setup):
                yield setup

    def _bytes_of(self, step: Rehearsal) -> StepBytes:
        """Return what a rehearsal counts; each is run once."""
        from jpllm.planning.rehearsal import rehearse

        if step not in self._rehearsed:
            self._rehearsed[step] = rehearse(self.config, step)
        return self._rehearsed[step]

    def _bytes_of_evaluation(self, setup: TrainingSetup) -> StepBytes | None:
        """What a rehearsal of the setup's evaluation counts; None where its logits say all."""
        step = evaluation_of(setup)
        return None if step is None else self._bytes_of(step)

    def _evaluation_fits(self, setup: TrainingSetup) -> bool:
        lasting = states(self.size, setup).lasting
        evaluation = evaluation_bytes(self.size, setup, self._bytes_of_evaluation(setup))
        needed = lasting + evaluation + GPU_OVERHEAD_BYTES
        return needed <= COMFORTABLE * self.hardware.memory

    def _may_fit(self, setup: TrainingSetup) -> bool:
        """Return False where it cannot fit: by its states alone, or by activations known from other micro-batches."""
        step, fixed = rehearsal_of(setup), states(self.size, setup)
        known = [
            other.activations * step.batch_size // done.batch_size
            for done, other in self._rehearsed.items()
            if replace(done, batch_size=step.batch_size) == step
        ]
        least = fixed.lasting + max([fixed.at_step, *known])
        return least <= self.hardware.memory


def peak_tflops(where: Hardware, setup: TrainingSetup) -> float | None:
    """Return the peak of all GPUs in the arithmetic of the setup; None where it is not known."""
    if where.half_tflops is None:
        return None
    slowdown = 1
    if setup.arithmetic == "fp32":
        slowdown = FP32_SLOWDOWN_WITH_TF32 if where.has_bf16 else FP32_SLOWDOWN
    return where.half_tflops * where.num_gpus / slowdown


def time_factor(setup: TrainingSetup, asked_micro_batch: int) -> float:
    """Return how much longer a step takes than on GPUs that need none of the savings."""
    if setup.engine == "zero2_offload":
        factor = 1 + OFFLOAD_TOKENS * setup.num_processes / setup.tokens_per_step
    else:
        factor = ENGINE_TIME[setup.engine]
    factor *= CHECKPOINTING_TIME if setup.activation_checkpointing else 1
    factor *= FOUR_BIT_TIME if setup.trained_parts.frozen_dtype == "nf4" else 1
    factor *= OPTIMIZERS[setup.optimizer].time_factor
    return factor * HALF_MICRO_BATCH_TIME ** log2(asked_micro_batch / setup.micro_batch)
