"""The ways to train a model, as far as memory is concerned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jpllm.models.learned import ALL, Learned

Engine = Literal["single", "ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2", "xla"]
WHOLE_MODEL: tuple[Engine, ...] = ("single", "ddp", "xla")  # each process has all of it, with float32 weights
Arithmetic = Literal["fp32", "fp16", "bf16", "pure_bf16"]
Optimizer = Literal["adamw", "adamw_8bit", "muon"]


@dataclass(frozen=True)
class Scheme:
    """How a model is trained, as far as memory is concerned.

    Attributes:
        num_processes: GPUs that share the work, one process each.
        arithmetic: "fp16" and "bf16" are mixed precision with float32 weights; "pure_bf16" has no float32 at all.
        micro_batch: blocks of `sequence_length` tokens per process and forward pass.
        accumulation: forward passes per optimizer step.
        eval_batch: blocks per process and forward pass of an evaluation; 0 where there is none.
        isolates: tokens attend to their own document only.
        masked_share, learned: see `jpllm.models.rehearsal.Rehearsal`.
        sequences_per_row: choices of a question; a row of a block or text is one sequence.
        keeps_trunk: the output of a classifier's frozen layers is kept, where each process has the whole model.
        kept_bytes: of the file that it is kept in; 0 where that is not known.
    """

    micro_batch: int
    sequence_length: int
    accumulation: int = 1
    eval_batch: int = 0
    engine: Engine = "single"
    num_processes: int = 1
    arithmetic: Arithmetic = "fp32"
    optimizer: Optimizer = "adamw"
    activation_checkpointing: bool = False
    chunked_loss: bool = True
    isolates: bool = False
    masked_share: float = 0.0
    learned: Learned = ALL
    sequences_per_row: int = 1
    keeps_trunk: bool = False
    kept_bytes: int = 0
    on_gpu: bool = True

    @property
    def zero_stage(self) -> int:
        """0 without DeepSpeed."""
        return int(self.engine[4]) if self.engine.startswith("zero") else 0

    @property
    def offloads(self) -> bool:
        """The optimizer's states and its step, and ZeRO-3's weights, are in host memory."""
        return self.engine.endswith("_offload")

    @property
    def passes_trunk_over(self) -> bool:
        """Frozen layers are computed once for each row: their output is kept."""
        return self.keeps_trunk and self.engine in WHOLE_MODEL

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight where products are computed: ZeRO and FSDP2 keep the float32 ones apart."""
        if self.arithmetic == "fp32":
            return 4
        return 2 if self.engine not in WHOLE_MODEL or self.arithmetic == "pure_bf16" else 4

    @property
    def saved_bytes(self) -> int:
        """Bytes of a weight on the disk."""
        return 4 if self.engine == "fsdp2" else self.weight_bytes

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all processes."""
        sequences = self.micro_batch * self.accumulation * self.num_processes * self.sequences_per_row
        return sequences * self.sequence_length
