"""How large a model is: its parameters, exactly, and the operations that training it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CHINCHILLA_TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a model.

    Attributes:
        num_parameters: all of them, a shared matrix counted once.
        num_product_parameters: those that multiply each token's vector: all but embeddings that are only looked up,
            biases and norms.
        num_matrix_parameters: those in matrices that are no embedding and no output layer (what Muon updates).
        num_lookup_parameters: those of embeddings, tied to an output layer or not.
        attention_width: heads × head size.
    """

    num_parameters: int
    num_product_parameters: int
    num_matrix_parameters: int
    num_lookup_parameters: int
    num_layers: int
    attention_width: int
    vocab_size: int


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
        """The last id alone."""
        return {"": self.num_ids - 1}


def model_size(config: PretrainedConfig, is_masked: bool = False) -> ModelSize:
    """Exact counts, of the model built without memory; `is_masked` for one that fills in gaps."""
    import torch

    from jpllm.models.rehearsal import empty_model

    model = empty_model(config, is_masked=is_masked)
    output = model.get_output_embeddings().weight
    embeddings = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    tables = {*embeddings, id(output)}
    inner = sum(p.numel() for p in model.parameters() if p.ndim >= 2 and id(p) not in tables)
    text_config = config.get_text_config()
    heads = text_config.num_attention_heads
    return ModelSize(
        num_parameters=model.num_parameters(),
        num_product_parameters=inner + output.numel(),
        num_matrix_parameters=inner,
        num_lookup_parameters=sum(embeddings.values()),
        num_layers=text_config.num_hidden_layers,
        attention_width=heads * (getattr(text_config, "head_dim", None) or text_config.hidden_size // heads),
        vocab_size=output.shape[0],
    )


def flops_per_token(size: ModelSize, sequence_length: int) -> float:
    """Operations that training on a token takes: 6 a parameter and 12 a layer, position and unit of attention width.

    Chowdhery et al. 2022 (PaLM), appendix B; parameters that multiply nothing are left out. What activation
    checkpointing computes twice is not counted: "model" operations, as in MFU.
    """
    return 6.0 * size.num_product_parameters + 12.0 * size.num_layers * size.attention_width * sequence_length
