"""Real training steps on this machine, to hold against a prediction."""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.data.blocks.dataset import IGNORED_LABEL
from jpllm.models import quantising
from jpllm.models.trained_parts import freeze, meta_model, model_class
from jpllm.planning.setup import TrainingSetup
from jpllm.processes import WorkerPool
from jpllm.runtime import InputError
from jpllm.training import machine
from jpllm.training.arguments import choose_precision, training_arguments
from jpllm.training.config import TrainingConfig
from jpllm.training.facts import Facts

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from jpllm.data.labels.encoding import AnyRow
    from jpllm.training.causal import CausalLMTrainer
    from jpllm.training.classifier import ClassifierTrainer

NUM_STEPS = 5
_NUM_MEMORY_STEPS = 2  # from the second one on there are the optimizer's states; the rest is timed
# Arguments of glibc's mallopt(3): from how many bytes on a tensor gets pages of its own, which leave no gaps behind.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _OWN_PAGES_BYTES, _USUAL_BYTES = -1, -3, 1 << 17, 1 << 25


@dataclass(frozen=True)
class Measured:
    """What training took.

    Attributes:
        peak_bytes: of tensors; on a CPU, what the process grew by since before the model was built.
    """

    peak_bytes: int
    tokens_per_second: float


def measure(config: PretrainedConfig, training: TrainingConfig, setup: TrainingSetup) -> Measured:
    """Train a new model of this configuration for five steps on random ids, in a process of its own.

    Where the setup isolates documents each block holds two.

    Raises:
        InputError: the process came to its end, as for want of memory.
    """
    with WorkerPool(1) as pool:
        try:
            return pool.submit(_measure_here, config, training, setup).result()
        except BrokenProcessPool:
            raise InputError("the training process was killed: there was not enough memory for it") from None


def _measure_here(config: PretrainedConfig, training: TrainingConfig, setup: TrainingSetup) -> Measured:
    import torch
    from transformers import GPT2Config

    runtime.use_all_cores()
    on_gpu = runtime.device().type == "cuda"
    tiny = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=1, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    tiny.num_labels = 2
    small = replace(setup, sequence_length=8, isolates=False, masked_share=0.0)
    _train(tiny, training, small, lambda: None)  # loads what is loaded at first use
    meta_model(config, is_masked=setup.masked_share > 0, trained_parts=setup.trained_parts)
    starts: list[float] = []
    peaks: list[int] = []

    def note_step() -> None:
        if not starts and not on_gpu:
            machine.forget_peak()  # 4-bit weights are made of others
        if len(starts) == _NUM_MEMORY_STEPS and not on_gpu:
            peaks.append(machine.resident_bytes(peak=True) - before)
            _give_pages_from(_USUAL_BYTES)
        starts.append(time.perf_counter())

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        _give_pages_from(_OWN_PAGES_BYTES)
        machine.forget_peak()
        before = machine.resident_bytes()
    _train(config, training, setup, note_step)
    seconds = (time.perf_counter() - starts[_NUM_MEMORY_STEPS]) / (NUM_STEPS - _NUM_MEMORY_STEPS)
    peak = torch.cuda.max_memory_allocated() if on_gpu else peaks[0]
    return Measured(peak, setup.tokens_per_step / seconds)


def _train(
    config: PretrainedConfig, training: TrainingConfig, setup: TrainingSetup, note_step: Callable[[], None]
) -> None:
    """Train a new model as the recipes do, without evaluation and saving; `note_step` is called before each step."""
    from transformers import TrainerCallback

    class StepNoter(TrainerCallback):
        def on_step_begin(self, *_, **__) -> None:
            note_step()

    make_trainer = _classifier_trainer if setup.trained_parts.classifier else _language_model_trainer
    with tempfile.TemporaryDirectory() as folder:
        training_here = replace(training, output_dir=Path(folder), save_steps=0)
        arguments = training_arguments(training_here, NUM_STEPS, choose_precision(training.precision))
        arguments.eval_strategy, arguments.eval_on_start, arguments.disable_tqdm = "no", False, True
        arguments.logging_strategy = "no"
        kwargs = {"args": arguments, "callbacks": [StepNoter()], "held_out": [], "facts": Facts("", "", {})}
        make_trainer(config, training_here, setup, **kwargs).train()


def _language_model_trainer(
    config: PretrainedConfig, training: TrainingConfig, setup: TrainingSetup, **kwargs
) -> CausalLMTrainer:
    from jpllm.models.losses import use_chunked_loss, use_masked_loss
    from jpllm.training.causal import CausalLMTrainer

    is_masked = setup.masked_share > 0
    model = _new_model(config, is_masked, setup)
    model.loss_type = "ForCausalLM"
    if is_masked:
        use_masked_loss(model, training.label_smoothing, everywhere=not training.chunked_loss)
    elif training.chunked_loss:
        use_chunked_loss(model, training.label_smoothing)
    freeze(model, setup.trained_parts)
    return CausalLMTrainer(  # which evaluates nothing here, also not a masked model
        model=model,
        train_dataset=_blocks(config, setup),
        config=training,
        eos_token_id=0,
        context_length=setup.sequence_length,
        **kwargs,
    )


def _classifier_trainer(
    config: PretrainedConfig, training: TrainingConfig, setup: TrainingSetup, **kwargs
) -> ClassifierTrainer:
    from jpllm.data.labels.encoding import EncodedSplits
    from jpllm.training.classifier import ClassifierTrainer

    model = _new_model(config, False, setup)
    frozen_layers = freeze(model, setup.trained_parts)
    rows = _rows(config, setup)
    return ClassifierTrainer(
        model=model,
        train_dataset=rows,
        config=training,
        splits=EncodedSplits(rows, [], [], ["a", "b"], setup.sequence_length, {}),
        metric="accuracy",
        pad_token_id=config.pad_token_id,
        pads_to_longest=False,
        frozen_layers=frozen_layers if setup.passes_trunk_over else [],
        **kwargs,
    )


def _new_model(config: PretrainedConfig, is_masked: bool, setup: TrainingSetup) -> PreTrainedModel:
    """Return a model whose weights are held as the recipes hold them; its configuration may name another type."""
    import torch

    parts = setup.trained_parts
    dtype = getattr(torch, setup.frozen_dtype if parts.lora_rank else parts.learning_dtype)
    model = model_class(is_masked, parts).from_config(config, dtype=dtype)
    if parts.frozen_dtype == "nf4":
        quantising.quantise(model, dtype)
    return model


def _blocks(config: PretrainedConfig, setup: TrainingSetup) -> list[dict[str, torch.Tensor]]:
    """Return blocks of random ids for all steps."""
    import torch

    length = setup.sequence_length
    shape = NUM_STEPS * setup.tokens_per_step // length, length
    ids = torch.randint(0, config.vocab_size, shape)
    labels = ids.where(torch.rand(shape) < setup.masked_share, IGNORED_LABEL) if setup.masked_share else ids
    blocks = [{"input_ids": block, "labels": targets} for block, targets in zip(ids, labels, strict=True)]
    if setup.isolates:
        positions = torch.arange(length) % (length // 2)
        blocks = [{**block, "position_ids": positions} for block in blocks]
    return blocks


def _rows(config: PretrainedConfig, setup: TrainingSetup) -> list[AnyRow]:
    """Return labelled rows of random ids for all steps; every other one is a token shorter, so batches are padded."""
    import numpy as np

    from jpllm.data.labels.encoding import EncodedChoices, EncodedRow
    from jpllm.data.labels.rows import LabelledRow

    rng = np.random.default_rng(0)
    row, length = LabelledRow("", "", None, "a"), setup.sequence_length
    lengths = [length - number % 2 for number in range(NUM_STEPS * setup.tokens_per_step // length)]
    sequences = [
        EncodedRow(row, rng.integers(1, config.vocab_size, size).astype(np.int32), None, 0, number)
        for number, size in enumerate(lengths)
    ]
    each = setup.sequences_per_row
    if each == 1:
        return [*sequences]
    return [EncodedChoices(row, sequences[at : at + each], 0) for at in range(0, len(sequences), each)]


def _give_pages_from(num_bytes: int) -> None:
    """Let allocations of so many bytes have pages of their own, so that resident memory is what tensors take."""
    library = ctypes.CDLL(None)
    library.mallopt(_M_MMAP_THRESHOLD, num_bytes)
    library.mallopt(_M_TRIM_THRESHOLD, 2 * num_bytes)  # as glibc does by itself
