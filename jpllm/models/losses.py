"""Cross-entropy of a language model without holding the logits of a whole batch.

The logits of a batch, tokens × vocabulary, are the largest tensor of a small model: transformers keeps them in float32
with their softmax and their gradient. Here a chunk of tokens at a time goes through the output layer, its loss and its
gradients are computed together, and its logits are dropped, so the backward pass has nothing left to recompute (the
order of work of Hsu et al. 2024, "Liger Kernel").

A masked language model needs no logits but those of the positions to predict, 15 % of them; and transformers'
BertForMaskedLM takes the mean over each micro-batch, whatever Trainer says the divisor is, so that with gradient
accumulation the loss would be that of the micro-batches added up.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING

import torch

from jpllm.models.evaluating import evaluating
from jpllm.models.logits import LogitFunction, logit_function
from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORED_LABEL = -100
# Logits of one chunk: 8 MiB of float32 stay in a CPU's cache, 128 MiB keep a GPU busy.
CHUNK_LOGITS_CPU = 2**21
CHUNK_LOGITS_GPU = 2**25
_MOST_COUNTED = 0.9  # share of labels below which the other positions are left out
_TOLERANCE_FLOAT32, _TOLERANCE_HALF = 1e-5, 1e-3  # of a loss, or of a nat
_PRODUCTS = LogitFunction()


def use_chunked_loss(model: PreTrainedModel, label_smoothing: float = 0.0) -> None:
    """Make `model(…, labels=…)` return the loss alone, computed in chunks; without labels nothing changes.

    `label_smoothing` is the share of the target's probability that is spread over the whole vocabulary (Szegedy et al.
    2016, https://arxiv.org/abs/1512.00567).

    Logits may be scaled and capped, and the output layer may have a bias.

    Raises:
        InputError: the model does something else with its logits, or its loss on a few tokens is not that in chunks.
    """
    head = model.get_output_embeddings()
    function = logit_function(model)
    whole_forward, whole_head = model.forward, head.forward

    def head_forward(self, hidden, labels=None, num_items_in_batch=None):
        if labels is None:
            return whole_head(hidden)
        smoothing = label_smoothing if self.training else 0.0
        return causal_loss(
            hidden, self.weight, labels, num_items_in_batch, smoothing, getattr(self, "bias", None), function
        )

    @functools.wraps(whole_forward)  # Trainer reads the signature
    def forward(self, *args, labels=None, num_items_in_batch=None, logits_to_keep=0, **kwargs):
        if labels is None:
            return whole_forward(*args, logits_to_keep=logits_to_keep, **kwargs)
        from transformers.modeling_outputs import CausalLMOutput

        kwargs["return_dict"] = True
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        loss = self.get_output_embeddings()(hidden, labels=labels, num_items_in_batch=num_items_in_batch)
        return CausalLMOutput(loss=loss, logits=None)

    # ZeRO-3 and FSDP2 have the weights of a module only in its own forward pass: the loss is computed in the head's.
    head.forward = MethodType(head_forward, head)
    _refuse_other_losses(model, MethodType(forward, model))
    model.forward = MethodType(forward, model)


def causal_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None,
    label_smoothing: float = 0.0,
    bias: torch.Tensor | None = None,
    function: LogitFunction = _PRODUCTS,
) -> torch.Tensor:
    """Return the mean cross-entropy in nats of predicting each label from the position before it.

    Args:
        hidden: (batch, length, width), what the output layer reads.
        weight: (vocabulary, width) of the output layer.
        labels: (batch, length), `IGNORED_LABEL` where nothing is to be learned.
        num_items_in_batch: divisor of the sum; the number of labels here that count if None.
        label_smoothing: share of the target's probability that is spread over the vocabulary.
        bias: (vocabulary,) of the output layer, or None.
        function: what the logits are of the output layer's products.
    """
    targets = labels[:, 1:].flatten()
    if num_items_in_batch is None:
        num_items_in_batch = (targets != IGNORED_LABEL).sum()
    elif isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(hidden.device)
    total = _ChunkedCrossEntropy.apply(hidden[:, :-1].flatten(0, 1), weight, bias, targets, label_smoothing, function)
    return total / num_items_in_batch


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross-entropies of `hidden @ weight.T + bias`, in float32 whatever the products are computed in."""

    @staticmethod
    @torch.compiler.disable
    def forward(ctx, hidden, weight, bias, targets, label_smoothing, function):
        product_dtype = weight.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            product_dtype = torch.get_autocast_dtype(hidden.device.type)
        few = _few_counted(targets)
        rows = (hidden, targets) if few is None else (hidden[few], targets[few])
        layer = (weight, bias, product_dtype, function)
        with torch.autocast(hidden.device.type, enabled=False):
            loss, for_rows, *for_layer = _sum_and_gradients(*rows, layer, label_smoothing, ctx.needs_input_grad[:3])
        if few is not None and for_rows is not None:
            for_rows = torch.zeros_like(hidden).index_copy_(0, few, for_rows)
        ctx.save_for_backward(for_rows, *for_layer)
        return loss

    @staticmethod
    @torch.compiler.disable
    def backward(ctx, scale):
        gradients = (None if gradient is None else gradient.mul_(scale) for gradient in ctx.saved_tensors)
        return *gradients, None, None, None


def _few_counted(targets: torch.Tensor) -> torch.Tensor | None:
    """Return where there is something to learn; None where that is nearly everywhere, and on XLA (shapes are fixed)."""
    if targets.device.type == "xla":
        return None
    counted = (targets != IGNORED_LABEL).nonzero().flatten()
    return counted if len(counted) <= _MOST_COUNTED * len(targets) else None


def _sum_and_gradients(hidden, targets, layer, smoothing: float, wanted_gradients):
    """Return the summed loss, and its gradients for hidden states, weight and bias where they want one."""
    weight, bias, product_dtype, function = layer
    limit = CHUNK_LOGITS_CPU if hidden.device.type == "cpu" else CHUNK_LOGITS_GPU
    if function.cap is not None:
        limit //= 2  # the slopes of a chunk are as large as its logits
    rows = max(1, min(limit // weight.shape[0], len(hidden)))
    product_weight = weight.to(product_dtype)
    loss = hidden.new_zeros((), dtype=torch.float32)
    inputs = zip((hidden, weight, bias), wanted_gradients, strict=True)
    gradients = [torch.zeros_like(tensor) if wanted else None for tensor, wanted in inputs]
    for_hidden, for_weight, for_bias = gradients
    products = hidden.new_empty(rows, weight.shape[0], dtype=product_dtype)
    for start in range(0, len(hidden), rows):
        piece = hidden[start : start + rows].to(product_dtype)
        target = targets[start : start + rows, None]
        counts = target != IGNORED_LABEL
        target = target.where(counts, 0)
        product = torch.mm(piece, product_weight.t(), out=products[: len(piece)]).float()
        logits, slopes = _logits_and_slopes(product, bias, function)
        highest, at = logits.max(1, keepdim=True)
        wanted = logits.gather(1, target)
        if smoothing:
            wanted = (1 - smoothing) * wanted + smoothing * logits.mean(1, keepdim=True)
        probabilities = torch.softmax(logits, 1, out=logits)
        # log-sum-exp = highest − log softmax(highest): one pass over the vocabulary less, and never the log of zero
        loss += (highest - probabilities.gather(1, at).log() - wanted).where(counts, 0).sum()
        if not any(wanted_gradients):
            continue
        probabilities.scatter_add_(1, target, probabilities.new_full((len(piece), 1), smoothing - 1))
        if smoothing:
            probabilities -= smoothing / weight.shape[0]
        if hidden.device.type == "xla" or not counts.all():  # XLA would have to stop and tell
            probabilities.mul_(counts)
        logits_gradient = (probabilities if slopes is None else probabilities.mul_(slopes)).to(product_dtype)
        if for_hidden is not None:
            for_hidden[start : start + rows] = logits_gradient @ product_weight
        if for_weight is not None and product_dtype == weight.dtype:
            for_weight.addmm_(logits_gradient.t(), piece)
        elif for_weight is not None:
            for_weight += logits_gradient.t() @ piece
        if for_bias is not None:
            for_bias += probabilities.sum(0)
    return loss, for_hidden, for_weight, for_bias


def _logits_and_slopes(product, bias, function: LogitFunction):
    """Return the logits, in the memory of the products, and their derivatives; None for derivatives that are all 1."""
    if bias is not None:
        product += bias.float()
    if function.cap is None:
        return (product, None) if function.scale == 1 else (product.mul_(function.scale), function.scale)
    capped = product.mul_(function.scale / function.cap).tanh_()
    slopes = (capped * capped).neg_().add_(1).mul_(function.scale)
    return capped.mul_(function.cap), slopes


def _refuse_other_losses(model: PreTrainedModel, chunked_forward) -> None:
    """Compare both losses on 16 ids spread over the vocabulary; raise InputError if they differ."""
    if getattr(model.config.get_text_config(), "output_router_logits", False):
        raise InputError(
            f"chunked_loss: {type(model).__name__} adds a loss of its routers (output_router_logits in config.json), "
            "which chunks do not have; set chunked_loss: false"
        )
    ids = torch.arange(16, device=model.device).reshape(2, 8) * (model.config.get_text_config().vocab_size // 16)
    with evaluating(model):
        whole, chunked = model(input_ids=ids, labels=ids).loss, chunked_forward(input_ids=ids, labels=ids).loss
    tolerance = _TOLERANCE_FLOAT32 if model.dtype == torch.float32 else _TOLERANCE_HALF
    if not abs(whole - chunked) <= tolerance * max(1.0, float(whole)):
        raise InputError(
            f"chunked_loss: the loss in chunks is {chunked:.6f} where {type(model).__name__} computes {whole:.6f}: "
            "it learns something else than the next token; set chunked_loss: false"
        )


def use_masked_loss(model: PreTrainedModel, label_smoothing: float = 0.0, everywhere: bool = False) -> None:
    """Make `model(…, labels=…)` of a BertForMaskedLM return the mean loss in nats alone.

    Without labels nothing changes.

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
    """Return hidden states (labels, width) and labels (labels,) of the positions that have one."""
    chosen = labels != IGNORED_LABEL
    return hidden[chosen], labels[chosen]
