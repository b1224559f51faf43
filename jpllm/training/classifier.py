"""Training a classifier: its loss, its evaluation, and the frozen layers that are computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jpllm import runtime
from jpllm.data.blocks.blend import SourceUse
from jpllm.data.labels.encoding import AnyRow, EncodedSplits, LabelledDataset, batches_by_length, padded, sequences_of
from jpllm.data.read.jsonl import write_jsonl
from jpllm.evaluation.classification import ChoiceScore, ClassScore, RegressionScore, predict
from jpllm.models.classifier import num_trainable
from jpllm.models.trunk import KeptStates, Trunk
from jpllm.runtime import Diverged, InputError
from jpllm.training import classifier_report, engine, run, run_folder
from jpllm.training.arguments import num_steps
from jpllm.training.callbacks import RowClock
from jpllm.training.classifier_arguments import ClassifierTrainingConfig
from jpllm.training.optimizer import refuse_impossible
from jpllm.training.trainer import BaseTrainer, autocast

TRUNK_NAME = "trunk_output.npy"
logger = logging.getLogger(__name__)


class ClassifierTrainer(BaseTrainer):
    """Trainer on labelled rows that evaluates accuracy and macro-F1, or the correlations of predicted numbers.

    Of a question with choices all are in the same batch; their outputs together are the row's logits.
    With `frozen_layers` their output is kept for all rows that are trained or validated on, before the first step.
    """

    best_sign = 1
    loss_is_scaled_for_ga = False  # a mean over the micro-batch; all have equally many rows

    def __init__(
        self,
        *,
        splits: EncodedSplits,
        metric: str,
        pad_token_id: int,
        train_length: int | None,
        frozen_layers: Sequence[torch.nn.Module],
        **kwargs,
    ) -> None:
        super().__init__(held_out=splits.validation, data_collator=self._training_batch, **kwargs)
        self.best_figure, self.loss_unit = metric, "squared error" if splits.class_names is None else "nats per row"
        self.splits, self._pad, self._train_length = splits, pad_token_id, train_length
        self._kept: KeptStates | None = None
        self._latest: list[ClassScore | RegressionScore] = []
        self._reloaded: PreTrainedModel | None = None
        self._num_trainable = num_trainable(self.model)
        if frozen_layers:
            self._keep_trunk_output(frozen_layers)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy, or squared error, of the rows, from float32 outputs."""
        targets = inputs.pop("targets")
        outputs = model(**inputs)
        logits = outputs.logits.float().reshape(len(targets), -1)
        if self.splits.class_names is None:
            loss = torch.nn.functional.mse_loss(logits[:, 0], targets)
        else:
            loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=self._config.label_smoothing)
        return (loss, outputs) if return_outputs else loss

    def score(self, model: torch.nn.Module) -> list[ClassScore | RegressionScore]:
        """That of the validation rows, in the arithmetic that the training uses."""
        ranks = {"rank": self.args.process_index, "num_ranks": self.args.world_size}
        self._latest = [self._scored(model, self.eval_dataset, model is self.plain_model(), **ranks)]
        return self._latest

    def figures(self, scores: Sequence[ClassScore | RegressionScore]) -> dict[str, float]:
        """Loss, accuracy and (of classes) macro-F1, or loss and correlations."""
        return scores[0].figures

    def load_final(self, directory: Path) -> PreTrainedModel:
        """Read back what `save_final` wrote; the test rows are for this model."""
        self._reloaded = super().load_final(directory)
        return self._reloaded

    def closing_figures(self, final: dict[str, float]) -> dict:
        """Reports on the validation and the test rows, by the model that was read back; writes them down row by row."""
        named = {"validation": self.splits.validation, "test": self.splits.test}
        scores = {"validation": self._latest[0]}  # of the proof, by the same model
        if self.splits.test:
            scores["test"] = self._scored(self._reloaded, self.splits.test, False)
        self._reloaded = None
        first = next(row for row in self.state.log_history if "eval_loss" in row)
        names = self.splits.class_names
        rows = (row for name in scores for row in classifier_report.rows_of(name, named[name], scores[name], names))
        write_jsonl(rows, self._config.output_dir / classifier_report.PREDICTIONS_NAME)
        classifier_report.plot(self._config.output_dir, list(scores["validation"].figures)[1:])
        return {
            "num_trainable": self._num_trainable,
            "num_cut": self.splits.num_cut,
            "before": {name: first[f"eval_{name}"] for name in scores["validation"].figures},
            **{name: classifier_report.report(score, names) for name, score in scores.items()},
        }

    def closing_line(self, results: dict) -> str:
        """The result in some lines, with what chance gives, and which class is taken for which."""
        return classifier_report.closing_text(results)

    def _scored(
        self, model: torch.nn.Module, rows: Sequence[AnyRow], is_trained_model: bool, **ranks: int
    ) -> ClassScore | RegressionScore:
        outputs = predict(
            model,
            rows,
            partial(self._batch, keeps=is_trained_model),
            self.args.per_device_eval_batch_size,
            autocast=autocast(self.args),
            **ranks,
        )
        kind = ChoiceScore if self.splits.has_choices else ClassScore
        kind = RegressionScore if self.splits.class_names is None else kind
        return kind(outputs, [row.target for row in rows])

    def _training_batch(self, rows: Sequence[AnyRow]) -> dict[str, torch.Tensor]:
        kind = torch.float32 if self.splits.class_names is None else torch.int64
        targets = torch.tensor([row.target for row in rows], dtype=kind)
        return self._batch(rows, self._train_length, keeps=True) | {"targets": targets}

    def _batch(self, rows: Sequence[AnyRow], length: int | None = None, keeps: bool = False) -> dict[str, torch.Tensor]:
        """A padded batch; with what the frozen layers made of it, where that is kept and wanted."""
        batch = {name: torch.from_numpy(values) for name, values in padded(rows, self._pad, length).items()}
        if keeps and self._kept:
            numbers = [sequence.number for sequence in sequences_of(rows)]
            batch["trunk_output"] = self._kept.batch(numbers, batch["input_ids"].shape[1])
        return batch

    def _keep_trunk_output(self, layers: Sequence[torch.nn.Module]) -> None:
        """Compute the frozen layers once for each training and validation row; all processes share the work.

        The file has no name any more when training begins, so nothing of it stays on the disk, however that ends.
        """
        rows = sequences_of([*self.splits.train, *self.splits.validation])
        file = self._config.output_dir / TRUNK_NAME
        width = self.model.config.get_text_config().hidden_size
        open_kept = partial(KeptStates, file, [len(row) for row in rows], width)
        kept = open_kept() if self.is_world_process_zero() else None
        self.accelerator.wait_for_everyone()
        kept = kept or open_kept(is_writer=False)
        try:
            self._fill(kept, rows, Trunk(self.model, layers))
            self.accelerator.wait_for_everyone()
        finally:
            if self.is_world_process_zero():
                file.unlink()
        logger.info("kept the output of %d frozen layers, %.1f MB", len(layers), kept.num_bytes / 1e6)
        self._kept = kept

    def _fill(self, kept: KeptStates, rows: Sequence[AnyRow], trunk: Trunk) -> None:
        """Compute this process's part of the rows."""
        own = batches_by_length(rows, self.args.per_device_eval_batch_size)
        own = own[self.args.process_index :: self.args.world_size]
        self.model.eval()
        with (
            torch.no_grad(),
            autocast(self.args),
            runtime.progress_bar("frozen layers, computed once", "rows") as update,
        ):
            for done, indices in enumerate(own, start=1):
                batch = self._batch([rows[index] for index in indices])
                states = trunk.output({name: values.to(self.args.device) for name, values in batch.items()})
                for index, row_states in zip(indices, states, strict=True):
                    kept.put(rows[index].number, row_states)
                update(done, len(own), rows=len(indices))


def train_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tokenizer_fingerprint: str,
    splits: EncodedSplits,
    training: ClassifierTrainingConfig,
    configuration: Sequence[object],
    plan: run.Plan,
    *,
    metric: str,
    pads_to_longest: bool,
    frozen_layers: Sequence[torch.nn.Module],
) -> dict:
    """Train on the rows, evaluate before, after each epoch and at the end; returns what `results.json` holds.

    `frozen_layers` are those whose output is to be kept. `engine.prepare` comes
    before. A run that diverges leaves a file that says so, for `jpllm.training.jglue_finetuning`.

    Raises:
        InputError: fewer rows than one step takes, memory ran out, and see `jpllm.training.run.train_and_prove`.
        StoppedEarly: see there.
    """
    refuse_impossible(training, engine.requested().name)
    rows_per_step, num_rows = training.blocks_per_step(runtime.num_processes()), len(splits.train)
    if num_rows < rows_per_step:
        raise InputError(
            f"per_device_train_batch_size: a step takes {rows_per_step:,} rows, and there are {num_rows:,} to train "
            "on; lower it, or gradient_accumulation_steps"
        )
    max_steps = num_steps(training, rows_per_step, num_rows)
    dataset = LabelledDataset(splits.train, max_steps * rows_per_step, training.seed)
    tokens_per_epoch = sum(map(len, splits.train))
    clock = RowClock(
        tokens_per_step=round(tokens_per_epoch / num_rows * rows_per_step),
        tokens_per_epoch=tokens_per_epoch,
        rows_per_step=rows_per_step,
        rows_per_epoch=num_rows,
        tokens_until=dataset.tokens_until(rows_per_step),
    )
    runtime.announce(f"{training.epochs:g} epochs of {num_rows:,} rows in {max_steps:,} steps of {rows_per_step:,}")

    def make_trainer(*, args, **kwargs) -> ClassifierTrainer:
        args.eval_steps = training.eval_steps or -(-num_rows // rows_per_step)
        return ClassifierTrainer(
            args=args,
            model=model,
            config=training,
            train_dataset=dataset,
            splits=splits,
            metric=metric,
            pad_token_id=tokenizer.pad_token_id,
            train_length=max(map(len, sequences_of(splits.train))) if pads_to_longest else None,
            frozen_layers=frozen_layers,
            **kwargs,
        )

    num_tokens = clock.tokens(max_steps)
    uses = [SourceUse("training rows", 1.0, 1.0, num_tokens, num_tokens / tokens_per_epoch, 0)]
    diverged = training.output_dir / classifier_report.DIVERGED_NAME
    try:
        with plan.explained():
            results = run.train_model(
                make_trainer,
                configuration,
                run_folder.facts_of(splits.fingerprint, tokenizer_fingerprint, configuration),
                clock,
                max_steps,
                write_held_out=_writer_of(splits.validation),
                save_tokenizer=tokenizer.save_pretrained,
                write_plan=partial(plan.write, uses, num_tokens, max_steps),
            )
    except Diverged as error:
        if runtime.is_main_process():
            runtime.write_whole(diverged, f"{error}\n")
        raise
    if runtime.is_main_process():
        diverged.unlink(missing_ok=True)  # of an earlier try
    return results


def _writer_of(rows: Sequence[AnyRow]) -> Callable[[Path], None]:
    columns = [classifier_report.columns(row.row) for row in rows]
    return partial(write_jsonl, columns)
