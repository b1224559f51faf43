"""The tail that every training recipe shares: train, evaluate, save, prove that the saved model is the trained one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as logging_of_transformers

from jpllm import config, runtime
from jpllm.data import mix
from jpllm.data.corpus import EncodedText, write_documents
from jpllm.data.mix import SourceUse
from jpllm.evaluation import perplexity
from jpllm.models.build import load_trained
from jpllm.runtime import InputError
from jpllm.tracking import metrics, plot
from jpllm.training.callbacks import Clock

MODEL_DIR_NAME = "model"
RESULTS_NAME = "results.json"
CONFIG_NAME = "config.yaml"
HELD_OUT_NAME = "held_out.jsonl"
PLOT_NAME = "loss.png"
RELOAD_TOLERANCE_NATS = 1e-3
logger = logging.getLogger(__name__)


class CausalLMTrainer(Trainer):
    """Trainer that evaluates bits per byte, each token of each held-out text exactly once."""

    def __init__(self, *, held_out: list[EncodedText], eos_token_id: int, context_length: int, **kwargs) -> None:
        super().__init__(eval_dataset=held_out, **kwargs)
        self._score_arguments = {"eos_token_id": eos_token_id, "context_length": context_length}
        self.remove_callback(PrinterCallback)
        self.callback_handler.callbacks = [
            _QuietProgress() if isinstance(callback, ProgressCallback) else callback
            for callback in self.callback_handler.callbacks
        ]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the held-out texts; logs and returns loss and bits per byte, overall and of each text."""
        scores = self.score(self.plain_model())
        total = perplexity.total(scores)
        row = {f"{metric_key_prefix}_loss": total.loss, f"{metric_key_prefix}_bits_per_byte": total.bits_per_byte}
        if len(scores) > 1:
            row |= {f"{metric_key_prefix}_bits_per_byte/{score.name}": score.bits_per_byte for score in scores}
        self.log(dict(row))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, row)
        return row

    def plain_model(self) -> torch.nn.Module:
        """The model without the wrappers of compilation and data parallelism."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def score(self, model: torch.nn.Module) -> list[perplexity.TextScore]:
        """Scores of `model` on the held-out texts, in the arithmetic that the training uses."""
        return perplexity.score(
            model,
            self.eval_dataset,
            **self._score_arguments,
            batch_size=self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )


class _QuietProgress(ProgressCallback):
    """The progress bar alone: the lines of the log are written by `MetricsRecorder`."""

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        pass


def autocast(arguments: TrainingArguments) -> AbstractContextManager:
    """The mixed-precision context of these arguments."""
    if not (arguments.bf16 or arguments.fp16):
        return nullcontext()
    return torch.autocast(arguments.device.type, torch.bfloat16 if arguments.bf16 else torch.float16)


def refuse_used_output_dir(output_dir: Path) -> None:
    """Raise InputError if the folder holds anything: a run is never written over another."""
    if runtime.is_main_process() and output_dir.exists():
        if not output_dir.is_dir():
            raise InputError(f"output_dir: {output_dir} is a file; name a folder")
        found = sorted(path.name for path in output_dir.iterdir())
        if found:
            raise InputError(
                f"output_dir: {output_dir} already holds {', '.join(found[:4])}{' …' if len(found) > 4 else ''}; "
                "name a new folder, or move that one away"
            )


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


def write_inputs(output_dir: Path, configuration: Iterable[object], held_out: Sequence[EncodedText]) -> None:
    """Create the run folder with the resolved configuration and the held-out texts."""
    if runtime.is_main_process():
        config.write_resolved(configuration, output_dir / CONFIG_NAME)
        write_documents(held_out, output_dir / HELD_OUT_NAME)


def train_and_prove(
    trainer: CausalLMTrainer,
    save_tokenizer: Callable[[Path], None],
    output_dir: Path,
    clock: Clock,
    mixture: Sequence[SourceUse] = (),
) -> dict:
    """Train, save to `output_dir/model`, reload, compare, plot; returns what `results.json` holds.

    Raises:
        InputError: the model read back from disk does not give the loss of the one in memory.
    """
    logging_of_transformers.disable_progress_bar()  # for saving and loading: ours is the training's
    started = time.monotonic()
    trainer.train()
    hours = (time.monotonic() - started) / 3600
    with suppress(OSError):  # not empty: there are checkpoints
        Path(trainer.args.output_dir).rmdir()
    if not any(row["step"] == trainer.state.global_step and "eval_loss" in row for row in trainer.state.log_history):
        trainer.evaluate()
    final = next(row for row in reversed(trainer.state.log_history) if "eval_loss" in row)

    model_dir = output_dir / MODEL_DIR_NAME
    unproved = model_dir.with_name(model_dir.name + ".unproved")
    trainer.model.config.use_cache = True  # Trainer switches the cache off; who loads the model generates with it
    trainer.save_model(str(unproved))
    if runtime.is_main_process():
        (unproved / "training_args.bin").unlink(missing_ok=True)  # a pickle that holds paths of this machine
        save_tokenizer(unproved)
    trainer.accelerator.wait_for_everyone()
    reloaded_loss = verify_saved_model(trainer, unproved, final["eval_loss"])
    if not runtime.is_main_process():
        return {}
    unproved.rename(model_dir)
    rows = metrics.read_rows(output_dir / metrics.METRICS_NAME)
    training_seconds = max(row["training_seconds"] for row in rows)
    position = clock.position(trainer.state.global_step)
    results = {
        **position,
        "loss": final["eval_loss"],
        "reloaded_loss": reloaded_loss,
        "bits_per_byte": final["eval_bits_per_byte"],
        "xz_bits_per_byte": perplexity.xz_bits_per_byte([d for text in trainer.eval_dataset for d in text.documents]),
        "num_parameters": trainer.model.num_parameters(),
        "mixture": [asdict(use) for use in mixture],
        "hours": round(hours, 4),
        "tokens_per_second": round(position["tokens"] / training_seconds, 1),
        "device": _device_name(trainer.args),
        "versions": runtime.versions(),
    }
    (output_dir / RESULTS_NAME).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    plot.plot_loss(rows, clock.tokens_per_epoch, output_dir / PLOT_NAME, title=output_dir.name)
    runtime.announce(
        f"held-out bits per byte {results['bits_per_byte']:.4f}, "
        f"xz -9 on the same text {results['xz_bits_per_byte']:.4f}\n"
        f"model {model_dir}\nplot  {output_dir / PLOT_NAME}"
    )
    return results


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
    reloaded = perplexity.total(trainer.score(load_trained(model_dir)))
    if not abs(reloaded.loss - trained_loss) <= RELOAD_TOLERANCE_NATS:
        raise InputError(
            f"{model_dir}: the saved model is not the trained one: held-out loss {reloaded.loss:.4f} after loading, "
            f"{trained_loss:.4f} in memory"
        )
    logger.info("the saved model, read back: held-out loss %.6f, in memory %.6f", reloaded.loss, trained_loss)
    return reloaded.loss


def _device_name(arguments: TrainingArguments) -> str:
    if arguments.device.type == "cuda":
        return f"{arguments.world_size} × {torch.cuda.get_device_name()}"
    return f"{arguments.world_size} × {arguments.device.type}, {torch.get_num_threads()} threads each"
