"""Training a classifier: its steps, its trainer, the frozen layers that are computed once, and its report."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from jpllm import runtime, whole_files
from jpllm.data.labels.encoding import (
    AnyRow,
    EncodedRow,
    EncodedSplits,
    LabelledDataset,
    batches_by_length,
    padded,
    sequences_of,
)
from jpllm.data.labels.rows import LabelledRow
from jpllm.data.read.jsonl import write_jsonl
from jpllm.evaluation.classification import ChoiceScore, ClassScore, RegressionScore, predict, probabilities
from jpllm.models.build import context_length
from jpllm.models.classifier import num_trainable
from jpllm.models.trunk import KeptStates, Trunk, gives_hidden_states
from jpllm.runtime import Diverged, InputError
from jpllm.tracking import plot
from jpllm.tracking.metrics import METRICS_NAME, read_rows
from jpllm.training.arguments import num_steps
from jpllm.training.config import ClassifierTrainingConfig
from jpllm.training.run_data import RowClock, RunData
from jpllm.training.run_folder import DIVERGED_NAME, PREDICTIONS_NAME, TRUNK_NAME
from jpllm.training.trainer import BaseTrainer, autocast

PLOT_NAME = "scores.png"
logger = logging.getLogger(__name__)


def run_data(splits: EncodedSplits, training: ClassifierTrainingConfig) -> RunData:
    """Cut labelled rows into steps, and say how many these are; raise InputError for fewer rows than one step takes."""
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
    return RunData(
        train_dataset=dataset,
        held_out=splits.validation,
        fingerprint=splits.fingerprint,
        clock=clock,
        max_steps=max_steps,
        write_held_out=partial(write_jsonl, [_columns(row.row) for row in splits.validation]),
    )


def row_length(wanted: int | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the most tokens of a row. Raises InputError if more are wanted than the model has positions."""
    most = min(context_length(model), tokenizer.model_max_length)
    if wanted and wanted > most:
        raise InputError(f"max_row_tokens: {wanted:,} are more than the {most:,} that the model can read")
    return wanted or most


def layers_to_keep(
    model: PreTrainedModel, frozen_layers: list[torch.nn.Module], keep_trunk_output: bool | None, engine_name: str
) -> list[torch.nn.Module]:
    """Return the frozen layers whose output is kept. Raises InputError where it is asked for and cannot be."""
    can_keep = bool(frozen_layers) and engine_name in ("", "DDP")
    if keep_trunk_output and not can_keep:
        reason = f"{engine_name} cuts the layers up" if frozen_layers else "no layer is frozen"
        raise InputError(f"keep_trunk_output: {reason}; remove it")
    if not can_keep or keep_trunk_output is False:
        return []
    if gives_hidden_states(model, frozen_layers[-1]):
        return frozen_layers
    reason = f"keep_trunk_output: the layers of {type(model).__name__} return more than hidden states"
    if keep_trunk_output:
        raise InputError(f"{reason}; remove it, or write false")
    logger.warning("%s, so they are computed in every epoch", reason)
    return []


@contextmanager
def divergence_noted(output_dir: Path) -> Generator[None]:
    """Leave a file in the run folder if the body diverges, for who trains many; remove it when the body ends well."""
    file = output_dir / DIVERGED_NAME
    try:
        yield
    except Diverged as error:
        if runtime.is_main_process():
            whole_files.write_whole(file, f"{error}\n")
        raise
    if runtime.is_main_process():
        file.unlink(missing_ok=True)  # of an earlier try


class ClassifierTrainer(BaseTrainer[list[ClassScore | RegressionScore]]):
    """Trainer on labelled rows that evaluates accuracy and macro-F1, or the correlations of predicted numbers.

    Of a question with choices all are in the same batch; their outputs together are the row's logits.
    With `frozen_layers` their output is kept for all rows that are trained or validated on, before the first step.
    """

    eval_dataset: Sequence[AnyRow]
    best_sign = 1
    loss_is_scaled_for_ga = False  # a mean over the micro-batch; all have equally many rows

    def __init__(
        self,
        *,
        splits: EncodedSplits,
        metric: str,
        pad_token_id: int,
        pads_to_longest: bool,
        frozen_layers: Sequence[torch.nn.Module],
        **kwargs,
    ) -> None:
        super().__init__(data_collator=self._training_batch, **kwargs)
        self.best_figure, self.loss_unit = metric, "squared error" if splits.class_names is None else "nats per row"
        self.splits, self._pad = splits, pad_token_id
        self._train_length = max(map(len, sequences_of(splits.train))) if pads_to_longest else None
        self._kept: KeptStates | None = None
        self._latest: list[ClassScore | RegressionScore] = []
        self._reloaded: list[PreTrainedModel] = []  # the one of `load_final`, until it has seen the test rows
        self._num_trainable = num_trainable(self.model)
        if frozen_layers:
            self._keep_trunk_output(frozen_layers)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the mean cross-entropy, or squared error, of the rows, from float32 outputs."""
        targets = inputs.pop("targets")
        outputs = model(**inputs)
        logits = outputs.logits.float().reshape(len(targets), -1)
        if self.splits.class_names is None:
            loss = torch.nn.functional.mse_loss(logits[:, 0], targets)
        else:
            loss = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        return (loss, outputs) if return_outputs else loss

    def score(self, model: PreTrainedModel) -> list[ClassScore | RegressionScore]:
        """Return the score of the validation rows, in the arithmetic that the training uses."""
        ranks = {"rank": self.args.process_index, "num_ranks": self.args.world_size}
        self._latest = [self._scored(model, self.eval_dataset, model is self.plain_model(), **ranks)]
        return self._latest

    def figures(self, scores: list[ClassScore | RegressionScore]) -> dict[str, float]:
        """Return loss, accuracy and (of classes) macro-F1, or loss and correlations."""
        return scores[0].figures

    def load_final(self, directory: Path) -> PreTrainedModel:
        """Read back the saved model, which the test rows are for."""
        self._reloaded = [super().load_final(directory)]
        return self._reloaded[0]

    def closing_figures(self, final: dict[str, float]) -> dict:
        """Return reports on validation and test rows by the model that was read back; write predictions and a plot."""
        named = {"validation": self.splits.validation, "test": self.splits.test}
        scores = {"validation": self._latest[0]}  # of the proof, by the same model
        if self.splits.test:
            scores["test"] = self._scored(self._reloaded[0], self.splits.test, False)
        self._reloaded.clear()
        first = next(row for row in self.state.log_history if "eval_loss" in row)
        names = self.splits.class_names
        rows = (row for name in scores for row in prediction_rows(name, named[name], scores[name], names))
        write_jsonl(rows, self.config.output_dir / PREDICTIONS_NAME)
        _plot(self.config.output_dir, list(scores["validation"].figures)[1:])
        return {
            "num_trainable": self._num_trainable,
            "num_cut": self.splits.num_cut,
            "before": {name: first[f"eval_{name}"] for name in scores["validation"].figures},
            **{name: _report(score, names) for name, score in scores.items()},
        }

    def closing_line(self, results: dict) -> str:
        """Return the result in some lines, with what chance gives, and which class is taken for which."""
        return closing_text(results)

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
        if self.splits.class_names is None:
            return RegressionScore(outputs, [row.target for row in rows])
        kind = ChoiceScore if self.splits.has_choices else ClassScore
        return kind(outputs, [int(row.target) for row in rows])

    def _training_batch(self, rows: Sequence[AnyRow]) -> dict[str, torch.Tensor]:
        kind = torch.float32 if self.splits.class_names is None else torch.int64
        targets = torch.tensor([row.target for row in rows], dtype=kind)
        return self._batch(rows, self._train_length, keeps=True) | {"targets": targets}

    def _batch(self, rows: Sequence[AnyRow], length: int | None = None, keeps: bool = False) -> dict[str, torch.Tensor]:
        """Return a padded batch; with what the frozen layers made of it, where that is kept and wanted."""
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
        file = self.config.output_dir / TRUNK_NAME
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

    def _fill(self, kept: KeptStates, rows: Sequence[EncodedRow], trunk: Trunk) -> None:
        """Compute the output of the frozen layers for this process's part of the rows."""
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


def _report(score: ClassScore | RegressionScore, class_names: Sequence[str] | None) -> dict:
    """Return all figures of a split."""
    return score.report() if isinstance(score, RegressionScore) else score.report(class_names or ())


def _columns(row: LabelledRow) -> dict[str, object]:
    """Return a labelled row as a file has it."""
    pair = {} if row.pair is None else {"text_pair": row.pair}
    choices = {"choices": list(row.choices)} if row.choices else {}
    return {"text": row.text, **pair, **choices, "label": row.label}


def prediction_rows(
    split: str, rows: Sequence[AnyRow], score: ClassScore | RegressionScore, class_names: Sequence[str] | None
) -> Iterator[dict]:
    """Yield a row for each row of a split: what it is, what was predicted, and how sure the model is."""
    if class_names is None:
        predicted = [{"predicted": float(output)} for output in score.outputs[:, 0]]
    else:
        labels = range(len(class_names)) if rows[0].row.choices else class_names
        predicted = [
            {
                "predicted": labels[own.argmax()],
                "probabilities": dict(zip(class_names, own.round(6).tolist(), strict=True)),
            }
            for own in probabilities(score.outputs)
        ]
    for row, found in zip(rows, predicted, strict=True):
        yield {"split": split, "place": row.row.place, **_columns(row.row), **found}


def _plot(output_dir: Path, names: Sequence[str]) -> None:
    """Draw named figures of the evaluations over the epochs."""
    plot.plot_figures(read_rows(output_dir / METRICS_NAME), names, output_dir / PLOT_NAME, output_dir.name)


def closing_text(results: dict) -> str:
    """Return the figures of both splits beside those before the training; for classes a table of the confusions."""
    lines = []
    for split in ("validation", "test"):
        if found := results.get(split):
            before = results["before"] if split == "validation" else None
            lines.append(f"{split}: " + (_classes if "accuracy" in found else _numbers)(found, before))
    found = results.get("test") or results["validation"]
    if "confusion" in found:
        lines += _table(found["confusion"])
    return "\n".join(lines)


def _classes(found: dict, before: dict | None) -> str:
    is_of_choices = "macro_f1" not in found
    macro_f1 = "" if is_of_choices else f", macro-F1 {found['macro_f1']:.4f}"
    most_frequent = "choosing always the same place" if is_of_choices else "the most frequent class"
    error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.2%}"
    notes = ["95 % interval {:.2%} to {:.2%}".format(*found["interval"])] if not error else []
    notes += [f"{before['accuracy']:.2%} before"] if before else []
    in_brackets = f" ({'; '.join(notes)})" if notes else ""
    return (
        f"accuracy {found['accuracy']:.2%}{error}{in_brackets}{macro_f1}; "
        f"{found['num_rows']:,} rows, chance {found['chance']:.2%}, {most_frequent} {found['majority']:.2%}"
    )


def _numbers(found: dict, before: dict | None) -> str:
    earlier = f" ({before['pearson']:.4f} / {before['spearman']:.4f} before)" if before else ""
    return (
        f"Pearson {found['pearson']:.4f} / Spearman {found['spearman']:.4f}{earlier}, squared error "
        f"{found['loss']:.4f}; {found['num_rows']:,} rows, squared error of the mean label {found['mean_loss']:.4f}"
    )


def _table(confusion: dict[str, dict[str, int]]) -> list[str]:
    width = max(8, *map(len, confusion))
    corner = "true ↓ predicted →"
    lines = ["  ".join([f"{corner:<{max(width, len(corner))}}", *(f"{name:>{width}}" for name in confusion)])]
    for name, counts in confusion.items():
        cells = (f"{count:>{width},}" for count in counts.values())
        lines.append("  ".join([f"{name:<{max(width, len(corner))}}", *cells]))
    return lines
