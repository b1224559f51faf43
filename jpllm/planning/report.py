"""A plan for a person to read: tables, a verdict in one line, the command to type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jpllm.planning.budget import Budget, DiskNeed
from jpllm.planning.calibrate import NUM_STEPS, Measured
from jpllm.planning.hardware import GIB, Hardware
from jpllm.planning.search import COMFORTABLE, Candidate, peak_tflops
from jpllm.planning.size import CHINCHILLA_TOKENS_PER_PARAMETER, ModelSize, flops_per_token
from jpllm.training import machine

if TYPE_CHECKING:
    from rich.table import Table

MIB = 1 << 20
_ACCELERATE_CONFIGS = {"single": "single_gpu", "ddp": "multi_gpu", "xla": "tpu"}


@dataclass(frozen=True)
class Report:
    """What is known of a run before it begins.

    Attributes:
        best: what was asked for, with the engine that was chosen for it.
        others: other ways that fit.
        measured: what five real steps took, or None.
    """

    model: str
    architecture: str
    size: ModelSize
    where: Hardware
    best: Candidate
    others: Sequence[Candidate]
    spends: Budget
    disk: Sequence[DiskNeed]
    disk_shortages: Sequence[str]
    mfu: float
    measured: Measured | None

    @property
    def fits(self) -> bool:
        """There is room enough everywhere."""
        return self.best.fits(self.where) and not self.disk_shortages

    def parts(self) -> Iterator[str | Table]:
        """Yield everything but the command, in reading order; the verdict comes last."""
        size = self.size
        yield (
            f"{self.model} ({self.architecture}): {size.num_saved:,} parameters, vocabulary {size.vocab_size:,}, "
            f"{size.num_layers} layers"
        )
        if not self.best.setup.trained_parts.is_all:
            what = f"{size.num_added:,} beside them (LoRA)" if size.num_added else f"{size.num_trainable:,} of them"
            yield f"trained: {what}, {size.num_trainable / size.num_saved:.2%} of their number"
        yield self._data_table()
        yield self._budget_line()
        yield self._memory_table()
        if self.best.setup.engine == "fsdp2":
            yield "memory with FSDP2: by the published arithmetic of its shares, not held against runs on GPUs yet"
        if self.where.is_tpu:
            yield "memory of a TPU: counted as on a GPU; what XLA adds or saves has not been measured on a TPU yet"
        yield self._needs_table()
        yield from self._time_lines()
        if self.others:
            yield self._others_table()
        yield self._verdict()

    def numbers(self) -> dict:
        """Return the plan for a program: sizes in bytes, None where something is not known."""
        setup, memory, spends = self.best.setup, self.best.memory, self.spends
        speed = self._planned_speed()
        seconds = spends.num_tokens / speed if speed and spends.num_tokens else None
        return {
            "num_parameters": self.size.num_saved,
            "num_trainable": self.size.num_trainable,
            "num_tokens": spends.num_tokens,
            "num_steps": spends.num_steps,
            "tokens_per_step": spends.tokens_per_step,
            "hardware": self.where.name,
            "num_processes": setup.num_processes,
            "engine": setup.engine,
            "arithmetic": setup.arithmetic,
            "memory": {
                "peak_bytes": memory.peak,
                "tensor_bytes": memory.all_tensors,
                "parts": memory.parts(),
                "available_bytes": self.where.memory,
                "host_bytes": memory.host,
                "host_resuming_bytes": memory.host_resuming,
                "available_host_bytes": self.where.host,
            },
            "disk": {need.name: need.num_bytes for need in self.disk},
            "tokens_per_second": speed and round(speed, 1),
            "hours": seconds and round(seconds / 3600, 4),
            "mfu": self.mfu,
            "fits": self.fits,
        }

    def launch_command(self, recipe: str, given: Mapping[str, str]) -> str:
        """Return what to type: as `given` if that fits, else with the changes that cost least time."""
        chosen = next(iter(self.others), self.best) if not self.best.fits(self.where) else self.best
        changes = {key: _written(value) for key, value in chosen.changes.items() if key != "engine"}
        keys = [f"--{key} {value}" for key, value in {**given, **changes}.items()]
        is_set = chosen.setup.engine in ("single", "xla")  # a TPU's launcher takes all cores that there are
        processes = "" if is_set else f" --num_processes {self.where.num_gpus}"
        launch = f"accelerate launch --config_file {accelerate_config(chosen, self.where)}{processes}"
        return " ".join([launch, f"recipes/{recipe}.py", *keys])

    def _data_table(self) -> Table:
        table = _table("source", "tokens", "known from", "share", "in this run", "epochs")
        for part in self.spends.sources:
            about = "" if part.source.is_exact else "≈ "
            table.add_row(
                part.source.label,
                "?" if part.source.num_tokens is None else f"{about}{part.source.num_tokens:,}",
                part.source.origin,
                "?" if part.share is None else f"{part.share:.1%}",
                "?" if part.num_tokens is None else f"{part.num_tokens:,}",
                "?" if part.epochs is None else f"{about}{part.epochs:.2f}",
            )
        return table

    def _budget_line(self) -> str:
        spends, count = self.spends, self.size.num_saved
        if spends.is_of_rows and spends.num_tokens is None:
            return f"{spends.tokens_per_step:,} tokens a step at most; how many steps is known when the rows are there"
        if spends.is_of_rows:
            return f"{spends.num_tokens:,} tokens in {spends.num_steps:,} steps of {spends.tokens_per_step:,}"
        wanted = CHINCHILLA_TOKENS_PER_PARAMETER * count
        advice = f"{CHINCHILLA_TOKENS_PER_PARAMETER} a parameter (Hoffmann et al. 2022) would be {wanted:,}"
        if spends.num_tokens is None:
            return (
                f"{spends.tokens_per_step:,} tokens a step; how many steps is not known before the sources are packed: "
                f"give tokens instead of epochs; {advice}"
            )
        return (
            f"{spends.num_tokens:,} tokens in {spends.num_steps:,} steps of {spends.tokens_per_step:,}: "
            f"{spends.num_tokens / count:.2f} a parameter; {advice}, of which this is {spends.num_tokens / wanted:.1%}"
        )

    def _memory_table(self) -> Table:
        name, memory = self.where.name, self.best.memory
        each = f"each of {self.where.num_gpus} {name}" if self.where.num_gpus > 1 else name
        table = _table(f"memory of {each} at its peak", f"engine: {self.best.setup.engine}")
        for part, num_bytes in memory.parts().items():
            table.add_row(part, memory_size(num_bytes))
        table.add_section()
        table.add_row("together", memory_size(memory.peak))
        table.add_row("there is", memory_size(self.where.memory))
        if self.measured:
            ratio = memory.tensors / self.measured.peak_bytes
            table.add_section()
            table.add_row("tensors, predicted", memory_size(memory.tensors))
            table.add_row(f"tensors, measured in {NUM_STEPS} steps", memory_size(self.measured.peak_bytes))
            table.add_row("predicted / measured", f"{ratio:.3f}")
        return table

    def _needs_table(self) -> Table:
        table = _table("beside it", "needed", "there is", "where")
        if self.where.on_gpu:
            there = "?" if self.where.host is None else memory_size(self.where.host)
            table.add_row("host memory", memory_size(self.best.memory.host), there, "")
            table.add_row(
                "host memory, to go on from a checkpoint", memory_size(self.best.memory.host_resuming), there, ""
            )
        for need in self.disk:
            needed = "?" if need.num_bytes is None else f"{need.num_bytes / 1e9:.2f} GB"
            free = f"{machine.free_disk_bytes(need.folder) / 1e9:.1f} GB" if self.where.is_here else "?"
            table.add_row(need.name, needed, free, str(need.folder))
        return table

    def _time_lines(self) -> Iterator[str]:
        setup, where, num_tokens = self.best.setup, self.where, self.spends.num_tokens
        operations = self._flops_per_token()
        peak = peak_tflops(where, setup)
        if where.on_gpu and setup.arithmetic == "bf16" and not where.has_bf16:
            yield f"precision: {where.name} only emulates bf16, slower than fp32; write auto or fp16"
        if peak is None and not self.measured:
            yield "time: the speed of this hardware is not known; --calibrate true measures it"
        if (speed := self._planned_speed()) is not None:
            factor = self.best.time_factor
            savings = f", × {factor:.2f} for what saves memory" if factor > 1 else ""
            yield _time_line(speed, num_tokens, f"at {self.mfu:.0%} of {peak:g} TFLOPS (mfu{savings})")
        if self.measured:
            speed = self.measured.tokens_per_second
            reached = f", {speed * operations / peak / 1e12:.1%} of {peak:g} TFLOPS" if peak else ""
            yield _time_line(speed, num_tokens, f"measured in {NUM_STEPS} steps{reached}")

    def _planned_speed(self) -> float | None:
        """Return tokens per second at the share of the peak that is assumed; None where the peak is not known."""
        peak = peak_tflops(self.where, self.best.setup)
        if peak is None:
            return None
        return peak * 1e12 * self.mfu / self._flops_per_token() / self.best.time_factor

    def _flops_per_token(self) -> float:
        """Return the operations per token; layers whose output is kept are computed in the first epoch alone."""
        setup, epochs = self.best.setup, self.spends.sources[0].epochs
        frozen_share = 1 / max(epochs or 1, 1) if setup.passes_trunk_over else 1
        return flops_per_token(self.size, setup.sequence_length, frozen_share)

    def _others_table(self) -> Table:
        table = _table("other ways that fit, the fastest first", "peak", "host", "time")
        for other in self.others:
            table.add_row(
                ", ".join([accelerate_config(other, self.where), *changed_keys(other)]),
                memory_size(other.memory.peak),
                memory_size(other.memory.host),
                f"× {other.time_factor / self.best.time_factor:.2f}",
            )
        return table

    def _verdict(self) -> str:
        memory, where = self.best.memory, self.where
        shortages = list(self.disk_shortages)
        for needed, when in ((memory.host_resuming, " to go on from a checkpoint"), (memory.host, "")):
            if where.host is not None and needed > where.host and (where.on_gpu or when):
                text = f"{memory_size(needed)} of host memory{when}, and there are {memory_size(where.host)}"
                shortages.insert(0, text)
        if memory.claimed > where.memory:
            shortages.insert(
                0, f"{memory_size(memory.claimed)} on {where.name}, and there are {memory_size(where.memory)}"
            )
        if shortages:
            return f"does not fit: it needs {'; and '.join(shortages)}"
        tightly = "" if self.best.fits(where, COMFORTABLE) else ", tightly"
        setup = self.best.setup
        return (
            f"fits{tightly}: {memory_size(memory.claimed)} of {memory_size(where.memory)} on {where.name}, micro-batch "
            f"{setup.micro_batch} × {setup.accumulation}, {accelerate_config(self.best, self.where)}"
        )


def accelerate_config(candidate: Candidate, where: Hardware) -> str:
    """Return the file to launch with."""
    engine = candidate.setup.engine
    name = "cpu" if engine == "single" and not where.on_gpu else _ACCELERATE_CONFIGS.get(engine, engine)
    return f"accelerate_configs/{name}.yaml"


def changed_keys(candidate: Candidate) -> list[str]:
    """Return what is to be changed in the recipe's configuration, as written there."""
    return [f"{key}: {_written(value)}" for key, value in candidate.changes.items() if key != "engine"]


def _time_line(tokens_per_second: float, num_tokens: int | None, how: str) -> str:
    hours = "" if num_tokens is None else f"{num_tokens / tokens_per_second / 3600:,.1f} hours, "
    return f"time: {hours}{tokens_per_second:,.0f} tokens/s {how}"


def _table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; the first column and those of words are set flush left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for index, column in enumerate(columns):
        is_words = index == 0 or column in ("known from", "where")
        table.add_column(column, justify="left" if is_words else "right", overflow="fold", no_wrap=not is_words)
    return table


def memory_size(num_bytes: int) -> str:
    """Return a size as text, in GiB or MiB."""
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.0f} MiB"


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
