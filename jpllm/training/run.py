"""Train and prove a model: what lies between a recipe and Trainer, from the run folder to the results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from transformers import TrainerCallback
from transformers.utils import logging as logging_of_transformers

from jpllm import runtime, xla
from jpllm.data.blocks.blend import SourceUse
from jpllm.runtime import InputError, StoppedEarly
from jpllm.tracking import metrics
from jpllm.tracking.energy import EnergyMeter
from jpllm.tracking.wandb import content as wandb_content
from jpllm.tracking.wandb.mirror import WandbMirror
from jpllm.training import checkpoint, engine, run_folder
from jpllm.training.arguments import choose_precision, training_arguments
from jpllm.training.callbacks import LossScaleGuard, MetricsRecorder, OverfittingWarning, StopInTime
from jpllm.training.checkpoint import Checkpoint
from jpllm.training.config import TrainingConfig
from jpllm.training.early_stopping import EarlyStopping, TrainingIsOver
from jpllm.training.facts import facts_of
from jpllm.training.hangs import HangWatch
from jpllm.training.proof import prove
from jpllm.training.run_data import Clock, RowClock, RunData
from jpllm.training.trainer import BaseTrainer, last_good

if TYPE_CHECKING:
    from transformers import TrainingArguments


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
        facts = facts_of(data.fingerprint, tokenizer_fingerprint, configuration, data.shards_hash)
        is_of_rows = isinstance(data.clock, RowClock)
        arguments = training_arguments(
            training,
            data.max_steps,
            choose_precision(training.precision),
            steps_per_epoch=data.clock.steps_per_epoch if is_of_rows else None,
        )
        recorder = _recorder(training, data, configuration)
        _in_main_process(lambda: run_folder.claim(training.output_dir, facts, training.resume_changed), arguments)

        def write_record() -> None:
            run_folder.prepare(training.output_dir, configuration, data.write_held_out, facts)
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
            return train_and_prove(trainer, data.clock, save_tokenizer, data.mixture, write_record)


def train_and_prove(
    trainer: BaseTrainer,
    clock: Clock,
    save_tokenizer: Callable[[Path], object],
    mixture: Sequence[SourceUse] = (),
    write_record: Callable[[], None] = lambda: None,
) -> dict:
    """Train, from the newest checkpoint on where there is one, and prove the saved model; return `results.json`.

    `write_record` writes what says which run this is; it is called when nothing can be refused any more.

    Raises:
        InputError: a checkpoint of other facts, a loss that is not finite, too little memory, or a model that does not
            give its loss when it is read back from disk.
        StoppedEarly: a signal came or `max_hours` are over; there is a checkpoint.
    """
    training = trainer.config
    logging_of_transformers.disable_progress_bar()  # for saving and loading: ours is the training's
    runs = engine.confirm(trainer.accelerator)
    runtime.announce(str(runs))
    trainer.clock = clock
    if training.early_stopping_evals:
        trainer.best = EarlyStopping(trainer, training.output_dir, training.early_stopping_evals)
    start = _starting_point(trainer)
    if start:
        position = _position(start, trainer, clock)
        if position["tokens"] != clock.tokens(start.step):
            clock.go_on_from(start.step, position)
            runtime.announce(
                f"{position['tokens']:,} tokens were trained on in {start.step:,} steps of another size; with the "
                f"steps from here on they will be {clock.tokens(max(start.step, trainer.args.max_steps)):,}"
            )
    if trainer.best:
        trainer.best.go_on_from(start)
    write_record()
    if trainer.is_world_process_zero():
        run_folder.cut_logs(training.output_dir, start.manifest["logs"] if start else {})
    if start:
        trainer.go_on_from(start)
        runtime.announce(f"going on from {start.directory}")
    stop = StopInTime(training.max_hours)
    watch = HangWatch(training.output_dir, training.ddp_timeout, trainer.args.process_index, trainer.args.world_size)
    for callback in (stop, watch, LossScaleGuard(trainer.accelerator), OverfittingWarning(), trainer.best):
        if callback:
            trainer.add_callback(callback)
    try:
        trainer.train(resume_from_checkpoint=str(start.directory) if start else None)
    except TrainingIsOver:
        trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    if stop.reason:
        raise StoppedEarly(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,} ({stop.reason}); "
            f"{last_good(trainer.checkpoints_dir)}; the same command goes on"
        )
    return prove(trainer, training.output_dir, clock, save_tokenizer, mixture)


def _recorder(training: TrainingConfig, data: RunData, configuration: Sequence[object]) -> MetricsRecorder:
    """Return the callback that writes the metrics, with the meter and the mirror that the settings ask for."""
    meter = EnergyMeter() if training.measure_energy else None
    mirror = None
    if training.report_to == "wandb":
        settings = wandb_content.settings(configuration, [use.source for use in data.mixture])
        mirror = WandbMirror(training.output_dir, settings)
    return MetricsRecorder(training.output_dir, data.clock, meter, mirror)


def _starting_point(trainer: BaseTrainer) -> Checkpoint | None:
    """Return the checkpoint to go on from, chosen by the main process; nothing is changed yet.

    Raises:
        InputError: no checkpoint is whole, or the run was another one and `resume_changed` is not set, or could not
            go on in any case.
    """

    def refuse(start: Checkpoint) -> None:
        if trainer.best:
            trainer.best.refuse_lost(start)

    def choose() -> Checkpoint | None:
        start = checkpoint.newest(trainer.checkpoints_dir, refuse)
        if start:
            earlier, resume_changed = start.manifest["facts"], trainer.config.resume_changed
            run_folder.refuse_another_run(start.directory, earlier, trainer.facts, resume_changed)
            trainer.refuse_other_weights(start)
        return start

    return _in_main_process(choose, trainer.args)


Found = TypeVar("Found")


def _in_main_process(find: Callable[[], Found], arguments: TrainingArguments) -> Found:
    """Return in every process what `find` returns in the main one; an InputError there is raised in every process."""
    if xla.is_launched():
        xla.connect_processes()
    found, problem = None, ""
    if arguments.process_index == 0:
        try:
            found = find()
        except InputError as error:
            problem = str(error)
    found, problem = engine.from_main_process((found, problem), arguments)
    if problem:
        raise InputError(problem)
    return found


def _position(start: Checkpoint, trainer: BaseTrainer, clock: Clock) -> Mapping[str, float]:
    """Return tokens and epochs that a run has trained on at a checkpoint, at whatever number of tokens per step.

    jpllm 0.1.0 did not write them down: there they follow from the rows before, where anything has changed since.
    """
    if start.manifest["position"] is not None:
        return start.manifest["position"]
    file = trainer.config.output_dir / metrics.METRICS_NAME
    rows = metrics.read_rows(file, start.manifest["logs"].get(metrics.METRICS_NAME, 0)) if file.exists() else []
    if not trainer.facts.changes(start.manifest["facts"]) or not rows or not rows[-1]["step"]:
        return clock.position(start.step)
    share = start.step / rows[-1]["step"]
    return {"tokens": round(rows[-1]["tokens"] * share), "epoch": rows[-1]["epoch"] * share}
