"""The tail of every training recipe: train, from the newest checkpoint on where there is one, and prove the model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as logging_of_transformers

from jpllm import runtime, xla
from jpllm.data.blocks import blend
from jpllm.data.blocks.blend import SourceUse
from jpllm.data.blocks.dataset import BlockDataset
from jpllm.data.corpus import DataConfig, EncodedText, write_documents
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.build import describe
from jpllm.runtime import InputError, StoppedEarly
from jpllm.tokenizer.encoder import CorpusEncoder
from jpllm.tracking.energy import EnergyMeter
from jpllm.tracking.wandb import content as wandb_content
from jpllm.tracking.wandb.mirror import WandbMirror
from jpllm.training import checkpoint, engine, environment, run_folder
from jpllm.training.arguments import TrainingConfig, choose_precision, num_steps, training_arguments
from jpllm.training.callbacks import Clock, LossScaleGuard, MetricsRecorder, SampleWriter
from jpllm.training.causal import CausalLMTrainer
from jpllm.training.checkpoint import Checkpoint, Facts
from jpllm.training.early_stopping import EarlyStopping
from jpllm.training.optimizer import refuse_impossible
from jpllm.training.overfitting import OverfittingWarning
from jpllm.training.proof import prove
from jpllm.training.stopping import StopInTime
from jpllm.training.trainer import BaseTrainer, last_good

logger = logging.getLogger(__name__)


class Plan(Protocol):
    """What a recipe hands in: a plan to be written into the run folder, and advice where memory runs out."""

    def write(
        self,
        mixture: Sequence[SourceUse],
        num_tokens: int,
        num_steps: int | None = None,
        shards_dir: Path | None = None,
    ) -> None: ...

    def explained(self) -> AbstractContextManager[None]: ...


def plan_text(
    clock: Clock, max_steps: int, precision: str, held_out: Sequence[EncodedText], mixture: Sequence[SourceUse]
) -> str:
    """What the run will do in one line, and another for each source where there are several."""
    tokens = max_steps * clock.tokens_per_step
    line = (
        f"{tokens:,} tokens in {max_steps:,} steps of {clock.tokens_per_step:,}: {tokens / clock.tokens_per_epoch:.2f} "
        f"epochs of {clock.tokens_per_epoch:,} tokens, {precision}; evaluation on "
        + ", ".join(f"{text.name} ({len(text.documents)} documents, {text.num_bytes:,} bytes)" for text in held_out)
    )
    return line if len(mixture) == 1 else f"{line}\n{blend.table(mixture)}"


def stop_before_repeats(max_steps: int, steps_without_repeats: int) -> int:
    """The fewer of both; says so when the budget is cut. Raises InputError when nothing is left."""
    if steps_without_repeats == 0:
        raise InputError("when_exhausted: stop, and a source runs out in the first step; write repeat, or add text")
    if steps_without_repeats < max_steps:
        logger.warning(
            "a source runs out after %d of %d steps: training stops there (when_exhausted)",
            steps_without_repeats,
            max_steps,
        )
    return min(max_steps, steps_without_repeats)


def train_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    encoder: CorpusEncoder,
    blocks: BlockDataset,
    held_out: Sequence[EncodedText],
    configuration: Sequence[object],
    plan: Plan,
    *,
    prompts: Sequence[str],
    save_tokenizer: Callable[[Path], None],
    embedding_warmup_steps: int = 0,
    trainer_class: type[CausalLMTrainer] = CausalLMTrainer,
) -> dict:
    """The common part of the recipes that learn from raw text; returns what `results.json` holds.

    `trainer_class` is the objective: the loss, the evaluation and the samples. `configuration` is that of the
    recipe, with a `DataConfig`, a `TrainingConfig` and a `SamplingConfig` in it. `engine.prepare` comes before.

    Raises:
        InputError: memory ran out, and see `train_and_prove`.
        StoppedEarly: see `train_and_prove`.
    """
    data, training, sampling = (only(configuration, kind) for kind in (DataConfig, TrainingConfig, SamplingConfig))
    refuse_impossible(training, engine.requested().name, embedding_warmup_steps)
    trainer_class.prepare(model, data, training)
    runtime.announce(describe(model))

    blocks_per_step = training.blocks_per_step(runtime.num_processes())
    clock = Clock(blocks_per_step * data.sequence_length, blocks.num_blocks * data.sequence_length)
    max_steps = num_steps(training, clock.tokens_per_step, clock.tokens_per_epoch)
    if data.when_exhausted == "stop":
        max_steps = stop_before_repeats(max_steps, blocks.num_positions_without_repeats // blocks_per_step)
    blocks.num_positions = max_steps * blocks_per_step
    precision = choose_precision(training.precision)
    mixture = blocks.uses()
    runtime.announce(plan_text(clock, max_steps, precision, held_out, mixture))

    def answer(model: PreTrainedModel, prompts: Sequence[str]) -> list[str]:
        return trainer_class.answer(model, tokenizer, prompts, sampling, training.seed)

    make_trainer = partial(
        trainer_class,
        model=model,
        train_dataset=blocks,
        config=training,
        held_out=held_out,
        eos_token_id=tokenizer.eos_token_id,
        context_length=data.sequence_length,
        embedding_warmup_steps=embedding_warmup_steps,
    )
    with plan.explained():
        return train_model(
            make_trainer,
            configuration,
            run_folder.facts(blocks, held_out, encoder.fingerprint, configuration),
            clock,
            max_steps,
            write_held_out=partial(write_documents, held_out),
            save_tokenizer=save_tokenizer,
            sample_writer=SampleWriter(training.output_dir, clock, prompts, answer),
            mixture=mixture,
            write_plan=partial(plan.write, mixture, clock.tokens(max_steps), shards_dir=data.shards_dir),
        )


def train_model(
    make_trainer: Callable[..., BaseTrainer],
    configuration: Sequence[object],
    facts: Facts,
    clock: Clock,
    max_steps: int,
    *,
    write_held_out: Callable[[Path], None],
    save_tokenizer: Callable[[Path], None],
    write_plan: Callable[[], None],
    sample_writer: SampleWriter | None = None,
    mixture: Sequence[SourceUse] = (),
) -> dict:
    """The common part of all recipes: the run folder, the trainer, and what is recorded beside the training.

    `make_trainer` takes what else a trainer needs: `args` and `callbacks`. `write_held_out` gets the path of a file;
    `write_plan` is called when the folder is there.

    Raises:
        InputError, StoppedEarly: see `train_and_prove`.
    """
    training = only(configuration, TrainingConfig)
    arguments = training_arguments(training, max_steps, choose_precision(training.precision))
    meter = EnergyMeter() if training.measure_energy else None
    mirror = None
    if training.report_to == "wandb":
        settings = wandb_content.settings(configuration, [use.source for use in mixture or ()])
        mirror = WandbMirror(training.output_dir, settings)
    recorder = MetricsRecorder(training.output_dir, clock, meter, mirror)
    run_folder.prepare(training.output_dir, configuration, write_held_out)
    if runtime.is_main_process():
        environment.add_session(training.output_dir)
        write_plan()
    callbacks = [sample_writer, recorder] if sample_writer else [recorder]
    trainer = make_trainer(args=arguments, callbacks=callbacks)
    with closing(recorder):
        return train_and_prove(trainer, training, facts, clock, save_tokenizer, mixture)


def only(configuration: Sequence[object], kind: type):
    """The one configuration of that class."""
    (found,) = (part for part in configuration if isinstance(part, kind))
    return found


def train_and_prove(
    trainer: BaseTrainer,
    training: TrainingConfig,
    facts: Facts,
    clock: Clock,
    save_tokenizer: Callable[[Path], None],
    mixture: Sequence[SourceUse] = (),
) -> dict:
    """Train, from the newest checkpoint on where there is one, and prove the saved model; returns `results.json`.

    `facts` need not have the number of processes and the engine.

    Raises:
        InputError: a checkpoint of other facts, a loss that is not finite, too little memory, or a model that does not
            give its loss when it is read back from disk.
        StoppedEarly: a signal came or `max_hours` are over; there is a checkpoint.
    """
    logging_of_transformers.disable_progress_bar()  # for saving and loading: ours is the training's
    runs = engine.confirm(trainer.accelerator)
    if runs.name == "XLA":
        xla.connect_processes()
    runtime.announce(str(runs))
    trainer.facts = replace(facts, world_size=runs.num_processes, engine=runs.name)
    start = _starting_point(trainer, training.output_dir, training.resume_changed)
    stop = StopInTime(training.max_hours)
    trainer.add_callback(stop)
    trainer.add_callback(LossScaleGuard(trainer.accelerator))
    trainer.add_callback(OverfittingWarning())
    early = EarlyStopping(trainer, training.output_dir, training.early_stopping_evals)
    if training.early_stopping_evals:
        trainer.add_callback(early)
    trainer.go_on_from(start)
    if stop.reason:
        raise StoppedEarly(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,} ({stop.reason}); "
            f"{last_good(trainer.checkpoints_dir)}; the same command goes on"
        )
    best = early if training.early_stopping_evals else None
    return prove(trainer, training.output_dir, clock, save_tokenizer, mixture, best)


def _starting_point(trainer: BaseTrainer, output_dir: Path, resume_changed: bool) -> Checkpoint | None:
    """The checkpoint to go on from, chosen by the main process; the logs are cut back to it.

    Raises:
        InputError: no checkpoint is whole, or the run was another one and `resume_changed` is not set.
    """
    found: list = [None, None]
    if trainer.is_world_process_zero():
        try:
            start = checkpoint.newest(trainer.checkpoints_dir)
            changes = trainer.facts.changes(start.manifest["facts"]) if start else []
            if changes and not resume_changed:
                raise InputError(
                    f"{start.directory}: this is another run now:\n  " + "\n  ".join(changes) + "\nname a new "
                    "output_dir, set it back, or go on with resume_changed: true (the losses are then others)"
                )
            run_folder.cut_logs(output_dir, start.manifest["logs"] if start else {})
            if start:
                runtime.announce(f"going on from {start.directory}")
            found = [start, None]
        except InputError as error:
            found = [None, str(error)]
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(found)
    start, problem = found
    if problem:
        raise InputError(problem)
    return start
