"""Continuations of prompts, with the settings that they were drawn with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from jpllm.evaluation.generate import SamplingConfig, answers
from jpllm.evaluation.identity import measured_with
from jpllm.evaluation.sample_quality import sample_quality

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


def add_missing(
    results: dict,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    seed: int,
) -> None:
    """Let a model continue prompts, unless `results` has just these: samples of other prompts or settings are replaced.

    Raises:
        InputError: a prompt leaves no room for an answer.
    """
    settings = {"prompts": list(prompts), "seed": seed, **asdict(sampling)}
    kept = results.get("sample_settings", {})
    if all(kept.get(key) == value for key, value in settings.items()):
        logger.info("samples: drawn before")
        return
    found = answers(model, tokenizer, prompts, sampling, seed)
    results["samples"] = [
        {"prompt": prompt, "text": answer.text} for prompt, answer in zip(prompts, found, strict=True)
    ]
    results["sample_quality"] = asdict(sample_quality(found))
    results["sample_settings"] = settings | measured_with()
