"""Teach a model to answer: instruction tuning on the answers alone.

  one GPU            accelerate launch recipes/sft.py --config CONFIG.yaml --output_dir runs/NAME
  LoRA, 16 GB        accelerate launch recipes/sft.py --config recipes/configs/sft/lora_16gb.yaml
  all weights, 12 GB accelerate launch --config_file accelerate_configs/zero2_offload.yaml recipes/sft.py …
  two minutes, CPU   python recipes/sft.py --config recipes/configs/sft/smoke_cpu.yaml

Rows have `messages`, `conversations`, `instruction`/`input`/`output`, `prompt`/`target` or `question`/`answer`. Prompts
and padding are not learned; answers and the EOS behind them are. The template is saved with the tokenizer, so
`jpllm chat` and `apply_chat_template` ask as the training did. Before the first step one row is shown in colour.
"""

from __future__ import annotations

import copy
from functools import partial

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.training.recipe_configs import RECIPES


def main() -> None:
    configuration = parse(RECIPES["sft"], prog="recipes/sft.py", description=__doc__)
    recipe, weights, data, training, sampling = configuration
    runtime.configure_logging()

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.models.build import describe
    from jpllm.models.quantising import plain_config
    from jpllm.models.resize import add_pad_row, has_row
    from jpllm.planning import of_run
    from jpllm.tokenizer.chat_template import set_template
    from jpllm.tokenizer.load import fingerprint, load, save
    from jpllm.tokenizer.special_tokens import ensure_pad_token, record_ends
    from jpllm.training import adaptation, engine, instruct, run, run_folder
    from jpllm.training.instruct import InstructTrainer, Questions

    if run_folder.is_finished(training.output_dir, configuration):
        return
    engine.prepare()
    runtime.use_all_cores()
    tokenizer_path = recipe.tokenizer or recipe.model
    tokenizer = load(tokenizer_path)
    adaptation.refuse_impossible(weights, training, engine.requested().name)
    model, published = adaptation.load(recipe, tokenizer, data.sequence_length, weights, training.precision)
    if ensure_pad_token(tokenizer) or not has_row(model, tokenizer.pad_token_id):
        adaptation.refuse_lost_pad_row(weights)
        add_pad_row(model, tokenizer)
    document_tokenizer = copy.deepcopy(tokenizer)  # texts go on ending as before, whatever ends an answer
    set_template(tokenizer, recipe.template, recipe.eos_token)
    record_ends(model, tokenizer, document_tokenizer.eos_token_id)

    rows, held_out = instruct.conversations(data, tokenizer, recipe.learn)
    texts, replay_blocks = instruct.plain_texts(data, document_tokenizer, tokenizer_path, training.seed)

    instruct.prepare(model, data, training)
    adaptation.adapt(model, weights, training.seed)
    runtime.announce(describe(model))
    if data.batching == "packed":
        items = PackedRows(rows, data.sequence_length, tokenizer.eos_token_id, training.seed)
    else:
        items = RowsByLength(rows, training.blocks_per_step(runtime.num_processes()), training.seed)

    run_data = instruct.run_data(items, held_out, texts, replay_blocks, data, training)
    answered = held_out[: recipe.answered_rows]
    parts = weights.trained_parts(published.held, published.saved)
    run.train(
        partial(
            InstructTrainer,
            model=model,
            tokenizer=tokenizer,
            document_tokenizer=document_tokenizer,
            questions=Questions(
                *(recipe.sample_prompts, answered, sampling, training.seed, run_data.clock, training.output_dir)
            ),
            texts=texts,
            context_length=data.sequence_length,
            is_packed=data.batching == "packed",
            published=published,
        ),
        run_data,
        configuration,
        tokenizer_fingerprint=fingerprint(tokenizer),
        save_tokenizer=partial(save, tokenizer, tokenizer_path),
        plan=of_run.of_conversations(plain_config(model), data, training, items, parts, engine.requested()),
    )


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
