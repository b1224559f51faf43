"""How large a model is: its parameters, exactly, and the operations that training it takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from jpllm.models.trained_parts import ALL_PARTS, TrainedParts

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a model.

    Attributes:
        num_parameters: all of them, a shared matrix counted once; LoRA's are among them.
        num_product_parameters: those that multiply each token's vector: all but embeddings that are only looked up,
            biases and norms.
        num_matrix_parameters: those in matrices that are no embedding and no output layer (what Muon updates).
        num_lookup_parameters: those of embeddings, tied to an output layer or not.
        num_largest: those of the largest matrix that learns.
        num_trainable: those that learn.
        num_trainable_products: those that learn, and multiply each token's vector.
        num_trainable_lookups: those that learn, of embeddings.
        num_added: those of LoRA's matrices, which are added to others at the end.
        num_four_bit: those that are frozen in layers which can be 4-bit: linear ones but the output layer.
        num_largest_frozen: those of the largest matrix of these layers.
        num_frozen_layers: layers before all that learn: no gradient comes so far.
        num_frozen_products: the parameters in them that multiply each token's vector.
        attention_width: heads × head size.
    """

    num_parameters: int
    num_product_parameters: int
    num_matrix_parameters: int
    num_lookup_parameters: int
    num_largest: int
    num_trainable: int
    num_trainable_products: int
    num_trainable_lookups: int
    num_added: int
    num_four_bit: int
    num_largest_frozen: int
    num_frozen_layers: int
    num_frozen_products: int
    num_layers: int
    attention_width: int
    vocab_size: int

    @property
    def num_saved(self) -> int:
        """Parameters of the model that is saved at the end."""
        return self.num_parameters - self.num_added


@dataclass(frozen=True)
class VocabularyOnly:
    """Stands in for a tokenizer that is not there yet: so many ids, and no text."""

    num_ids: int
    bos_token_id: None = None
    eos_token_id: None = None
    pad_token_id: None = None

    def __len__(self) -> int:
        return self.num_ids

    def get_vocab(self) -> dict[str, int]:
        """Return the last id alone: all that the size of a vocabulary needs."""
        return {"": self.num_ids - 1}


def model_size(config: PretrainedConfig, is_masked: bool = False, trained_parts: TrainedParts = ALL_PARTS) -> ModelSize:
    """Return exact counts, of the model built without memory; `is_masked` for one that fills in gaps."""
    import torch

    from jpllm.models.build import input_embedding
    from jpllm.models.trained_parts import meta_model
    from jpllm.planning.rehearsal import layers_of

    model = meta_model(config, is_masked=is_masked, trained_parts=replace(trained_parts, frozen_dtype="float32"))
    output = model.get_output_embeddings()  # a classifier has none
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    looked_up = [p for p in model.parameters() if id(p) in tables]
    inner = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in {*tables, output and id(output.weight)}]
    products = [*inner, *([output.weight] if output else [])]
    frozen = list(takewhile(lambda layer: not _of(layer.parameters(), learning=True), layers_of(model)))
    in_frozen = {id(p) for layer in frozen for p in layer.parameters()}
    four_bit = [m.weight for m in model.modules() if _can_be_four_bit(m) and m is not output]
    linear = [weight.numel() for weight in four_bit if isinstance(weight, torch.Tensor)]
    text_config = config.get_text_config()
    heads = getattr(text_config, "num_attention_heads", 0)
    head_size = (getattr(text_config, "head_dim", None) or text_config.hidden_size // heads) if heads else 0
    return ModelSize(
        num_parameters=_of(model.parameters()),
        num_product_parameters=_of(products),
        num_matrix_parameters=_of(inner),
        num_lookup_parameters=_of(looked_up),
        num_largest=max((p.numel() for p in model.parameters() if p.requires_grad), default=0),
        num_trainable=_of(model.parameters(), learning=True),
        num_trainable_products=_of(products, learning=True),
        num_trainable_lookups=_of(looked_up, learning=True),
        num_added=sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name),
        num_four_bit=sum(linear),
        num_largest_frozen=max(linear, default=0),
        num_frozen_layers=len(frozen),
        num_frozen_products=_of(p for p in products if id(p) in in_frozen),
        num_layers=text_config.num_hidden_layers,
        attention_width=heads * head_size,
        vocab_size=(output or input_embedding(model)).weight.shape[0],
    )


def _can_be_four_bit(module: torch.nn.Module) -> bool:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Linear | Conv1D) and not module.weight.requires_grad


def _of(parameters: Iterable[torch.nn.Parameter], learning: bool = False) -> int:
    """Return how many numbers the parameters hold; with `learning` only those that learn."""
    return sum(p.numel() for p in parameters if p.requires_grad or not learning)


def flops_per_token(size: ModelSize, sequence_length: int, frozen_share: float = 1.0) -> float:
    """Return the operations of training on a token: 6 a parameter, 12 a layer, position and unit of attention width.

    Chowdhery et al. 2022 (PaLM), appendix B: a third of them forward, a third for the gradients of activations, a third
    (of parameters) for those of weights; what does not learn lacks the last, and layers before all that learns both.
    Parameters that multiply nothing are left out. What activation checkpointing computes twice is not counted: "model"
    operations, as in MFU.

    `frozen_share` is that of the tokens for which those layers are computed at all.
    """
    attention = 4.0 * size.attention_width * sequence_length
    learning = 4.0 * (size.num_product_parameters - size.num_frozen_products) + 2.0 * size.num_trainable_products
    learning += 3.0 * attention * (size.num_layers - size.num_frozen_layers)
    return learning + frozen_share * (2.0 * size.num_frozen_products + attention * size.num_frozen_layers)
