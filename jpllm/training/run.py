"""The tail that every training recipe shares: train, evaluate, save, prove that the saved model is the trained one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments
from transformers.utils import logging as logging_of_transformers

from jpllm import runtime
from jpllm.data import mix
from jpllm.data.blocks import BlockDataset
from jpllm.data.corpus import DataConfig, EncodedText
from jpllm.data.mix import SourceUse
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.build import describe, load_trained
from jpllm.runtime import InputError, StoppedEarly
from jpllm.tokenizer.encoder import CorpusEncoder
from jpllm.tracking import metrics, plot
from jpllm.training import checkpoint, engine, run_folder
from jpllm.training.arguments import TrainingConfig, choose_precision, num_steps, training_arguments
from jpllm.training.callbacks import Clock, LossScaleGuard, MetricsRecorder, SampleWriter
from jpllm.training.checkpoint import Checkpoint, Facts
from jpllm.training.early_stopping import EarlyStopping
from jpllm.training.optimizer import refuse_impossible
from jpllm.training.run_folder import MODEL_NAME, UNPROVED_NAME
from jpllm.training.stopping import StopInTime
from jpllm.training.trainer import GROUP_PREFIX, CausalLMTrainer, last_good

PLOT_NAME = "loss.png"
RELOAD_TOLERANCE_NATS = 1e-3
logger = logging.getLogger(__name__)


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
    return line if len(mixture) == 1 else f"{line}\n{mix.table(mixture)}"


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
    *,
    prompts: Sequence[str],
    save_tokenizer: Callable[[Path], None],
    embedding_warmup_steps: int = 0,
    trainer_class: type[CausalLMTrainer] = CausalLMTrainer,
) -> dict:
    """The common part of the recipes that learn from raw text; returns what `results.json` holds.

    `trainer_class` is the objective: the loss, the evaluation and the samples. `configuration` is that of the
    recipe, with a `DataConfig`, a `TrainingConfig` and a `SamplingConfig` in it.

    Raises:
        InputError, StoppedEarly: see `train_and_prove`.
    """
    data, training, sampling = (_only(configuration, kind) for kind in (DataConfig, TrainingConfig, SamplingConfig))
    engine.prepare()
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
    arguments = training_arguments(training, max_steps, precision)
    runtime.announce(plan_text(clock, max_steps, precision, held_out, blocks.uses()))

    def answer(model: PreTrainedModel, prompts: Sequence[str]) -> list[str]:
        return trainer_class.answer(model, tokenizer, prompts, sampling, training.seed)

    run_folder.prepare(training.output_dir, configuration, held_out)
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=blocks,
        config=training,
        held_out=held_out,
        eos_token_id=tokenizer.eos_token_id,
        context_length=data.sequence_length,
        embedding_warmup_steps=embedding_warmup_steps,
        callbacks=[
            SampleWriter(training.output_dir, clock, prompts, answer),
            MetricsRecorder(training.output_dir, clock),
        ],
    )
    facts = run_folder.facts(blocks, held_out, encoder.fingerprint, configuration)
    return train_and_prove(trainer, training, facts, clock, save_tokenizer, blocks.uses())


def _only(configuration: Sequence[object], kind: type):
    (found,) = (part for part in configuration if isinstance(part, kind))
    return found


def train_and_prove(
    trainer: CausalLMTrainer,
    config: TrainingConfig,
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
    runtime.announce(str(runs))
    trainer.facts = replace(facts, world_size=runs.num_processes, engine=runs.name)
    start = _starting_point(trainer, config.output_dir, config.resume_changed)
    stop = StopInTime(config.max_hours)
    trainer.add_callback(stop)
    trainer.add_callback(LossScaleGuard(trainer.accelerator))
    early = EarlyStopping(trainer, config.output_dir, config.early_stopping_evals)
    if config.early_stopping_evals:
        trainer.add_callback(early)
    trainer.go_on_from(start)
    if stop.reason:
        raise StoppedEarly(
            f"stopped at step {trainer.state.global_step:,} of {trainer.state.max_steps:,} ({stop.reason}); "
            f"{last_good(trainer.checkpoints_dir)}; the same command goes on"
        )
    best = early if config.early_stopping_evals else None
    return _prove(trainer, config.output_dir, clock, save_tokenizer, mixture, best)


def _starting_point(trainer: CausalLMTrainer, output_dir: Path, resume_changed: bool) -> Checkpoint | None:
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


def _prove(
    trainer: CausalLMTrainer,
    output_dir: Path,
    clock: Clock,
    save_tokenizer: Callable[[Path], None],
    mixture: Sequence[SourceUse],
    best: EarlyStopping | None,
) -> dict:
    """Save the trained (or the best) model to `output_dir/model`, reload it, compare, plot, write the results."""
    shutil.rmtree(trainer.args.output_dir, ignore_errors=True)  # where checkpoints were written
    with suppress(OSError):  # not empty: there are checkpoints
        trainer.checkpoints_dir.rmdir()
    if not any(row["step"] == trainer.state.global_step and "eval_loss" in row for row in trainer.state.log_history):
        trainer.evaluate()
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    final = evaluations[-1]

    model_dir, unproved = output_dir / MODEL_NAME, output_dir / UNPROVED_NAME
    trainer.model.config.use_cache = True  # Trainer switches the cache off; who loads the model generates with it
    if best:
        final = next(row for row in evaluations if row["step"] == best.best_step)
    else:
        trainer.save_model(str(unproved))
    if runtime.is_main_process():
        if best:
            best.directory.rename(unproved)
        (unproved / "training_args.bin").unlink(missing_ok=True)  # a pickle that holds paths of this machine
        save_tokenizer(unproved)
    trainer.accelerator.wait_for_everyone()
    reloaded_loss = verify_saved_model(trainer, unproved, final["eval_loss"])
    if not runtime.is_main_process():
        return {}
    unproved.rename(model_dir)
    rows = metrics.read_rows(output_dir / metrics.METRICS_NAME)
    groups = _before_and_after([row for row in rows if "eval_loss" in row])
    training_seconds = max(row["training_seconds"] for row in rows)
    position = clock.position(trainer.state.global_step)
    results = {
        **position,
        "best_step": final["step"],
        "loss": final["eval_loss"],
        "reloaded_loss": reloaded_loss,
        **trainer.closing_figures(final),
        "num_parameters": engine.num_parameters(trainer.model),
        "groups": groups,
        "mixture": [asdict(use) for use in mixture],
        "hours": round(training_seconds / 3600, 4),
        "tokens_per_second": round(position["tokens"] / training_seconds, 1),
        "device": _device_name(trainer.args),
        "engine": str(engine.running(trainer.accelerator)),
        "versions": runtime.versions(),
    }
    plot.plot_loss(rows, clock.tokens_per_epoch, output_dir / PLOT_NAME, output_dir.name, trainer.loss_unit)
    run_folder.write_results(output_dir, results)
    for group, change in groups.items():
        runtime.announce(f"{group}: {change['before']:.4f} bits per byte before, {change['after']:.4f} after")
    runtime.announce(f"{trainer.closing_line(results)}\nmodel {model_dir}\nplot  {output_dir / PLOT_NAME}")
    return results


def _before_and_after(evaluations: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Bits per byte of each group of texts in the first and the last evaluation."""
    prefix = f"eval_{GROUP_PREFIX}"
    keys = [key for key in evaluations[0] if key.startswith(prefix)]
    return {key.removeprefix(prefix): {"before": evaluations[0][key], "after": evaluations[-1][key]} for key in keys}


def verify_saved_model(trainer: CausalLMTrainer, model_dir: Path, trained_loss: float) -> float:
    """Held-out loss of the model read back from `model_dir`; raises InputError if it is not `trained_loss`.

    The trained model and the optimizer leave the device first, so one model at a time is there.
    """
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    trainer.model.to("cpu")
    if trainer.args.device.type == "cuda":
        torch.cuda.empty_cache()
    engine.forget_sharding()
    reloaded_loss = trainer.figures(trainer.score(load_trained(model_dir, type(trainer.plain_model()))))["loss"]
    if not abs(reloaded_loss - trained_loss) <= RELOAD_TOLERANCE_NATS:
        raise InputError(
            f"{model_dir}: the saved model is not the trained one: held-out loss {reloaded_loss:.4f} after loading, "
            f"{trained_loss:.4f} in memory"
        )
    logger.info("the saved model, read back: held-out loss %.6f, in memory %.6f", reloaded_loss, trained_loss)
    return reloaded_loss


def _device_name(arguments: TrainingArguments) -> str:
    if arguments.device.type == "cuda":
        return f"{arguments.world_size} × {torch.cuda.get_device_name()}"
    return f"{arguments.world_size} × {arguments.device.type}, {torch.get_num_threads()} threads each"
