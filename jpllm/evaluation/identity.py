"""What results are of, and what they were measured with."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from jpllm import runtime
from jpllm.tokenizer.load import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SUMS = ("weights_sha256", "config_sha256", "tokenizer_sha256")  # where one of them differs, scores are others
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")


def identity(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict:
    """The name of a model, and SHA-256 of all that decides what it answers: weights, configuration with all ids that
    end an answer, and tokenizer."""
    weights = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        weights.update(key.encode())
        weights.update(tensor.detach().cpu().numpy().tobytes())
    return {
        "model": name,
        "weights_sha256": weights.hexdigest(),
        "config_sha256": _config_sha256(model),
        "tokenizer_sha256": fingerprint(tokenizer),
    }


def measured_with() -> dict:
    """The versions of the libraries and our commit, for each row that is measured now."""
    return {"versions": runtime.versions(), "commit": runtime.commit()}


def _config_sha256(model: PreTrainedModel) -> str:
    """Of all settings but the folder and the library's version, and without the defaults that all models share."""
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in _NOT_OF_THE_MODEL}
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return hashlib.sha256(json.dumps([settings, ends], sort_keys=True, default=str).encode()).hexdigest()
