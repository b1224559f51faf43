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

from functools import partial

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.training.recipe_configs import CLASSIFIER_METRICS, RECIPES


def main() -> None:
    configuration = parse(RECIPES["classify"], prog="recipes/classify.py", description=__doc__)
    recipe, data, training = configuration
    runtime.configure_logging()
    recipe.refuse_what_cannot_act(data, training)

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.labels.encoding import encode_splits
    from jpllm.data.labels.splits import read_splits, summary
    from jpllm.models.build import describe, refuse_foreign_tokenizer
    from jpllm.models.classifier import build_classifier, choose_trainable, sees_ahead, trainable_line
    from jpllm.models.resize import add_pad_row, has_row
    from jpllm.planning import of_run
    from jpllm.tokenizer.load import fingerprint, load
    from jpllm.tokenizer.special_tokens import ensure_pad_token, mark_boundaries
    from jpllm.training import classifier, engine, run, run_folder
    from jpllm.training.classifier import ClassifierTrainer
    from jpllm.training.optimizer import refuse_impossible

    if run_folder.is_finished(training.output_dir, configuration):
        return
    engine.prepare()
    runtime.use_all_cores()
    splits = read_splits(data)
    runtime.announce(summary(splits))
    tokenizer = load(recipe.tokenizer or recipe.model, needs_eos=False)
    model = build_classifier(recipe.model, splits.output_names, training.seed)
    refuse_foreign_tokenizer(recipe.model, model, tokenizer)
    if ensure_pad_token(tokenizer) or not has_row(model, tokenizer.pad_token_id):
        add_pad_row(model, tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    is_encoder = sees_ahead(model)
    mark_boundaries(tokenizer, at_beginning=is_encoder)
    rows = encode_splits(splits, tokenizer, classifier.row_length(recipe.max_row_tokens, model, tokenizer))
    tokenizer.model_max_length, tokenizer.padding_side = rows.max_tokens, "right"
    for name, num_cut in rows.num_cut.items():
        if num_cut:
            runtime.announce(f"{name}: {num_cut:,} rows were cut to {rows.max_tokens:,} tokens")

    trainable = recipe.trainable or ("all" if is_encoder else "last_block")
    frozen_layers = choose_trainable(model, trainable)
    runtime.announce(f"{describe(model)}\n{trainable}: {trainable_line(model)}")
    kept_layers = classifier.layers_to_keep(model, frozen_layers, recipe.keep_trunk_output, engine.requested().name)

    refuse_impossible(training, engine.requested().name)
    run_data = classifier.run_data(rows, training)
    plan = of_run.of_labelled_rows(
        *(model.config, data, training, rows, rows.max_tokens, trainable, bool(kept_layers), engine.requested())
    )
    with classifier.divergence_noted(training.output_dir):
        run.train(
            partial(
                ClassifierTrainer,
                model=model,
                splits=rows,
                metric=recipe.metric or CLASSIFIER_METRICS[data.task][0],
                pad_token_id=tokenizer.pad_token_id,
                pads_to_longest=recipe.padding == "longest_train_row",
                frozen_layers=kept_layers,
            ),
            run_data,
            configuration,
            tokenizer_fingerprint=fingerprint(tokenizer),
            save_tokenizer=tokenizer.save_pretrained,
            plan=plan,
        )


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
