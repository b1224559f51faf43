"""Cross-entropy of a masked language model, at the positions that are to be predicted.

transformers computes the logits of every position, tokens × vocabulary, though 85 % of them have no label; and its
BertForMaskedLM takes the mean over each micro-batch, whatever Trainer says the divisor is, so that with gradient
accumulation the loss would be that of the micro-batches added up.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import BertForMaskedLM

IGNORED_LABEL = -100


def use_masked_loss(model: BertForMaskedLM, label_smoothing: float = 0.0, everywhere: bool = False) -> None:
    """Make `model(…, labels=…)` return the mean loss in nats alone; without labels nothing changes.

    `num_items_in_batch` divides the sum, or the number of labels that count. `label_smoothing` is the share of the
    target's probability that is spread over the vocabulary, in training. `everywhere` computes all logits, as
    transformers does: the same loss in several times the memory.
    """
    whole_forward = model.forward

    @functools.wraps(whole_forward)  # Trainer reads the signature
    def forward(self, *args, labels=None, num_items_in_batch=None, **kwargs):
        if labels is None:
            return whole_forward(*args, **kwargs)
        from transformers.modeling_outputs import MaskedLMOutput

        kwargs["return_dict"] = True
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        if not everywhere:
            hidden, labels = _at_labels(hidden, labels)
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED_LABEL).sum()
        total = torch.nn.functional.cross_entropy(
            self.cls(hidden).flatten(0, -2).float(),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
            label_smoothing=label_smoothing if self.training else 0.0,
        )
        divisor = torch.as_tensor(num_items_in_batch, device=total.device).clamp(min=1)  # short blocks may have none
        return MaskedLMOutput(loss=total / divisor, logits=None)

    model.forward = MethodType(forward, model)


@torch.compiler.disable  # how many there are differs from batch to batch
def _at_labels(hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (labels, width) and labels (labels,) of the positions that have one."""
    chosen = labels != IGNORED_LABEL
    return hidden[chosen], labels[chosen]
