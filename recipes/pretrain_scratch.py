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

    run_dir = training.output_dir

    # Imported here, so that --help and a mistake in the configuration answer at once.
    from jpllm.data.blocks import BlockDataset
    from jpllm.data.corpus import evaluation_texts, training_shards
    from jpllm.evaluation.generate import generate, refuse_long_prompts
    from jpllm.models.build import build_from_scratch, describe, record_trained_length
    from jpllm.models.chunked_loss import use_chunked_loss
    from jpllm.models.isolation import isolate_documents
    from jpllm.tokenizer.encoder import corpus_encoder
    from jpllm.tokenizer.load import load, save
    from jpllm.training import run
    from jpllm.training.arguments import choose_precision, num_steps, training_arguments
    from jpllm.training.callbacks import Clock, MetricsRecorder, SampleWriter

    run.refuse_used_output_dir(run_dir)
    runtime.use_all_cores()
    tokenizer = load(recipe.tokenizer)
    model = build_from_scratch(model_config, tokenizer, training.seed)
    record_trained_length(model, data.sequence_length)
    refuse_long_prompts(model, tokenizer, recipe.sample_prompts)
    if data.isolate_documents:
        isolate_documents(model)
    if training.chunked_loss:
        use_chunked_loss(model)
    runtime.announce(describe(model))

    encoder = corpus_encoder(tokenizer, recipe.tokenizer)
    shards = training_shards(data, encoder)
    held_out = evaluation_texts(data, encoder, shards)
    blocks = BlockDataset(
        shards, data.sequence_length, seed=training.seed, weights=data.weights, isolate_documents=data.isolate_documents
    )

    blocks_per_step = training.blocks_per_step(runtime.num_processes())
    clock = Clock(blocks_per_step * data.sequence_length, blocks.num_blocks * data.sequence_length)
    max_steps = num_steps(training, clock.tokens_per_step, clock.tokens_per_epoch)
    if data.when_exhausted == "stop":
        max_steps = run.stop_before_repeats(max_steps, blocks.num_positions_without_repeats // blocks_per_step)
    blocks.num_positions = max_steps * blocks_per_step
    precision = choose_precision(training.precision)
    arguments = training_arguments(training, max_steps, precision)
    runtime.announce(run.plan_text(clock, max_steps, precision, held_out, blocks.uses()))

    def answer(model, prompts: list[str]) -> list[str]:
        return generate(model, tokenizer, prompts, sampling, training.seed)

    run.write_inputs(run_dir, [recipe, data, model_config, training, sampling], held_out)
    trainer = run.CausalLMTrainer(
        model=model,
        args=arguments,
        train_dataset=blocks,
        held_out=held_out,
        eos_token_id=tokenizer.eos_token_id,
        context_length=data.sequence_length,
        callbacks=[
            SampleWriter(run_dir, clock, recipe.sample_prompts, answer),
            MetricsRecorder(run_dir, clock),
        ],
    )
    run.train_and_prove(trainer, partial(save, tokenizer, recipe.tokenizer), run_dir, clock, blocks.uses())


if __name__ == "__main__":
    sys.exit(runtime.run_command(main))
