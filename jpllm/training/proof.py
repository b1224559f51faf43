"""The end of a run: the saved model, read back from disk, is proved to be the trained one; plot and results."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel, TrainingArguments

from jpllm import runtime, whole_files, xla
from jpllm.data.blocks.blend import SourceUse
from jpllm.models import adapters
from jpllm.models.evaluating import in_float32
from jpllm.models.lora import has_adapted_experts, has_lora
from jpllm.runtime import InputError
from jpllm.tracking import metrics, plot
from jpllm.tracking.metrics import EVAL_GROUP_PREFIX
from jpllm.tracking.runs import MODEL_NAME
from jpllm.training import engine, machine, run_folder
from jpllm.training.early_stopping import best_models
from jpllm.training.run_data import Clock
from jpllm.training.run_folder import UNPROVED_NAME
from jpllm.training.trainer import BaseTrainer

PLOT_NAME = "loss.png"
_UNPROVED_ADAPTER = "adapter.unproved"
RELOAD_TOLERANCE_NATS = 1e-3
logger = logging.getLogger(__name__)


def prove(
    trainer: BaseTrainer,
    output_dir: Path,
    clock: Clock,
    save_tokenizer: Callable[[Path], object],
    mixture: Sequence[SourceUse],
) -> dict:
    """Save the trained (or the best) model to `output_dir/model`, reload it, compare, plot, write the results.

    Returns what `results.json` holds, in the main process.

    Raises:
        InputError: the model that was read back from disk does not give the loss of the trained one.
    """
    trainer.accelerator.wait_for_everyone()  # Trainer looks into that folder at its end
    if runtime.is_main_process():
        shutil.rmtree(trainer.partial_dir, ignore_errors=True)  # where checkpoints were written
        with suppress(OSError):  # not empty: there are checkpoints
            trainer.checkpoints_dir.rmdir()
    if not any(row["step"] == trainer.state.global_step and "eval_loss" in row for row in trainer.state.log_history):
        trainer.evaluate()
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    final = evaluations[-1]
    if trainer.best:
        final = next(row for row in evaluations if row["step"] == trainer.best.best_step)

    model_dir, unproved = output_dir / MODEL_NAME, output_dir / UNPROVED_NAME
    with whole_files.removed_on_failure(unproved):
        _save(trainer, unproved, save_tokenizer)
    losses = _verify(trainer, unproved, final["eval_loss"])
    if not runtime.is_main_process():
        return {}
    rows = metrics.read_rows(output_dir / metrics.METRICS_NAME)
    results = _results(trainer, clock, mixture, rows, final, losses)
    plot.plot_loss(rows, clock.tokens_per_epoch, output_dir / PLOT_NAME, output_dir.name, trainer.loss_unit)
    unproved.rename(model_dir)
    run_folder.write_results(output_dir, results)
    for superfluous in best_models(output_dir):
        shutil.rmtree(superfluous, ignore_errors=True)
    for group, change in results["groups"].items():
        runtime.announce(f"{group}: {change['before']:.4f} bits per byte before, {change['after']:.4f} after")
    if "unquantized_loss" in results:
        runtime.announce(
            f"trained beside 4-bit weights: held-out loss {results['loss']:.4f} there, "
            f"{results['unquantized_loss']:.4f} with the published weights, {results['reloaded_loss']:.4f} as saved"
        )
    runtime.announce(f"{trainer.closing_line(results)}\nmodel {model_dir}\nplot  {output_dir / PLOT_NAME}")
    return results


def _save(trainer: BaseTrainer, directory: Path, save_tokenizer: Callable[[Path], object]) -> None:
    """Write the trained model, or a copy of the best one, to `directory`, and the tokenizer beside it."""
    trainer.model.config.use_cache = True  # Trainer switches the cache off; who loads the model generates with it
    is_best_whole = trainer.best and not adapters.is_adapter(trainer.best.directory)
    if trainer.best and not is_best_whole:
        adapters.restore(trainer.best.directory, trainer.plain_model())
    if not is_best_whole:
        trainer.save_final(directory)
    if runtime.is_main_process():
        if trainer.best and is_best_whole:
            shutil.copytree(trainer.best.directory, directory, copy_function=_link_or_copy)
        (directory / "training_args.bin").unlink(missing_ok=True)  # a pickle that holds paths of this machine
        save_tokenizer(directory)
    trainer.accelerator.wait_for_everyone()


def _link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, which takes no room, or copy it where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _results(
    trainer: BaseTrainer,
    clock: Clock,
    mixture: Sequence[SourceUse],
    rows: Sequence[dict],
    final: dict,
    losses: dict[str, float],
) -> dict:
    """Return what `results.json` holds; `rows` are the metrics of the run, `final` the evaluation of the kept model."""
    training_seconds = max(row["training_seconds"] for row in rows)
    position = clock.position(trainer.state.global_step)
    results = {
        **position,
        "best_step": final["step"],
        "loss": final["eval_loss"],
        **losses,
        **trainer.closing_figures(final),
        "num_parameters": trainer.num_parameters,
        "groups": _before_and_after(next(row for row in rows if "eval_loss" in row), final),
        "mixture": [asdict(use) for use in mixture],
        "hours": round(training_seconds / 3600, 4),
        "tokens_per_second": round(position["tokens"] / training_seconds, 1),
        **_peak_memory(rows),
        "device": _device_name(trainer.args),
        "engine": str(engine.running(trainer.accelerator)),
        "versions": runtime.versions(),
    }
    if any("kwh" in row for row in rows):
        results["kwh"] = max(row.get("kwh", 0.0) for row in rows)
    return results


def _peak_memory(rows: Sequence[dict]) -> dict[str, int]:
    """Return the most memory that the main process has had, over all starts of the run."""
    now = machine.peak_memory()
    return {key: max(now[key], *(row.get(key, 0) for row in rows)) for key in now}


def _before_and_after(first: dict, final: dict) -> dict[str, dict[str, float]]:
    """Return the bits per byte of each group of texts in the first evaluation and in that of the model that is kept."""
    keys = [key for key in first if key.startswith(EVAL_GROUP_PREFIX)]
    return {key.removeprefix(EVAL_GROUP_PREFIX): {"before": first[key], "after": final[key]} for key in keys}


def _verify(trainer: BaseTrainer, model_dir: Path, trained_loss: float) -> dict[str, float]:
    """Return held-out losses: of the model read back from `model_dir`, and of what it has to equal if it is another.

    That is the trained model. Where LoRA was merged into 16-bit weights it is the published model with LoRA on it, in
    its own number format also where 4-bit weights were trained beside; both then compute in float32, as roundings of
    hidden states would differ by more than those of weights. What the training held is given back first, so that one
    model at a time is on the device.

    Raises InputError if the losses differ.
    """
    published, model_class = trainer.published, type(trainer.plain_model())
    if published is None or not has_lora(trainer.plain_model()) or published.is_saved_as_held:
        engine.release(trainer)
        return _compare(trainer, model_dir, trained_loss, _loss(trainer, trainer.load_final(model_dir)))
    adapter_dir = model_dir.with_name(_UNPROVED_ADAPTER)
    if runtime.is_main_process():
        adapters.save(trainer.plain_model(), adapter_dir)
    trainer.accelerator.wait_for_everyone()
    engine.release(trainer)
    trainer.args.bf16 = trainer.args.fp16 = False  # no more autocast
    expected = _loss_in_float32(trainer, published.load_unquantised(adapter_dir, model_class))
    reloaded_loss = _loss_in_float32(trainer, trainer.load_final(model_dir))
    more = f"; what LoRA learned is in {adapter_dir}, and save: adapter saves no more than that"
    losses = _compare(trainer, model_dir, expected, reloaded_loss, more)
    if runtime.is_main_process():
        shutil.rmtree(adapter_dir)
    return losses | ({"unquantized_loss": expected} if published.quantization != "none" else {})


def _loss(trainer: BaseTrainer, model: PreTrainedModel) -> float:
    return trainer.figures(trainer.score(model))["loss"]


def _loss_in_float32(trainer: BaseTrainer, model: PreTrainedModel) -> float:
    """Return the held-out loss of a model that computes in float32, where it can, whatever its weights are held in."""
    device = trainer.args.device
    if has_adapted_experts(model):
        return _loss(trainer, model.to(device))
    with in_float32(model, device):
        return _loss(trainer, model)


def _compare(
    trainer: BaseTrainer, model_dir: Path, expected: float, reloaded_loss: float, more: str = ""
) -> dict[str, float]:
    """Return the loss of the saved model. Raises InputError, with `more` in the message, if it is another."""
    if not abs(reloaded_loss - expected) <= RELOAD_TOLERANCE_NATS:
        raise InputError(
            f"{model_dir}: the saved model is not the trained one: held-out loss {reloaded_loss:.4f} after loading, "
            f"{expected:.4f} in memory{more}"
        )
    logger.info("the saved model, read back: held-out loss %.6f, in memory %.6f", reloaded_loss, expected)
    return {"reloaded_loss": reloaded_loss}


def _device_name(arguments: TrainingArguments) -> str:
    if arguments.device.type == "cuda":
        return f"{arguments.world_size} × {torch.cuda.get_device_name()}"
    if arguments.device.type == "xla":
        return f"{arguments.world_size} × XLA {xla.kind()}"
    return f"{arguments.world_size} × {arguments.device.type}, {torch.get_num_threads()} threads each"
