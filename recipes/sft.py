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

from functools import partial
from typing import TYPE_CHECKING, cast

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.data.conversations.layouts import InstructDataConfig
from jpllm.training.recipe_configs import RECIPES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from jpllm.data.conversations.rows import Row


def main() -> None:
    configuration = parse(RECIPES["sft"], prog="recipes/sft.py", description=__doc__)
    recipe, weights, data, training, sampling = configuration
    runtime.configure_logging()

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.conversations.blocks import PackedRows, RowsByLength
    from jpllm.models.build import describe
    from jpllm.models.quantising import plain_config
    from jpllm.models.resize import add_pad_row
    from jpllm.planning import of_run
    from jpllm.tokenizer.chat_template import set_template
    from jpllm.tokenizer.load import fingerprint, load, save
    from jpllm.tokenizer.special_tokens import ensure_pad_token
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
    set_template(tokenizer, recipe.template)
    if ensure_pad_token(tokenizer):
        adaptation.refuse_lost_pad_row(weights)
        add_pad_row(model, tokenizer)

    rows, held_out = conversations(data, tokenizer)
    texts, replay_blocks = instruct.plain_texts(data, tokenizer, tokenizer_path, training.seed)

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


def conversations(data: InstructDataConfig, tokenizer: PreTrainedTokenizerFast) -> tuple[list[Row], list[Row]]:
    """Return rows to train on and held-out ones; the first of the former is shown."""
    from jpllm.data.conversations.rows import held_out_and_rest, preview, read_rows
    from jpllm.tokenizer.chat_template import encode_conversation, special_token_in

    encode = partial(encode_conversation, tokenizer), partial(special_token_in, tokenizer)
    rows, lines = read_rows(data.sources, data, *encode)
    if data.eval_sources:
        held_out, more_lines = read_rows(data.eval_sources, data, *encode)
        lines += more_lines
    else:
        held_out, rows = held_out_and_rest(rows, data.held_out_rows)
    runtime.announce("\n".join(lines))
    # annotated as if the ids of one text could give several
    runtime.announce(preview(rows[0], lambda ids: cast("str", tokenizer.decode([*ids]))))
    return rows, held_out


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
