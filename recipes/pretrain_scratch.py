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

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.config.parse import ConfigError, parse
from jpllm.data.corpus import DataConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.presets import ModelConfig
from jpllm.training.recipe_configs import RECIPES, PretrainingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.data.shards.token_shards import TokenShards


def main() -> None:
    recipe, data, model_config, training, sampling = parse(
        RECIPES["pretrain_scratch"], prog="recipes/pretrain_scratch.py", description=__doc__
    )
    runtime.configure_logging()

    configuration = [recipe, data, model_config, training, sampling]
    refuse_what_cannot_act(recipe, data, model_config, sampling)

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.corpus import evaluation_texts, training_shards
    from jpllm.evaluation.fill_mask import refuse_unfillable_prompts
    from jpllm.evaluation.generate import refuse_long_prompts
    from jpllm.models.build import build_from_scratch, record_trained_length
    from jpllm.planning import of_run
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load, save
    from jpllm.tokenizer.special_tokens import ensure_mask_token
    from jpllm.training import engine, run, run_folder
    from jpllm.training.causal import CausalLMTrainer
    from jpllm.training.masked import MaskedLMTrainer

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
    run.train_language_model(
        model,
        tokenizer,
        encoder,
        make_blocks(recipe, data, tokenizer, encoder.vocab_size, shards, training.seed),
        held_out,
        configuration,
        of_run.of_texts(model.config, data, training, recipe.effective_masked_share, engine.requested()),
        prompts=recipe.sample_prompts,
        save_tokenizer=partial(save, tokenizer, recipe.tokenizer),
        trainer_class=MaskedLMTrainer if is_masked else CausalLMTrainer,
    )


def make_blocks(
    recipe: PretrainingConfig,
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    vocab_size: int,
    shards: Sequence[TokenShards],
    seed: int,
) -> BlockDataset:
    """The blocks to train on, with hidden words where they are to be filled in; corpus ids are below `vocab_size`."""
    from jpllm.data.blocks.dataset import BlockDataset
    from jpllm.data.blocks.masking import MaskedBlocks, Masking
    from jpllm.tokenizer.pieces import piece_bytes

    how = {"seed": seed, "weights": data.weights, "isolate_documents": data.isolate_documents}
    if recipe.objective == "clm":
        return BlockDataset(shards, data.sequence_length, **how)
    masking = Masking(piece_bytes(tokenizer), vocab_size, tokenizer.mask_token_id, recipe.effective_masked_share)
    return MaskedBlocks(shards, data.sequence_length, masking=masking, **how)


def refuse_what_cannot_act(
    recipe: PretrainingConfig, data: DataConfig, model_config: ModelConfig, sampling: SamplingConfig
) -> None:
    """Raise ConfigError for settings that contradict the objective, or that it would pass over."""
    problems = []
    if model_config.shape.is_encoder and recipe.objective == "clm":
        problems.append(f"objective: {model_config.model} sees the tokens that it would predict; write objective: mlm")
    if not model_config.shape.is_encoder and recipe.objective == "mlm":
        problems.append(f"model: {model_config.model} sees only what comes before; write model: bert-base")
    if recipe.objective == "mlm":
        if data.isolate_documents:
            problems.append("isolate_documents: BERT cannot tell the documents of a block apart; remove it")
        changed = [f.name for f in fields(sampling) if getattr(sampling, f.name) != f.default]
        problems += [f"{name}: mlm fills in gaps and samples nothing; remove it" for name in changed]
    if problems:
        raise ConfigError(problems)


def launch() -> None:
    """Run the recipe; accelerate calls it by this name in each process of a TPU (`accelerate_configs/tpu.yaml`)."""
    runtime.run_recipe(main)


if __name__ == "__main__":
    launch()
