"""Hugging Face Trainer with an evaluation of our own, and checkpoints that can be trusted."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from jpllm import runtime, xla
from jpllm.models import adapters, quantising, weight_files
from jpllm.models.build import copy_weights, load_trained
from jpllm.models.dtypes import DtypeName, dtype_name
from jpllm.models.lora import has_lora
from jpllm.processes import END_SIGNALS
from jpllm.runtime import Diverged, InputError
from jpllm.training import checkpoint, engine
from jpllm.training import optimizer as optimizers
from jpllm.training.adaptation import Published
from jpllm.training.callbacks import GraphPerStep, QuietProgress
from jpllm.training.checkpoint import Checkpoint
from jpllm.training.config import TrainingConfig
from jpllm.training.early_stopping import EarlyStopping
from jpllm.training.engine import any_process
from jpllm.training.facts import Facts
from jpllm.training.run_data import Clock
from jpllm.training.run_folder import log_files

_BYTES_PER_PARAMETER = 12  # weights and AdamW's two moments in float32
logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Scores = TypeVar("Scores")  # what an objective makes of the held-out texts


class BaseTrainer(Trainer, Generic[Scores]):
    """Hugging Face Trainer as all objectives need it; they differ in how they score held-out texts, and by what.

    Its `args.output_dir` is where unfinished checkpoints are written; finished ones lie beside that folder.

    Attributes:
        config: the training keys of the recipe.
        facts: what decides the losses, written into every checkpoint.
        best_figure: of the figures of an evaluation the one by which models are compared.
        best_sign: −1 where the lowest figure is the best, 1 where the highest is.
        loss_unit: what a loss is measured in.
        num_parameters: of the model in training, frozen ones and LoRA's among them.
        published: the model that the run began with, where LoRA is trained beside it.
        clock: says which position of the data a checkpoint is at.
        best: the callback that keeps the best model; None without early stopping.
    """

    # Trainer annotates them for all that it can be given, and DeepSpeed's engine not at all.
    model: PreTrainedModel
    eval_dataset: Sequence
    deepspeed: Any

    best_figure = "loss"
    best_sign = -1
    loss_unit = "nats per token"

    def __init__(
        self,
        *,
        config: TrainingConfig,
        facts: Facts,
        held_out: Sequence,
        embedding_warmup_steps: int = 0,
        published: Published | None = None,
        **kwargs,
    ) -> None:
        super().__init__(
            eval_dataset=held_out,  # ty: ignore[invalid-argument-type]  # only methods replaced here read it
            **kwargs,
        )
        self.num_parameters = sum(map(quantising.num_elements, self.model.parameters()))
        self.published = published
        self.config, self.facts, self._embedding_warmup_steps = config, facts, embedding_warmup_steps
        self.clock: Clock | None = None
        self.best: EarlyStopping | None = None
        if embedding_warmup_steps >= self.args.max_steps > 0:
            logger.warning(
                "embedding_warmup_steps: %d are all of the run's %d steps: nothing but the token embeddings will learn",
                *(embedding_warmup_steps, self.args.max_steps),
            )
        engine.keep_sums_in_float32(self.accelerator)
        if xla.is_launched():
            self.add_callback(GraphPerStep())
            if config.activation_checkpointing:
                xla.checkpoint_activations(self.plain_model())
        self.remove_callback(PrinterCallback)
        self.callback_handler.callbacks = [
            QuietProgress() if isinstance(callback, ProgressCallback) else callback
            for callback in self.callback_handler.callbacks
        ]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Build the optimizer of the settings, with the token embeddings apart where they learn first."""
        build = optimizers.OPTIMIZERS[self.config.optimizer].build
        if self.optimizer is None and build:
            self.optimizer = build(self.model, self.config, self.get_decay_parameter_names(self.model))
        if self.optimizer is None and self._embedding_warmup_steps:
            usual = super().create_optimizer(model)
            usual.param_groups = optimizers.embeddings_apart(self.model, usual.param_groups)
        optimizer = super().create_optimizer(model)
        if xla.is_launched():
            optimizers.keep_steps_on_host(optimizer)
        self._group_settings = optimizers.group_settings(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Return Trainer's schedule; in the embedding warm-up everything but the token embeddings waits."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self._embedding_warmup_steps:
            steps = self._embedding_warmup_steps
            self.lr_scheduler = optimizers.delayed_for_the_rest(scheduler, steps)
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Return Trainer's loader; what stops a run is for this process alone, not for those that read ahead."""
        loader = super().get_train_dataloader()
        plain = getattr(loader, "base_dataloader", loader)  # accelerate (1.15) puts one around it
        plain.worker_init_fn = partial(_leave_signals_to_training, plain.worker_init_fn)
        return loader

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the held-out texts; logs and returns their figures."""
        model = self.plain_model()
        scores = self.score(model)
        figures = self.figures(scores) | self.more_figures(model, scores)
        row = {f"{metric_key_prefix}_{name}": figure for name, figure in figures.items()}
        self.log(dict(row))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, row)
        return row

    def compute_loss_context_manager(self) -> ExitStack:
        """Return the mixed-precision context of the forward pass, where accelerate does not see to it."""
        if not xla.is_launched():
            return super().compute_loss_context_manager()
        stack = ExitStack()
        stack.enter_context(autocast(self.args))
        return stack

    def plain_model(self) -> PreTrainedModel:
        """Return the model without the wrappers of compilation and data parallelism."""
        return cast(PreTrainedModel, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    @abstractmethod
    def score(self, model: PreTrainedModel) -> Scores:
        """Return the scores of `model` on each of the held-out texts, in the arithmetic that the training uses."""

    @abstractmethod
    def figures(self, scores: Scores) -> dict[str, float]:
        """Return `loss`, `best_figure` and what else is logged of an evaluation."""

    def more_figures(self, model: PreTrainedModel, scores: Scores) -> dict[str, float]:
        """Return what else is logged of an evaluation, and is not needed to prove the saved model."""
        return {}

    @abstractmethod
    def closing_figures(self, final: dict[str, float]) -> dict:
        """Return what the results say beside the loss, of the evaluation that counts."""

    @abstractmethod
    def closing_line(self, results: dict) -> str:
        """Return the result of the run in words."""

    def groups(self, scores: Sequence[Item]) -> dict[str, list[Item]]:
        """Return the scores of the held-out texts of each group."""
        pairs = list(zip(scores, self.eval_dataset, strict=True))
        names = dict.fromkeys(text.group for text in self.eval_dataset if text.group)
        return {name: [score for score, text in pairs if text.group == name] for name in names}

    def save_final(self, directory: Path) -> None:
        """Write the trained model as `from_pretrained` reads it, or what LoRA learned; called in every process."""
        if self.published is None or not has_lora(self.plain_model()):
            self.save_model(str(directory))
        elif runtime.is_main_process():
            self.published.save(self.plain_model(), directory)

    def load_final(self, directory: Path) -> PreTrainedModel:
        """Read back what `save_final` wrote."""
        model = self.plain_model()
        if self.published is not None and has_lora(model):
            return self.published.load(directory, type(model))
        return load_trained(directory, type(model), dtype=cast("DtypeName", dtype_name(model.dtype)))

    def save_best(self, directory: Path) -> None:
        """Write what `load_best` needs; called in every process. Of a run with LoRA that is only what it learned."""
        if not has_lora(self.plain_model()):
            self.save_final(directory)
        elif runtime.is_main_process():
            adapters.save(self.plain_model(), directory)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model as `from_pretrained` reads it; one on an XLA device from a copy in host memory.

        Trainer would move such a model itself, and its optimizer would be left with parameters that are no more its.
        """
        if not xla.is_launched():
            super().save_model(output_dir, _internal_call)
            return
        if self.args.should_save:
            self._save(output_dir, state_dict=xla.state_on_host(self.plain_model()))
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the model, or of one with LoRA what learns: transformers would leave out embeddings that learn."""
        if has_lora(self.plain_model()) and output_dir is not None:
            adapters.save(self.plain_model(), Path(output_dir), state_dict)
        else:
            super()._save(output_dir, state_dict=state_dict)

    @property
    def partial_dir(self) -> Path:
        """Folder where checkpoints are written."""
        return Path(str(self.args.output_dir))  # TrainingArguments fills it in where it is None

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the finished checkpoints."""
        return self.partial_dir.parent

    def go_on_from(self, start: Checkpoint) -> None:
        """Have the next `train` log nothing twice when it resumes from this checkpoint, and leave no loss out."""
        self.args.eval_on_start = False  # the rows of that step are in the metrics already
        self.add_callback(_GoingOn(self, start.directory))

    def use_own_settings(self) -> None:
        """Have the optimizer train with the settings of the configuration, and not with those of the checkpoint."""
        optimizer, scheduler = cast("torch.optim.Optimizer", self.optimizer), cast("Any", self.lr_scheduler)
        optimizers.set_groups(optimizer, scheduler, self._group_settings)
        self.state.compute_steps(self.args, self.state.max_steps)

    def refuse_other_weights(self, start: Checkpoint) -> None:
        """Raise InputError for a checkpoint of a model with another number of parameters."""
        file = start.directory / "model.safetensors"
        if not file.exists() or "FSDP" in self.facts.engine:  # LoRA's matrices, or more files than one
            return
        num_saved = weight_files.num_elements(file)
        named = dict(self.model.named_parameters(remove_duplicate=False))
        num_named = sum(parameter.numel() for parameter in named.values())  # DeepSpeed saves tied weights twice
        buffers = sum(tensor.numel() for name, tensor in self.model.state_dict().items() if name not in named)
        if num_saved not in {count + more for count in (self.num_parameters, num_named) for more in (0, buffers)}:
            raise InputError(
                f"{start.directory}: its model has {num_saved:,} parameters, and the one to train has "
                f"{self.num_parameters:,}: another model or vocabulary cannot go on from it; set it back, or name a "
                "new output_dir"
            )

    def _save_checkpoint(self, model, trial) -> None:
        """Write a checkpoint, if the model is worth one and the disk has room for it."""
        self._refuse_not_finite()
        name = f"checkpoint-{self.state.global_step}"
        partial = self.partial_dir / name
        self.checkpoints_dir.mkdir(parents=True, exist_ok=True)
        if any_process(not self._has_room(), self.args):
            return
        if self._has_failed(partial, lambda: self._write_partial(partial, model, trial)):
            return
        if self._has_failed(partial, lambda: self.args.should_save and self._finish_checkpoint(partial)):
            return
        self.accelerator.wait_for_everyone()

    def _write_partial(self, partial: Path, model, trial) -> None:
        """Write the files of a checkpoint; called in every process."""
        super()._save_checkpoint(model, trial)
        since_log = {"loss_sum": self._tr_loss.item(), "logged_step": self._globalstep_last_logged}
        _since_log_file(partial, self.args.process_index).write_text(json.dumps(since_log), encoding="utf-8")

    def _finish_checkpoint(self, partial: Path) -> None:
        """Make the files a checkpoint, and delete what it makes superfluous."""
        (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle with tokens and paths of this machine
        step = self.state.global_step
        more = {"position": self.clock and self.clock.position(step), "best": self.best and self.best.record()}
        logs = log_files(self.checkpoints_dir.parent)
        checkpoint.finish(partial, self.checkpoints_dir / partial.name, step, self.facts, logs, **more)
        checkpoint.rotate(self.checkpoints_dir, self.config.save_total_limit)
        if self.best:
            self.best.prune()

    def _has_failed(self, partial: Path, write: Callable[[], object]) -> bool:
        """Call `write`, and return whether some process found the disk full; then nothing is left of the checkpoint.

        Below DeepSpeed and FSDP processes wait for each other while they write, so that the one that failed has to end.
        """
        problem = None
        try:
            write()
        except Exception as error:
            problem = runtime.full_disk(error)
            if problem is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
                raise
        if not any_process(problem is not None, self.args):
            return False
        logger.warning(
            "step %d: no checkpoint written: %s; make room, training goes on",
            *(self.state.global_step, problem or "another process could not write"),
        )
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            shutil.rmtree(partial, ignore_errors=True)
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Load all weights of a checkpoint: Trainer's own loading passes over names that it does not know."""
        if has_lora(self.model):
            adapters.restore(resume_from_checkpoint, self.model)
        elif self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            copy_weights(resume_from_checkpoint, self.model)

    def _refuse_not_finite(self) -> None:
        own = [_own_share(weight.detach()) for weight in self.model.parameters() if weight.requires_grad]
        are_finite = torch.stack([tensor.isfinite().all() for tensor in (self._tr_loss, *own)])  # one value for XLA
        if any_process(not bool(are_finite.all()), self.args):
            raise Diverged(
                f"step {self.state.global_step}: the loss or a weight is not finite, and no checkpoint was written of "
                f"it; {last_good(self.checkpoints_dir)}; lower learning_rate (it is {self._get_learning_rate():.2e}), "
                "lengthen warmup_steps, or use precision: fp32 (bf16 where the GPU has it)"
            )

    def _has_room(self) -> bool:
        if not self.args.should_save:
            return True
        latest = checkpoint.size_bytes(self.checkpoints_dir)
        learning = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        needed = latest or _BYTES_PER_PARAMETER * (learning if self.published else self.model.num_parameters())
        free = shutil.disk_usage(self.checkpoints_dir).free
        if free < needed:
            logger.warning(
                "step %d: no checkpoint written: it needs %.1f GB, %s has %.1f GB free; training goes on",
                *(self.state.global_step, needed / 1e9, self.checkpoints_dir, free / 1e9),
            )
        return free >= needed


class _GoingOn(TrainerCallback):
    """Puts back what Trainer leaves out when it goes on from a checkpoint, and takes out what it should not put back.

    Left out are the losses that were added up since the last logged row; put back are settings, also where the
    configuration has others by now.
    """

    def __init__(self, trainer: BaseTrainer, directory: Path) -> None:
        self._trainer, self._directory = trainer, directory

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        engine.repeat_adam_decays(self._trainer)
        self._trainer.use_own_settings()
        file = _since_log_file(self._directory, args.process_index)
        if file.exists():  # not for a process that was not there
            saved = json.loads(file.read_text(encoding="utf-8"))
            self._trainer._tr_loss += saved["loss_sum"]
            self._trainer._globalstep_last_logged = saved["logged_step"]


def _leave_signals_to_training(initialise: Callable[[int], None] | None, number: int) -> None:
    """Make ready a process that reads ahead: a terminal and a launcher send their signals to it too."""
    for one in (signal.SIGINT, *END_SIGNALS):
        signal.signal(one, signal.SIG_IGN)
    if initialise:
        initialise(number)


def autocast(arguments: TrainingArguments) -> AbstractContextManager:
    """Return the mixed-precision context of these arguments."""
    if not (arguments.bf16 or arguments.fp16):
        return nullcontext()
    return torch.autocast(arguments.device.type, torch.bfloat16 if arguments.bf16 else torch.float16)


def last_good(checkpoints_dir: Path) -> str:
    """Say where the newest checkpoint is, as part of a message."""
    found = checkpoint.newest_directory(checkpoints_dir)
    return f"the last good checkpoint is {found}" if found else "there is no checkpoint yet"


def _own_share(weight: Any) -> torch.Tensor:
    """Return what this process has of a weight: FSDP2 cuts them up."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def _since_log_file(directory: Path, process_index: int) -> Path:
    return directory / f"since_log_{process_index}.json"
