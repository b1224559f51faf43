"""Train a new language model from random weights on raw text.

  one GPU or CPU     accelerate launch recipes/pretrain_scratch.py --config CONFIG.yaml --output_dir runs/NAME
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/pretrain_scratch.py …
  two minutes, CPU   python recipes/pretrain_scratch.py --config recipes/configs/pretrain_scratch/smoke_cpu.yaml
  an encoder         python recipes/pretrain_scratch.py --config recipes/configs/pretrain_scratch/mlm_smoke_cpu.yaml

With `objective: clm` it learns to predict the next token, and so to write; with `objective: mlm` and a bert preset to
fill in hidden words (`jpllm/data/blocks/masking.py`), as a base for classifiers. The tokenizer comes from `jpllm
tokenizer train`, or is any Hugging Face tokenizer with an EOS token. The run folder gets config.yaml, metrics.jsonl,
samples.jsonl, held_out.jsonl, loss.png, results.json and model/.
"""

from __future__ import annotations

from functools import partial

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.training.recipe_configs import RECIPES


def main() -> None:
    configuration = parse(RECIPES["pretrain_scratch"], prog="recipes/pretrain_scratch.py", description=__doc__)
    recipe, data, model_config, training, sampling = configuration
    runtime.configure_logging()
    recipe.refuse_what_cannot_act(data, model_config, sampling)

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.data.blocks.masking import MaskedBlocks, Masking
    from jpllm.data.corpus import evaluation_texts, training_shards
    from jpllm.evaluation.fill_mask import refuse_unfillable_prompts
    from jpllm.evaluation.generate import refuse_long_prompts
    from jpllm.models.build import build_from_scratch, describe, record_trained_length
    from jpllm.planning import of_run
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load, save
    from jpllm.tokenizer.pieces import piece_bytes
    from jpllm.tokenizer.special_tokens import ensure_mask_token
    from jpllm.training import causal, engine, run, run_folder
    from jpllm.training.callbacks import SampleWriter
    from jpllm.training.causal import CausalLMTrainer
    from jpllm.training.masked import MaskedLMTrainer
    from jpllm.training.optimizer import refuse_impossible

    if run_folder.is_finished(training.output_dir, configuration):
        return
    is_masked = recipe.objective == "mlm"
    engine.prepare(has_fixed_shapes=not is_masked)
    runtime.use_all_cores()
    tokenizer = load(recipe.tokenizer)
    encoder = corpus_encoder(tokenizer, recipe.tokenizer)
    if is_masked:
        ensure_mask_token(tokenizer)
    model = build_from_scratch(model_config, tokenizer, training.seed)
    record_trained_length(model, data.sequence_length)
    refuse_prompts = refuse_unfillable_prompts if is_masked else refuse_long_prompts
    refuse_prompts(model, tokenizer, recipe.sample_prompts)

    shards = training_shards(data, encoder)
    held_out = evaluation_texts(data, encoder, shards)
    order = {"seed": training.seed, "weights": data.weights, "isolate_documents": data.isolate_documents}
    if is_masked:
        # ids of the corpus are below the encoder's vocab_size
        masking = Masking(
            piece_bytes(tokenizer), encoder.vocab_size, tokenizer.mask_token_id, recipe.effective_masked_share
        )
        blocks = MaskedBlocks(shards, data.sequence_length, masking=masking, **order)
    else:
        blocks = BlockDataset(shards, data.sequence_length, **order)

    trainer_class = MaskedLMTrainer if is_masked else CausalLMTrainer
    scoring = {} if is_masked else {"eos_token_id": tokenizer.eos_token_id, "context_length": data.sequence_length}
    refuse_impossible(training, engine.requested().name)
    trainer_class.prepare(model, data, training)
    runtime.announce(describe(model))
    run_data = causal.run_data(blocks, held_out, data, training)
    answer = partial(trainer_class.answer, tokenizer=tokenizer, sampling=sampling, seed=training.seed)
    run.train(
        partial(trainer_class, model=model, **scoring),
        run_data,
        configuration,
        tokenizer_fingerprint=encoder.fingerprint,
        save_tokenizer=partial(save, tokenizer, recipe.tokenizer),
        plan=of_run.of_texts(model.config, data, training, recipe.effective_masked_share, engine.requested()),
        callbacks=[SampleWriter(training.output_dir, run_data.clock, recipe.sample_prompts, answer)],
    )


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
