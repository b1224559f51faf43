"""Make a classifier of a language model or an encoder: texts or pairs of texts, into classes or a number, or choices.

  one GPU or CPU     accelerate launch recipes/classify.py --config recipes/configs/classify/sms_spam.yaml --model MODEL
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/classify.py …
  a minute, CPU      python recipes/classify.py --config recipes/configs/classify/smoke_cpu.yaml

Rows are those of a .csv, .tsv, .jsonl or .parquet file; validation and test rows have files of their own or are taken
from it. By default a language model learns with its last layer and a new head: what the layers before make of each row
is computed once and kept, so that further epochs cost little. The run folder gets config.yaml, metrics.jsonl,
held_out.jsonl (the validation rows), predictions.jsonl, loss.png, scores.png, results.json and model/, which loads in
`pipeline("text-classification")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.config.parse import ConfigError, parse
from jpllm.data.labels.rows import LabelledDataConfig
from jpllm.runtime import InputError
from jpllm.training.classifier_arguments import ClassifierTrainingConfig
from jpllm.training.recipe_configs import RECIPES, ClassifierConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

METRICS = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("pearson", "spearman"),
    "multiple_choice": ("accuracy",),
}


def main() -> None:
    configuration = parse(RECIPES["classify"], prog="recipes/classify.py", description=__doc__)
    recipe, data, training = configuration
    runtime.configure_logging()
    refuse_what_cannot_act(recipe, data, training)

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.labels.encoding import encode_splits
    from jpllm.data.labels.splits import read_splits, summary
    from jpllm.models.build import describe
    from jpllm.models.classifier import build_classifier, choose_trainable, sees_ahead, trainable_line
    from jpllm.models.resize import add_pad_row
    from jpllm.planning import of_run
    from jpllm.tokenizer.load import fingerprint, load
    from jpllm.tokenizer.special_tokens import ensure_pad_token, mark_boundaries
    from jpllm.training import engine, run_folder
    from jpllm.training.classifier import train_classifier

    if run_folder.is_finished(training.output_dir, configuration):
        return
    engine.prepare()
    runtime.use_all_cores()
    splits = read_splits(data)
    runtime.announce(summary(splits))
    tokenizer = load(recipe.tokenizer or recipe.model, needs_eos=False)
    model = build_classifier(recipe.model, splits.output_names, training.seed)
    if ensure_pad_token(tokenizer):
        add_pad_row(model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    is_encoder = sees_ahead(model)
    mark_boundaries(tokenizer, at_beginning=is_encoder)
    rows = encode_splits(splits, tokenizer, row_length(recipe, model, tokenizer))
    tokenizer.model_max_length, tokenizer.padding_side = rows.max_tokens, "right"
    for name, num_cut in rows.num_cut.items():
        if num_cut:
            runtime.announce(f"{name}: {num_cut:,} rows were cut to {rows.max_tokens:,} tokens")

    trainable = recipe.trainable or ("all" if is_encoder else "last_block")
    frozen_layers = choose_trainable(model, trainable)
    runtime.announce(f"{describe(model)}\n{trainable}: {trainable_line(model)}")
    kept = layers_to_keep(recipe, frozen_layers, engine.requested().name)
    train_classifier(
        model,
        tokenizer,
        fingerprint(tokenizer),
        rows,
        training,
        configuration,
        of_run.of_labelled_rows(
            model.config, data, training, rows, rows.max_tokens, trainable, bool(kept), engine.requested()
        ),
        metric=recipe.metric or METRICS[data.task][0],
        pads_to_longest=recipe.padding == "longest_train_row",
        frozen_layers=kept,
    )


def refuse_what_cannot_act(
    recipe: ClassifierConfig, data: LabelledDataConfig, training: ClassifierTrainingConfig
) -> None:
    """Raise ConfigError for settings that contradict the task, or that it would pass over."""
    problems = []
    if recipe.metric and recipe.metric not in METRICS[data.task]:
        problems.append(f"metric: {data.task} has {' and '.join(METRICS[data.task])}, not {recipe.metric}")
    if recipe.metric and not training.early_stopping_evals:
        problems.append("metric: acts with early_stopping_evals only; give that, or remove it")
    if training.label_smoothing and data.task == "regression":
        problems.append("label_smoothing: acts on classes only; remove it")
    if recipe.keep_trunk_output and recipe.trainable == "all":
        problems.append("keep_trunk_output: nothing is frozen with trainable: all; remove it")
    if problems:
        raise ConfigError(problems)


def row_length(recipe: ClassifierConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of a row at most. Raises InputError if more are asked for than the model has positions."""
    from jpllm.models.build import context_length

    most = min(context_length(model), tokenizer.model_max_length)
    if recipe.max_row_tokens and recipe.max_row_tokens > most:
        raise InputError(
            f"max_row_tokens: {recipe.max_row_tokens:,} are more than the {most:,} that the model can read"
        )
    return recipe.max_row_tokens or most


def layers_to_keep(
    recipe: ClassifierConfig, frozen_layers: list[torch.nn.Module], engine_name: str
) -> list[torch.nn.Module]:
    """The frozen layers whose output is kept. Raises InputError where it is asked for and cannot be."""
    can_keep = bool(frozen_layers) and engine_name in ("", "DDP")
    if recipe.keep_trunk_output and not can_keep:
        reason = f"{engine_name} cuts the layers up" if frozen_layers else "no layer is frozen"
        raise InputError(f"keep_trunk_output: {reason}; remove it")
    return frozen_layers if can_keep and recipe.keep_trunk_output is not False else []


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
