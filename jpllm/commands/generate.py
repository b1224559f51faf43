"""`jpllm generate`: continue prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jpllm import config, runtime
from jpllm.config import REQUIRED, option
from jpllm.evaluation.generate import SamplingConfig


@dataclass
class GenerateConfig:
    """Generation"""

    model: str = option(REQUIRED, "Model folder, or name on the Hugging Face Hub.")
    prompt: list[str] = option(REQUIRED, "Texts to continue.")
    seed: int = option(0, "The same seed gives the same text.", minimum=0)


def generate(argv: Sequence[str]) -> None:
    """Continue prompts with a trained model."""
    settings, sampling = config.parse(
        [GenerateConfig, SamplingConfig], argv, prog="jpllm generate", description=generate.__doc__
    )
    from jpllm.evaluation.generate import generate as continuations
    from jpllm.models.build import load_trained
    from jpllm.tokenizer.load import load

    runtime.use_all_cores()
    model, tokenizer = load_trained(settings.model), load(settings.model)
    for prompt, text in zip(
        settings.prompt, continuations(model, tokenizer, settings.prompt, sampling, settings.seed), strict=True
    ):
        runtime.announce(f"{prompt}▸{text}\n")
