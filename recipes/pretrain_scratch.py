"""Train a new language model from random weights on raw text.

  one GPU or CPU     accelerate launch recipes/pretrain_scratch.py --config CONFIG.yaml --output_dir runs/NAME
  several GPUs       accelerate launch --config_file accelerate_configs/multi_gpu.yaml recipes/pretrain_scratch.py …
  two minutes, CPU   python recipes/pretrain_scratch.py --config recipes/configs/pretrain_scratch/smoke_cpu.yaml

The tokenizer comes from `jpllm tokenizer train`, or is any Hugging Face tokenizer with an EOS token. The run folder
gets config.yaml, metrics.jsonl, samples.jsonl, held_out.jsonl, loss.png, results.json and model/.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial

from jpllm import config, runtime
from jpllm.config import REQUIRED, option
from jpllm.data.corpus import DataConfig
from jpllm.evaluation.generate import SamplingConfig
from jpllm.models.presets import ModelConfig
from jpllm.training.arguments import TrainingConfig


@dataclass
class RecipeConfig:
    """Recipe"""

    tokenizer: str = option(REQUIRED, "Tokenizer folder, or name on the Hugging Face Hub.")
    sample_prompts: list[str] = option(
        default_factory=lambda: ["今日はどんな一日でしたか?", "吾輩は猫である", "むかし、"],
        help="Prompts that are continued at every evaluation.",
    )


def main() -> None:
    recipe, data, model_config, training, sampling = config.parse(
        [RecipeConfig, DataConfig, ModelConfig, TrainingConfig, SamplingConfig],
        prog="recipes/pretrain_scratch.py",
        description=__doc__,
    )
    runtime.configure_logging()

    configuration = [recipe, data, model_config, training, sampling]

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.blocks import BlockDataset
    from jpllm.data.corpus import evaluation_texts, training_shards
    from jpllm.evaluation.generate import refuse_long_prompts
    from jpllm.models.build import build_from_scratch, record_trained_length
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load, save
    from jpllm.training import run, run_folder

    if run_folder.is_finished(training.output_dir, configuration):
        return
    runtime.use_all_cores()
    tokenizer = load(recipe.tokenizer)
    model = build_from_scratch(model_config, tokenizer, training.seed)
    record_trained_length(model, data.sequence_length)
    refuse_long_prompts(model, tokenizer, recipe.sample_prompts)

    encoder = corpus_encoder(tokenizer, recipe.tokenizer)
    shards = training_shards(data, encoder)
    held_out = evaluation_texts(data, encoder, shards)
    blocks = BlockDataset(
        shards, data.sequence_length, seed=training.seed, weights=data.weights, isolate_documents=data.isolate_documents
    )
    run.train_language_model(
        model,
        tokenizer,
        encoder,
        blocks,
        held_out,
        configuration,
        prompts=recipe.sample_prompts,
        save_tokenizer=partial(save, tokenizer, recipe.tokenizer),
    )


if __name__ == "__main__":
    sys.exit(runtime.run_command(main))
