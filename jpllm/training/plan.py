"""Whether a training run fits its hardware, and the ways to make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from math import log2
from typing import TYPE_CHECKING

from jpllm.models import estimate
from jpllm.models.estimate import Memory, evaluation_of, rehearsal_of
from jpllm.models.gpus import FP32_SLOWDOWN, FP32_SLOWDOWN_WITH_TF32
from jpllm.models.scheme import Arithmetic, Engine, Scheme
from jpllm.models.size import ModelSize
from jpllm.runtime import InputError
from jpllm.training.arguments import refuse_fp16_on_cpu
from jpllm.training.config import TrainingConfig
from jpllm.training.hardware import Hardware

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from jpllm.models.alive_bytes import StepBytes
    from jpllm.models.rehearsal import Rehearsal

NUM_ALTERNATIVES = 3
COMFORTABLE = 0.95  # of the memory; above it the gaps that the allocator leaves between tensors decide
# The simple ones first; each next one needs less memory of a GPU, and more of something else.
ENGINES_ONE_GPU: tuple[Engine, ...] = ("single", "zero2_offload", "zero3_offload")
ENGINES_TPU: tuple[Engine, ...] = ("xla",)
ENGINES_MANY_GPUS: tuple[Engine, ...] = ("ddp", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
# How much longer a step takes: estimates, to order the ways that fit. Only that of checkpointing is arithmetic: one
# more forward pass, beside a forward pass and a backward one of twice its size.
CHECKPOINTING_TIME = 4 / 3
OPTIMIZER_8BIT_TIME = 1.05
HALF_MICRO_BATCH_TIME = 1.03
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

    scheme: Scheme
    memory: Memory
    changes: dict[str, object]
    time_factor: float

    def fits(self, hardware: Hardware, share: float = 1.0) -> bool:
        """There is memory enough, on the device (a share of it) and in the host."""
        enough = self.memory.claimed <= share * hardware.memory
        host = max(self.memory.host, self.memory.host_resuming)
        return enough and (hardware.host is None or host <= hardware.host)


def arithmetic(training: TrainingConfig, where: Hardware, engine: Engine = "single") -> Arithmetic:
    """What `precision` comes to on this hardware.

    Raises InputError for fp16 on a CPU without DeepSpeed (`jpllm.training.arguments.refuse_fp16_on_cpu`).
    """
    import torch

    if training.precision == "fp16" and where.is_tpu:
        raise InputError("precision: fp16 is nothing that a TPU is made for; write auto or bf16")
    if training.precision == "fp16" and not where.on_gpu and not engine.startswith("zero"):
        refuse_fp16_on_cpu("")
    if training.precision != "auto":
        return training.precision
    if where.on_gpu:
        return "bf16" if where.has_bf16 else "fp16"
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def as_written(
    training: TrainingConfig, sequence_length: int, where: Hardware, engine: Engine, **way: object
) -> Scheme:
    """The scheme of a configuration, changing nothing; `way` is what else a scheme has."""
    return Scheme(
        micro_batch=training.per_device_train_batch_size,
        sequence_length=sequence_length,
        accumulation=training.gradient_accumulation_steps,
        eval_batch=training.per_device_eval_batch_size,
        engine=engine,
        num_processes=where.num_gpus,
        arithmetic=arithmetic(training, where, engine),
        optimizer=training.optimizer,
        activation_checkpointing=training.activation_checkpointing,
        chunked_loss=training.chunked_loss,
        on_gpu=where.on_gpu,
        **way,
    )


@dataclass(frozen=True)
class Search:
    """Looks for ways to train a model on the hardware.

    Attributes:
        engine: the only one to be considered, or None.
    """

    config: PretrainedConfig
    size: ModelSize
    hardware: Hardware
    engine: Engine | None = None
    _rehearsed: dict[Rehearsal, StepBytes] = field(default_factory=dict)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those to be considered, the simplest first."""
        if not self.hardware.on_gpu:
            return ("single",)
        if self.hardware.is_tpu:
            return ENGINES_TPU
        if self.engine:
            return (self.engine,)
        return ENGINES_ONE_GPU if self.hardware.num_gpus == 1 else ENGINES_MANY_GPUS

    def candidate(self, scheme: Scheme, asked: Scheme) -> Candidate:
        """The scheme with its memory and what it changes of `asked`."""
        forward, evaluation = (self._bytes_of(step) for step in (rehearsal_of(scheme), evaluation_of(scheme)))
        memory = estimate.memory(self.size, scheme, forward, evaluation)
        return Candidate(scheme, memory, changes(asked, scheme), time_factor(scheme, asked.micro_batch))

    def best(self, asked: Scheme) -> Candidate:
        """What was asked for, with the first engine that fits it; with the first one where none does.

        Raises InputError if no engine to be considered, or LoRA, takes the optimizer.
        """
        first = None
        for scheme in filter(works, (replace(asked, engine=engine) for engine in self.engines)):
            candidate = self.candidate(scheme, asked)
            if candidate.fits(self.hardware):
                return candidate
            first = first or candidate
        if first is None:
            what = (
                "LoRA"
                if asked.learned.lora_rank and asked.optimizer == "muon"
                else f"engine {self.engine or self.engines[0]}"
            )
            raise InputError(f"optimizer: {asked.optimizer} does not work with {what}; write adamw")
        return first

    def alternatives(self, asked: Scheme) -> list[Candidate]:
        """The fastest other ways that fit, at the same tokens per optimizer step.

        None does all that another one does and something more.
        """
        found: list[Candidate] = []

        def cost(scheme: Scheme) -> tuple[float, int]:
            return time_factor(scheme, asked.micro_batch), len(changes(asked, scheme))

        for scheme in sorted(self._schemes(asked), key=cost):
            kinds = changes(asked, scheme).keys()
            if any(other.changes.keys() <= kinds for other in found) or not self._may_fit(scheme):
                continue
            candidate = self.candidate(scheme, asked)
            if candidate.fits(self.hardware, COMFORTABLE):
                found.append(candidate)
            if len(found) == NUM_ALTERNATIVES:
                break
        return found

    def savings(self, asked: Scheme) -> list[Candidate]:
        """What each change alone saves, the most first; those that save nothing are left out."""
        half = {"micro_batch": asked.micro_batch // 2, "accumulation": asked.accumulation * 2}
        if asked.micro_batch % 2:
            half = {"micro_batch": 1, "accumulation": asked.accumulation * asked.micro_batch}
        ways = [half, {"activation_checkpointing": True}, {"chunked_loss": True}, {"eval_batch": 1}]
        if self.hardware.on_gpu:
            ways += [{"optimizer": "adamw_8bit"}, *({"engine": engine} for engine in self.engines)]
        schemes = [scheme for scheme in (replace(asked, **way) for way in ways) if scheme != asked and works(scheme)]
        peak = self.candidate(asked, asked).memory.peak
        found = [self.candidate(scheme, asked) for scheme in dict.fromkeys(schemes)]
        return sorted((way for way in found if way.memory.peak < peak), key=lambda way: way.memory.peak)

    def _schemes(self, asked: Scheme) -> Iterator[Scheme]:
        """All ways but the one asked for, with the same tokens per optimizer step."""
        blocks = asked.micro_batch * asked.accumulation
        optimizers = {asked.optimizer, "adamw", "adamw_8bit"} if self.hardware.on_gpu else {asked.optimizer}
        for engine, chunked_loss, micro_batch, checkpointing, optimizer in product(
            self.engines,
            {True, asked.chunked_loss},
            [size for size in range(1, asked.micro_batch + 1) if asked.micro_batch % size == 0],
            {True, asked.activation_checkpointing},
            optimizers,
        ):
            scheme = replace(
                asked,
                engine=engine,
                chunked_loss=chunked_loss,
                micro_batch=micro_batch,
                accumulation=blocks // micro_batch,
                activation_checkpointing=checkpointing,
                optimizer=optimizer,
            )
            if not self._evaluation_fits(scheme):
                scheme = replace(scheme, eval_batch=1)  # costs next to nothing
            if scheme != asked and works(scheme):
                yield scheme

    def _bytes_of(self, step: Rehearsal | None) -> StepBytes | None:
        """What a rehearsal counts; each is made once."""
        from jpllm.models.rehearsal import rehearse

        if step is not None and step not in self._rehearsed:
            self._rehearsed[step] = rehearse(self.config, step)
        return self._rehearsed.get(step)

    def _evaluation_fits(self, scheme: Scheme) -> bool:
        lasting = estimate.states(self.size, scheme).lasting
        evaluation = estimate.evaluation_bytes(self.size, scheme, self._bytes_of(evaluation_of(scheme)))
        needed = lasting + evaluation + estimate.GPU_OVERHEAD_BYTES
        return needed <= COMFORTABLE * self.hardware.memory

    def _may_fit(self, scheme: Scheme) -> bool:
        """False where it cannot: with the states alone, or those of activations known from other micro-batches."""
        states = estimate.states(self.size, scheme)
        step = rehearsal_of(scheme)
        known = [
            other.activations * step.batch_size // done.batch_size
            for done, other in self._rehearsed.items()
            if replace(done, batch_size=step.batch_size) == step
        ]
        least = states.lasting + max([states.at_step, *known])
        return least <= self.hardware.memory


def peak_tflops(where: Hardware, scheme: Scheme) -> float | None:
    """Peak of all GPUs in the arithmetic of the scheme; None where it is not known."""
    if where.half_tflops is None:
        return None
    slowdown = 1
    if scheme.arithmetic == "fp32":
        slowdown = FP32_SLOWDOWN_WITH_TF32 if where.has_bf16 else FP32_SLOWDOWN
    return where.half_tflops * where.num_gpus / slowdown


def works(scheme: Scheme) -> bool:
    """Whether the engine and LoRA take the optimizer (`jpllm.training.optimizer.refuse_impossible`)."""
    if scheme.optimizer == "muon":
        return scheme.engine in ("single", "ddp") and not scheme.learned.lora_rank
    return scheme.optimizer == "adamw" or not (scheme.offloads or scheme.engine == "xla")


def changes(asked: Scheme, scheme: Scheme) -> dict[str, object]:
    """The keys that make the one scheme the other, with their values."""
    keys = {
        "engine": "engine",
        "chunked_loss": "chunked_loss",
        "micro_batch": "per_device_train_batch_size",
        "accumulation": "gradient_accumulation_steps",
        "eval_batch": "per_device_eval_batch_size",
        "activation_checkpointing": "activation_checkpointing",
        "optimizer": "optimizer",
    }
    return {key: getattr(scheme, name) for name, key in keys.items() if getattr(scheme, name) != getattr(asked, name)}


def time_factor(scheme: Scheme, asked_micro_batch: int) -> float:
    """How much longer a step takes than on GPUs that need none of the savings."""
    if scheme.engine == "zero2_offload":
        factor = 1 + OFFLOAD_TOKENS * scheme.num_processes / scheme.tokens_per_step
    else:
        factor = ENGINE_TIME[scheme.engine]
    factor *= CHECKPOINTING_TIME if scheme.activation_checkpointing else 1
    factor *= OPTIMIZER_8BIT_TIME if scheme.optimizer == "adamw_8bit" else 1
    return factor * HALF_MICRO_BATCH_TIME ** log2(asked_micro_batch / scheme.micro_batch)
