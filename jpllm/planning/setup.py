"""How a model is trained, as far as memory and time are concerned: as configured, and with what saves memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from jpllm.models.dtypes import DTYPES_OF_PRECISION, DtypeName, bytes_per_parameter
from jpllm.models.trained_parts import ALL_PARTS, TrainedParts
from jpllm.planning.hardware import Hardware
from jpllm.training.arguments import has_fast_bf16_on_cpu, precision_on, refuse_fp16_on_cpu
from jpllm.training.config import TrainingConfig
from jpllm.training.engine import PlannedEngine
from jpllm.training.optimizer import OPTIMIZERS, Conditions

if TYPE_CHECKING:
    from typing_extensions import Unpack

WHOLE_MODEL: tuple[PlannedEngine, ...] = ("single", "ddp", "xla")  # each process has all of it, as it was loaded
Arithmetic = Literal["fp32", "fp16", "bf16"]
_ENGINE_NAMES = {"single": "", "ddp": "DDP", "fsdp2": "FSDP2", "xla": "XLA"}  # see jpllm.training.engine.Engine


class SetupDetails(TypedDict, total=False):
    """The attributes of a `TrainingSetup` that the training configuration does not decide."""

    isolates: bool
    masked_share: float
    trained_parts: TrainedParts
    sequences_per_row: int
    keeps_trunk: bool
    kept_bytes: int


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained, as far as memory is concerned.

    Attributes:
        num_processes: GPUs that share the work, one process each.
        arithmetic: "fp16" and "bf16" are mixed precision, whatever weights are held in.
        micro_batch: blocks of `sequence_length` tokens per process and forward pass.
        accumulation: forward passes per optimizer step.
        eval_batch: blocks per process and forward pass of an evaluation; 0 where there is none.
        isolates: tokens attend to their own document only.
        masked_share, trained_parts: see `jpllm.planning.rehearsal.Rehearsal`.
        sequences_per_row: choices of a question; a row of a block or text is one sequence.
        keeps_trunk: the output of a classifier's frozen layers is kept, where each process has the whole model.
        kept_bytes: of the file that it is kept in; 0 where that is not known.
    """

    micro_batch: int
    sequence_length: int
    accumulation: int = 1
    eval_batch: int = 0
    engine: PlannedEngine = "single"
    num_processes: int = 1
    arithmetic: Arithmetic = "fp32"
    optimizer: str = "adamw"
    activation_checkpointing: bool = False
    chunked_loss: bool = True
    isolates: bool = False
    masked_share: float = 0.0
    trained_parts: TrainedParts = ALL_PARTS
    sequences_per_row: int = 1
    keeps_trunk: bool = False
    kept_bytes: int = 0
    on_gpu: bool = True

    @property
    def zero_stage(self) -> int:
        """0 without DeepSpeed."""
        return int(self.engine[4:5]) if self.engine.startswith("zero") else 0

    @property
    def offloads(self) -> bool:
        """The optimizer's states and its step, and ZeRO-3's weights, are in host memory."""
        return self.engine.endswith("_offload")

    @property
    def passes_trunk_over(self) -> bool:
        """Frozen layers are computed once for each row: their output is kept."""
        return self.keeps_trunk and self.engine in WHOLE_MODEL

    @property
    def learning_dtype(self) -> DtypeName:
        """Number format of weights that learn, where products are computed: ZeRO and FSDP2 keep float32 ones apart."""
        return self._half_of_engine or self.trained_parts.learning_dtype

    @property
    def frozen_dtype(self) -> DtypeName:
        """Number format of frozen weights, without those of 4-bit layers."""
        held = self.trained_parts.frozen_dtype
        return self._half_of_engine or (DTYPES_OF_PRECISION[self.arithmetic] if held == "nf4" else held)

    @property
    def _half_of_engine(self) -> DtypeName | None:
        is_half = self.arithmetic != "fp32" and self.engine not in WHOLE_MODEL
        return DTYPES_OF_PRECISION[self.arithmetic] if is_half else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight that learns, where products are computed."""
        return int(bytes_per_parameter(self.learning_dtype))

    @property
    def saved_bytes(self) -> int:
        """Bytes of a weight that learns, on the disk."""
        return 4 if self.engine == "fsdp2" else self.weight_bytes

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all processes."""
        sequences = self.micro_batch * self.accumulation * self.num_processes * self.sequences_per_row
        return sequences * self.sequence_length


def arithmetic(training: TrainingConfig, where: Hardware, engine: PlannedEngine = "single") -> Arithmetic:
    """Return what `precision` comes to on this hardware.

    Raises InputError for fp16 on a TPU, or on a CPU without DeepSpeed (`jpllm.training.arguments`).
    """
    if where.on_gpu:  # or a TPU
        return precision_on(training.precision, "xla" if where.is_tpu else "cuda", where.has_bf16)
    if training.precision == "fp16" and not engine.startswith("zero"):
        refuse_fp16_on_cpu("")
    return precision_on(training.precision, "cpu", has_fast_bf16_on_cpu())


def setup_of(
    training: TrainingConfig,
    sequence_length: int,
    where: Hardware,
    engine: PlannedEngine,
    **details: Unpack[SetupDetails],
) -> TrainingSetup:
    """Return the setup of a configuration, changing nothing; `details` are the attributes that it does not decide."""
    return TrainingSetup(
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
        **details,
    )


def is_possible(setup: TrainingSetup) -> bool:
    """Return whether engine, optimizer and LoRA go together.

    See `jpllm.training.optimizer.OPTIMIZERS` and `jpllm.training.adaptation.refuse_impossible`.
    """
    parts = setup.trained_parts
    cuts_up = setup.zero_stage == 3 or setup.engine == "fsdp2"
    if (parts.lora_rank and cuts_up) or (parts.frozen_dtype == "nf4" and setup.engine not in ("single", "ddp")):
        return False
    stage = f"DeepSpeed ZeRO-{setup.zero_stage}{' with optimizer offload' if setup.offloads else ''}"
    engine_name = _ENGINE_NAMES.get(setup.engine, stage)
    conditions = Conditions(engine_name, has_lora=parts.lora_rank > 0)
    return not OPTIMIZERS[setup.optimizer].refusal(conditions)


def changes(asked: TrainingSetup, setup: TrainingSetup) -> dict[str, object]:
    """Return the keys that make the one setup the other, with their values."""
    keys = {
        "engine": "engine",
        "chunked_loss": "chunked_loss",
        "micro_batch": "per_device_train_batch_size",
        "accumulation": "gradient_accumulation_steps",
        "eval_batch": "per_device_eval_batch_size",
        "activation_checkpointing": "activation_checkpointing",
        "optimizer": "optimizer",
    }
    return {key: getattr(setup, name) for name, key in keys.items() if getattr(setup, name) != getattr(asked, name)}
