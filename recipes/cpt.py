"""Continue to train an existing language model on new texts, and measure what it forgets.

  one GPU or CPU     accelerate launch recipes/cpt.py --config CONFIG.yaml --model NAME_OR_FOLDER --output_dir runs/NAME
  12 GB, larger      accelerate launch --config_file accelerate_configs/zero2_offload.yaml recipes/cpt.py …
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/cpt.py …
  two minutes, CPU   python recipes/cpt.py --config recipes/configs/cpt/smoke_cpu.yaml

Any causal model with its own tokenizer, or with one that `jpllm tokenizer extend --model` has made longer (then
`embedding_warmup_steps` lets the new rows settle first). Texts to evaluate on are of the group `old`, what the model
could do before, or `new`; the bits per byte of both are measured before, during and after, and drawn in loss.png.
`replay` mixes old texts into the training, so that less is forgotten. The same command goes on with an interrupted run.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from jpllm import runtime
from jpllm.config.parse import parse
from jpllm.data.corpus import DataConfig
from jpllm.data.read.sources import SourceConfig
from jpllm.training.recipe_configs import RECIPES

NEW, OLD = "new", "old"
logger = logging.getLogger(__name__)


def main() -> None:
    configuration = parse(RECIPES["cpt"], prog="recipes/cpt.py", description=__doc__)
    recipe, weights, data, training, sampling = configuration
    runtime.configure_logging()

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.data.corpus import evaluation_texts, training_shards, weights_with_replay
    from jpllm.evaluation.generate import refuse_long_prompts
    from jpllm.models.build import describe
    from jpllm.models.quantising import plain_config
    from jpllm.planning import of_run
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load, save
    from jpllm.training import adaptation, causal, engine, run, run_folder
    from jpllm.training.callbacks import SampleWriter
    from jpllm.training.causal import CausalLMTrainer

    if run_folder.is_finished(training.output_dir, configuration):
        return
    engine.prepare(has_fixed_shapes=True)
    runtime.use_all_cores()
    tokenizer_path = recipe.tokenizer or recipe.model
    tokenizer = load(tokenizer_path)
    adaptation.refuse_impossible(weights, training, engine.requested().name, recipe.embedding_warmup_steps)
    model, published = adaptation.load(recipe, tokenizer, data.sequence_length, weights, training.precision)
    refuse_long_prompts(model, tokenizer, recipe.sample_prompts)

    encoder = corpus_encoder(tokenizer, tokenizer_path)
    texts = with_groups(data, recipe.replay_sources)
    shards = training_shards(texts, encoder)
    held_out = evaluation_texts(texts, encoder, shards)
    warn_unless_forgetting_shows({text.group for text in held_out})
    sizes, num_new = [source.size.num_tokens for source in shards], len(data.sources)
    shares = weights_with_replay(sizes[:num_new], data.weights, sizes[num_new:], recipe.replay)
    blocks = BlockDataset(
        shards,
        data.sequence_length,
        seed=training.seed,
        weights=shares if recipe.replay else data.weights,
        isolate_documents=data.isolate_documents,
    )

    CausalLMTrainer.prepare(model, data, training)
    adaptation.adapt(model, weights, training.seed)
    runtime.announce(describe(model))
    run_data = causal.run_data(blocks, held_out, data, training)
    parts = weights.trained_parts(published.held, published.saved)
    answer = partial(CausalLMTrainer.answer, tokenizer=tokenizer, sampling=sampling, seed=training.seed)
    run.train(
        partial(
            CausalLMTrainer,
            model=model,
            eos_token_id=tokenizer.eos_token_id,
            context_length=data.sequence_length,
            embedding_warmup_steps=recipe.embedding_warmup_steps,
            published=published,
        ),
        run_data,
        configuration,
        tokenizer_fingerprint=encoder.fingerprint,
        save_tokenizer=partial(save, tokenizer, tokenizer_path),
        plan=of_run.of_texts(plain_config(model), data, training, 0.0, engine.requested(), parts),
        callbacks=[SampleWriter(training.output_dir, run_data.clock, recipe.sample_prompts, answer)],
    )


def with_groups(data: DataConfig, replay_sources: list[SourceConfig]) -> DataConfig:
    """Return the data with the replayed sources behind the others, each in its group unless it names another."""
    new = [replace(source, group=source.group or NEW) for source in data.sources]
    old = [replace(source, group=source.group or OLD) for source in replay_sources]
    return replace(data, sources=new + old)


def warn_unless_forgetting_shows(groups: set[str | None]) -> None:
    """Say what to give where no text can show what is forgotten, or none what is learned."""
    for group in {OLD, NEW} - groups:
        logger.warning(
            "no text to evaluate on is of the group %s, so what the model %s is not measured; give eval_sources "
            "with group: %s",
            *(group, "forgets" if group == OLD else "learns", group),
        )


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
