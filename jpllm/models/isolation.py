"""Per-document attention in packed blocks: proved on the model at hand, and refused where it would silently be off.

transformers builds the mask of a packed batch from position ids that begin again, but only where no attention mask and
no cache is given and the attention implementation takes masks. Otherwise documents see each other without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from jpllm.models.evaluating import evaluating
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 1e-2  # of the spread of the hidden states; a document that sees another is off by more than all of it
# Of their norm, where products are of 16 bits: 0.7 % of SmolLM2's in bf16, and half of it where documents see another.
_TOLERANCE_16_BITS = 5e-2


def isolate_documents(model: PreTrainedModel) -> None:
    """Prepare `model` for batches with the position ids of `BlockDataset(isolate_documents=True)`, and no mask.

    Raises:
        InputError: the document behind another in a block does not come out as it does alone.
    """
    model.config.use_cache = False
    padding = getattr(
        model.config, "pad_token_id", None
    )  # transformers warns where it stands first or last and no mask is given
    words = torch.tensor(
        [index for index in range(min(model.config.get_text_config().vocab_size, 16)) if index != padding]
    )
    ids = torch.cat([words[1:6], words[3:10]])
    positions = torch.cat([torch.arange(5), torch.arange(7)])
    try:
        with evaluating(model):
            packed, alone = _hidden(model, ids, positions)[:, 5:], _hidden(model, ids[5:], positions[5:])
        off = packed - alone
        isolated = bool(off.abs().max() <= _TOLERANCE * alone.std())
        if any(weight.dtype != torch.float32 for weight in model.parameters()):
            isolated = bool(off.norm() <= _TOLERANCE_16_BITS * alone.norm())
    except TypeError:  # the model takes no position ids
        isolated = False
    if not isolated:
        raise InputError(
            f"isolate_documents: with {type(model).__name__} and its attention implementation a document sees those "
            "before it in its block; set isolate_documents: false (in recipes/sft.py batching: by_length); "
            "docs/models.md says which families can"
        )


def _hidden(model: PreTrainedModel, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the hidden states after the last layer, of a batch of two equal rows as in training."""
    batch = {"input_ids": ids, "position_ids": positions}
    batch = {name: value.expand(2, -1).to(model.device) for name, value in batch.items()}
    return model.base_model(**batch).last_hidden_state.float()
