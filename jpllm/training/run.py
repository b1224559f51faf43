"""Train and prove a model: what lies between a recipe and Trainer, from the run folder to the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Protocol

import torch
from transformers import TrainerCallback
from transformers.utils import logging as logging_of_transformers

from jpllm import runtime, xla
from jpllm.data.blocks.blend import SourceUse
from jpllm.runtime import InputError, StoppedEarly
from jpllm.tracking.energy import EnergyMeter
from jpllm.tracking.wandb import content as wandb_content
from jpllm.tracking.wandb.mirror import WandbMirror
from jpllm.training import checkpoint, engine, run_folder
from jpllm.training.arguments import choose_precision, training_arguments
from jpllm.training.callbacks import EarlyStopping, LossScaleGuard, MetricsRecorder, OverfittingWarning, StopInTime
from jpllm.training.checkpoint import Checkpoint
from jpllm.training.config import TrainingConfig
from jpllm.training.hangs import HangWatch
from jpllm.training.proof import prove
from jpllm.training.run_data import Clock, RowClock, RunData
from jpllm.training.trainer import BaseTrainer, last_good


class Plan(Protocol):
    """What a run is expected to take; `jpllm.planning` has it, and a recipe hands it in."""

    def write(
        self,
        mixture: Sequence[SourceUse],
        num_tokens: int,
        num_steps: int | None = None,
        shards_dir: Path | None = None,
    ) -> None:
        """Write the plan into the run folder; `num_steps` where steps differ in their number of tokens."""

    def explained(self) -> AbstractContextManager[None]:
        """Return a context that turns running out of memory into an InputError that says what would need less."""


def train(
    make_trainer: Callable[..., BaseTrainer],
    data: RunData,
    configuration: Sequence[object],
    *,
    tokenizer_fingerprint: str,
    save_tokenizer: Callable[[Path], object],
    plan: Plan,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict:
    """Train in the run folder of a configuration and prove the saved model; return what `results.json` holds.

    Args:
        make_trainer: the class of the trainer, with all arguments that the data and the configuration do not give.
        configuration: the instances of all classes that the recipe has parsed; one is a `TrainingConfig`.
        save_tokenizer: writes the tokenizer into the folder that it is given.
        callbacks: called at each event before the metrics are written, in this order.

    Raises:
        InputError: memory ran out, and see `train_and_prove`.
        StoppedEarly: a signal came or `max_hours` are over; there is a checkpoint.
    """
    (training,) = (part for part in configuration if isinstance(part, TrainingConfig))
    with plan.explained():
        facts = run_folder.facts(data.fingerprint, tokenizer_fingerprint, configuration, data.shards_hash)
        is_of_rows = isinstance(data.clock, RowClock)
        arguments = training_arguments(
            training,
            data.max_steps,
            choose_precision(training.precision),
            steps_per_epoch=data.clock.steps_per_epoch if is_of_rows else None,
        )
        recorder = _recorder(training, data, configuration)
        run_folder.prepare(training.output_dir, configuration, data.write_held_out)
        if runtime.is_main_process():
            run_folder.add_session(training.output_dir)
            plan.write(data.uses(), data.num_tokens, data.max_steps if is_of_rows else None, data.shards_dir)
        trainer = make_trainer(
            args=arguments,
            config=training,
            facts=facts,
            train_dataset=data.train_dataset,
            held_out=data.held_out,
            callbacks=[*callbacks, recorder],
        )
        with closing(recorder):
            return train_and_prove(trainer, data.clock, save_tokenizer, data.mixture)


def train_and_prove(
    trainer: BaseTrainer,
    clock: Clock,
    save_tokenizer: Callable[[Path], object],
    mixture: Sequence[SourceUse] = (),
) -> dict:
    """Train, from the newest checkpoint on where there is one, and prove the saved model; return `results.json`.

    Raises:
        InputError: a checkpoint of other facts, a loss that is not finite, too little memory, or a model that does not
            give its loss when it is read back from disk.
        StoppedEarly: a signal came or `max_hours` are over; there is a checkpoint.
    """
    training = trainer.config
    logging_of_transformers.disable_progress_bar()  # for saving and loading: ours is the training's
    runs = engine.confirm(trainer.accelerator)
    if runs.name == "XLA":
        xla.connect_processes()
    runtime.announce(str(runs))
    start = _starting_point(trainer, training.output_dir, training.resume_changed)
    stop = StopInTime(training.max_hours)
    trainer.add_callback(stop)
    processes = (trainer.args.process_index, trainer.args.world_size)
    trainer.add_callback(HangWatch(training.output_dir, training.ddp_timeout, *processes))
    trainer.add_callback(LossScaleGuard(trainer.accelerator))
    trainer.add_callback(OverfittingWarning())
    best = None
    if training.early_stopping_evals:
        best = EarlyStopping(trainer, training.output_dir, training.early_stopping_evals)
        trainer.add_callback(best)
    if start:
        trainer.go_on_from(start)
    trainer.train(resume_from_checkpoint=str(start.directory) if start else None)
    if stop.reason:
        raise StoppedEarly(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,} ({stop.reason}); "
            f"{last_good(trainer.checkpoints_dir)}; the same command goes on"
        )
    return prove(trainer, training.output_dir, clock, save_tokenizer, mixture, best)


def _recorder(training: TrainingConfig, data: RunData, configuration: Sequence[object]) -> MetricsRecorder:
    """Return the callback that writes the metrics, with the meter and the mirror that the settings ask for."""
    meter = EnergyMeter() if training.measure_energy else None
    mirror = None
    if training.report_to == "wandb":
        settings = wandb_content.settings(configuration, [use.source for use in data.mixture])
        mirror = WandbMirror(training.output_dir, settings)
    return MetricsRecorder(training.output_dir, data.clock, meter, mirror)


def _starting_point(trainer: BaseTrainer, output_dir: Path, resume_changed: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, chosen by the main process, and cut the logs back to it.

    Raises:
        InputError: no checkpoint is whole, or the run was another one and `resume_changed` is not set.
    """
    found: list = [None, None]
    if trainer.is_world_process_zero():
        try:
            start = checkpoint.newest(trainer.checkpoints_dir)
            changes = trainer.facts.changes(start.manifest["facts"]) if start else []
            if start and changes and not resume_changed:
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
