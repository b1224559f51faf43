"""What a training run needs, before anything is loaded: memory of the GPU and of the host, and disk. Sizes are bytes.

Memory has two parts. States (weights, gradients, optimizer) are bytes per parameter, shared among processes as ZeRO
shares them (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054; the bytes are those of DeepSpeed's page "Memory
Requirements"). All that lives and dies within a step is counted by `jpllm.planning.rehearsal` on the model's own code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jpllm.models.dtypes import bytes_per_parameter
from jpllm.planning.hardware import GIB
from jpllm.planning.rehearsal import Rehearsal, StepBytes
from jpllm.planning.setup import TrainingSetup
from jpllm.planning.size import ModelSize
from jpllm.training.optimizer import OPTIMIZERS

# What a process on a GPU takes beside tensors: the CUDA context and its libraries, workspaces, gaps of the allocator.
GPU_OVERHEAD_BYTES = int(0.8 * GIB)
# On a CPU: Python with PyTorch and transformers (0.5 GiB) and what evaluations, samples and the proof leave in the heap
# (runs of the demo take 0.72 to 0.75 GiB beside tensors), and the gaps between tensors (0.4 to 0.6 of what lives and
# dies in a step, `benchmarks/plan_vs_measured.py`).
CPU_OVERHEAD_BYTES = int(0.7 * GIB)
CPU_HEAP_GAPS = 0.6
# What a process takes in host memory before it holds a model: Python, PyTorch, CUDA's libraries, pinned batches.
HOST_OVERHEAD_BYTES = 3 * GIB
# Sizes in ds_configs/: elements of a bucket (two of them, as communication overlaps), and ZeRO-3's gathered weights.
BUCKET_ELEMENTS = 50_000_000
ZERO3_LIVE_PARAMETERS = 100_000_000


@dataclass(frozen=True)
class States:
    """What is in a device's memory all through training, and what the optimizer's step adds.

    Attributes:
        at_step: gradients and what is made of them, when activations are gone.
        buckets: gradients (and ZeRO-3's weights) on their way between processes.
    """

    weights: int
    optimizer: int
    at_step: int
    buckets: int

    @property
    def lasting(self) -> int:
        """What is there all the time."""
        return self.weights + self.optimizer + self.buckets


@dataclass(frozen=True)
class Memory:
    """Peak memory of one process on its device, and of all processes of the machine in host memory.

    Attributes:
        forward: the peak of the forward and backward passes, beside the states.
        evaluation: what an evaluation needs beside weights and optimizer.
        proof: what the proof of the saved model needs beside the weights that were trained, on a CPU.
        overhead: what is no tensor.
        mapped: pages of the file with the kept output of frozen layers; the system takes them back where it has to.
        host: host memory of all processes on the machine, in training and at its end.
        host_resuming: the same while a checkpoint is read to go on from.
        offloaded: what the engine keeps in host memory, by name, where that is the memory of this device too: on a CPU.
    """

    states: States
    forward: StepBytes
    evaluation: int
    overhead: int
    host: int
    host_resuming: int
    mapped: int = 0
    proof: int = 0
    offloaded: Mapping[str, int] = field(default_factory=dict)

    @property
    def lasting(self) -> int:
        """What is there all the time."""
        return self.states.lasting + sum(self.offloaded.values())

    @property
    def tensors(self) -> int:
        """Peak of all tensors on the device in training."""
        return self.lasting + max(self.states.at_step, self.forward.total)

    @property
    def all_tensors(self) -> int:
        """Peak of all tensors, evaluations included: what `torch.cuda.max_memory_allocated` says at the end."""
        return max(self.tensors, self.lasting + self.evaluation, self.states.weights + self.proof)

    @property
    def claimed(self) -> int:
        """What there has to be room for: the peak without the mapped pages."""
        return self.all_tensors + self.overhead

    @property
    def peak(self) -> int:
        """Peak of the process on its device, evaluations included."""
        return self.claimed + self.mapped

    def parts(self) -> dict[str, int]:
        """Return what the peak is made of, by name; the parts add up to it."""
        if self.all_tensors > max(self.tensors, self.lasting + self.evaluation):
            parts = {"weights": self.states.weights, "the saved model, to be proved": self.proof}
        else:
            lasting = {"weights": self.states.weights, "optimizer states": self.states.optimizer, **self.offloaded}
            parts = {**lasting, **self._parts_of_step(), "communication": self.states.buckets}
        parts |= {"kept output of frozen layers, a file": self.mapped}
        parts |= {"the process, and gaps between tensors": self.overhead}
        return {name: size for name, size in parts.items() if size}

    def _parts_of_step(self) -> dict[str, int]:
        """Return what is there at the peak beside what lasts, by name."""
        if self.all_tensors > self.tensors:
            return {"a batch of an evaluation": self.evaluation}
        if self.states.at_step > self.forward.total:
            return {"gradients, at the optimizer's step": self.states.at_step}
        return {
            "gradients": self.forward.gradients,
            "half-precision copies of weights": self.forward.autocast,
            "activations kept for the backward pass": self.forward.activations,
            "logits, loss and other temporaries": self.forward.temporary,
        }


def states(size: ModelSize, setup: TrainingSetup) -> States:
    """Return the part of a device's memory that does not depend on the batch."""
    if setup.engine == "fsdp2":
        return _fsdp2_states(size, setup)
    processes, stage = setup.num_processes, setup.zero_stage
    weights = held_bytes(size, setup)
    gradients = size.num_trainable * setup.weight_bytes // (processes if stage >= 2 else 1)
    if stage == 0:
        buckets = gradients if setup.engine == "ddp" else 0  # DDP's buckets are a copy of all gradients
        return States(weights, optimizer_bytes(size, setup), gradients, buckets)
    buckets = 2 * BUCKET_ELEMENTS * setup.weight_bytes
    if stage == 3:
        gathered = min(size.num_parameters, ZERO3_LIVE_PARAMETERS) * setup.weight_bytes
        weights = gathered + (0 if setup.offloads else weights // processes)
    float32_share = 4 * size.num_trainable // processes
    if setup.offloads:  # the step is the host's, from where weights come back as they are used
        return States(weights, 0, 0, buckets + setup.weight_bytes * size.num_largest)
    return States(weights, optimizer_bytes(size, setup) // processes, gradients + float32_share, buckets)


def held_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return what all weights take where products are computed, those that learn and those that do not."""
    learning = size.num_trainable * setup.weight_bytes
    num_four_bit = size.num_four_bit if setup.trained_parts.frozen_dtype == "nf4" else 0
    num_frozen = size.num_parameters - size.num_trainable - num_four_bit
    four_bit = num_four_bit * bytes_per_parameter("nf4")
    return learning + round(four_bit + num_frozen * bytes_per_parameter(setup.frozen_dtype))


def _fsdp2_states(size: ModelSize, setup: TrainingSetup) -> States:
    """Return the shares of float32 weights, gradients and moments, and what is gathered whole for a moment.

    That is, in the type of the products, all that is outside the layers and two of the layers: the one that is computed
    and the next; and of two layers the gradients on their way (Zhao et al. 2023, https://arxiv.org/abs/2304.11277).
    """
    processes = setup.num_processes
    two_layers = 2 * size.num_matrix_parameters // size.num_layers
    whole = (size.num_parameters - size.num_matrix_parameters + two_layers) * setup.weight_bytes
    learning = two_layers * size.num_trainable // size.num_parameters
    return States(
        weights=4 * size.num_parameters // processes + whole,
        optimizer=optimizer_bytes(size, setup) // processes,
        at_step=4 * size.num_trainable // processes,
        buckets=learning * setup.weight_bytes,
    )


def estimate(size: ModelSize, setup: TrainingSetup, forward: StepBytes, evaluation: StepBytes | None = None) -> Memory:
    """Return the peak memory of training, given what `rehearse(config, …)` counted.

    `forward` is the rehearsal of `rehearsal_of`, `evaluation` that of `evaluation_of` where there is one.
    """
    if setup.engine == "fsdp2":  # gradients are shares in float32
        forward = replace(forward, gradients=forward.gradients * 4 // setup.weight_bytes // setup.num_processes)
    elif setup.offloads and not setup.on_gpu:  # gradients leave bucket by bucket; no GPU has confirmed that yet
        forward = replace(forward, gradients=0)
    elif setup.zero_stage >= 2:
        forward = replace(forward, gradients=forward.gradients // setup.num_processes)
    fixed, evaluated = states(size, setup), evaluation_bytes(size, setup, evaluation)
    if setup.on_gpu:
        processes = setup.num_processes * HOST_OVERHEAD_BYTES
        host, resuming = (processes + needed for needed in (_host_bytes(size, setup), resuming_bytes(size, setup)))
        return Memory(fixed, forward, evaluated, GPU_OVERHEAD_BYTES, host, resuming)
    overhead = CPU_OVERHEAD_BYTES + int(CPU_HEAP_GAPS * forward.total)
    kept = setup.kept_bytes if setup.passes_trunk_over else 0
    offloaded = {name: size // setup.num_processes for name, size in offloaded_states(size, setup).items()}
    proof = second_model_bytes(size, setup)
    proof += evaluated if proof else 0
    found = Memory(fixed, forward, evaluated, overhead, 0, 0, kept, proof, offloaded)
    resuming = CPU_OVERHEAD_BYTES + fixed.weights + resuming_bytes(size, setup) // setup.num_processes
    return replace(found, host=found.claimed, host_resuming=resuming)


def offloaded_states(size: ModelSize, setup: TrainingSetup) -> dict[str, int]:
    """Return what an engine that offloads keeps in host memory, by name, over all processes.

    These are the buffers of DeepSpeed 0.19.8 (`runtime/zero/stage_1_and_2.py`, `stage3.py`), counted in a run:
    beside float32 weights, moments and gradients it keeps weights once more as the device has them, and, between the
    forward passes of a step, gradients. ZeRO-2 also sums the norm of one gradient at a time in float64.
    """
    if not setup.offloads:
        return {}
    learning = size.num_trainable
    parts = {
        "float32 weights": 4 * learning,
        "optimizer states": optimizer_bytes(size, setup) - 4 * learning,
        "float32 gradients": 4 * learning,
        "weights as the device has them": setup.weight_bytes * size.num_parameters,
    }
    if setup.zero_stage == 3 or setup.accumulation > 1:
        parts["gradients between forward passes"] = setup.weight_bytes * learning
    if setup.zero_stage == 2:
        parts["the largest gradient, and its norm"] = (setup.weight_bytes + 8) * size.num_largest
    return parts


def rehearsal_of(setup: TrainingSetup) -> Rehearsal:
    """Return the forward and backward pass of the setup, to be rehearsed."""
    # Trainer reads the batches of an optimizer step ahead; accelerate reads one more, which is no GPU's yet.
    batches_ahead = setup.accumulation + (0 if setup.on_gpu else 1)
    return Rehearsal(
        on_gpu=setup.on_gpu,
        weights=setup.frozen_dtype if setup.trained_parts.lora_rank else setup.learning_dtype,
        products=setup.arithmetic,
        batch_size=setup.micro_batch * setup.sequences_per_row,
        sequence_length=setup.sequence_length,
        accumulates=setup.accumulation > 1,
        activation_checkpointing=setup.activation_checkpointing,
        chunked_loss=setup.chunked_loss,
        isolates=setup.isolates,
        masked_share=setup.masked_share,
        trained_parts=setup.trained_parts,
        trunk_batches=batches_ahead if setup.passes_trunk_over else 0,
    )


def evaluation_of(setup: TrainingSetup) -> Rehearsal | None:
    """Return the forward pass of an evaluation, kept outputs included; None where its logits decide alone."""
    if not setup.trained_parts.classifier or not setup.eval_batch:
        return None
    batch_size = setup.eval_batch * setup.sequences_per_row
    return replace(rehearsal_of(setup), batch_size=batch_size, accumulates=False, trunk_batches=0, evaluates=True)


def optimizer_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the states of the optimizer over all processes, with ZeRO's float32 weights."""
    number_bytes = int(bytes_per_parameter(setup.trained_parts.learning_dtype))
    states = OPTIMIZERS[setup.optimizer].state_bytes(size, number_bytes)
    return states + (4 * size.num_trainable if setup.zero_stage else 0)


def evaluation_bytes(size: ModelSize, setup: TrainingSetup, rehearsed: StepBytes | None = None) -> int:
    """Return what an evaluation takes beside weights and optimizer; for a classifier it is what a rehearsal counted.

    Of a language model it is the logits of a batch, and in float32 those of a block with their softmax and losses
    (`evaluation/perplexity.py`).
    """
    if rehearsed:
        return rehearsed.total
    if not setup.eval_batch or setup.masked_share:  # a masked language model has logits at its labels alone
        return 0
    is_half = setup.arithmetic != "fp32"
    block_logits = setup.sequence_length * size.vocab_size
    copies = 0
    if is_half and setup.weight_bytes == 4:  # kept of weights that learn; of the others the output layer's is the last
        last = size.num_product_parameters - size.num_matrix_parameters if setup.frozen_dtype == "float32" else 0
        copies = 2 * max(size.num_trainable_products, last)
    return setup.eval_batch * block_logits * (2 if is_half else 4) + 3 * 4 * block_logits + copies


def _host_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the peak of host memory: models are built and compared there, and offloaded states stay.

    With LoRA the pages of files that hold weights as the model has them are the system's to take back; 4-bit weights
    are made on the GPU, tensor by tensor. At the end the trained model waits there while the saved one is proved.
    """
    states = sum(offloaded_states(size, setup).values())
    if not setup.trained_parts.lora_rank:
        model = int(bytes_per_parameter(setup.trained_parts.learning_dtype)) * size.num_parameters
        return max(states, setup.num_processes * model, 2 * model)
    second = second_model_bytes(size, setup)
    loading = 0 if setup.trained_parts.frozen_dtype == "nf4" else setup.num_processes * second
    return max(states, loading, merging_bytes(size, setup), held_bytes(size, setup) + second)


def second_model_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return what the published model takes in host memory where LoRA's matrices are on it, or in it, to be proved.

    Weights that are held as they were saved are pages of their files.
    """
    parts = setup.trained_parts
    is_as_saved = setup.frozen_dtype == parts.saved_dtype
    if not parts.lora_rank or is_as_saved or (parts.frozen_dtype == "nf4" and parts.saves_adapter):
        return 0
    return int(bytes_per_parameter(setup.frozen_dtype)) * size.num_saved


def merging_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return what merging takes in host memory: a matrix as published and as saved, and three times in float32."""
    if setup.trained_parts.saves_adapter:
        return 0
    return int(2 * bytes_per_parameter(setup.trained_parts.saved_dtype) + 3 * 4) * size.num_largest_frozen


def resuming_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return what all processes hold in host memory while they read a checkpoint, beside themselves.

    The optimizer's states come from their file into memory as a whole, and DeepSpeed reads the weights beside them. Of
    what an offloading engine keeps there all but its moments (which are those from the file) and the gradients of a
    step that has not begun is there already.
    """
    read = optimizer_bytes(size, setup) + (setup.weight_bytes * size.num_parameters if setup.zero_stage else 0)
    parts = offloaded_states(size, setup)
    parts.pop("optimizer states", None)
    if setup.zero_stage == 2:
        parts.pop("gradients between forward passes", None)
    return read + sum(parts.values())


def checkpoint_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the size of a checkpoint: weights (with LoRA only those that learn) and optimizer states."""
    num_saved = size.num_trainable if setup.trained_parts.lora_rank else size.num_parameters
    return num_saved * setup.saved_bytes + optimizer_bytes(size, setup)


def model_bytes(size: ModelSize, setup: TrainingSetup) -> int:
    """Return the size of the model that is saved at the end, or of the adapter."""
    parts = setup.trained_parts
    if not parts.lora_rank:
        return size.num_saved * setup.saved_bytes
    if parts.saves_adapter:
        return 4 * size.num_trainable
    return int(bytes_per_parameter(parts.saved_dtype)) * size.num_saved
