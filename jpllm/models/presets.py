"""Named model shapes. A shape says nothing about the vocabulary: that comes from the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from jpllm.config.settings import option
from jpllm.config.types import suggest

Architecture = Literal["gpt2", "gpt_neox", "llama", "bert"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer: a decoder, which predicts the next token, or BERT's encoder, which fills in gaps.

    Attributes:
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward layer (of each of the two gates' inputs for Llama's SwiGLU).
        max_positions: longest sequence in tokens.
        activation: name of the feed-forward non-linearity in transformers.
        tie_embeddings: input and output embeddings share one matrix.
    """

    architecture: Architecture
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    activation: str
    tie_embeddings: bool

    @property
    def is_encoder(self) -> bool:
        """Each token sees those after it, too."""
        return self.architecture == "bert"


PRESETS: dict[str, Shape] = {
    # Radford et al. 2019; 124,439,808 parameters with GPT-2's vocabulary of 50,257.
    "gpt2-small": Shape("gpt2", 768, 12, 12, 3072, 1024, "gelu_new", True),
    # The home-made "1B" NeoX: 778,263,552 parameters at a vocabulary of 32,000.
    "neox-1b": Shape("gpt_neox", 1536, 24, 16, 6144, 1024, "gelu", False),
    "neox-160m": Shape("gpt_neox", 768, 12, 12, 3072, 2048, "gelu", False),
    "llama-160m": Shape("llama", 768, 12, 12, 2048, 2048, "silu", False),
    # Devlin et al. 2019; 109,514,298 parameters with BERT's vocabulary of 30,522.
    "bert-base": Shape("bert", 768, 12, 12, 3072, 512, "gelu", True),
    # For a CPU: minutes of training, and seconds in a test.
    "llama-tiny": Shape("llama", 256, 3, 4, 704, 512, "silu", False),
    "gpt2-tiny": Shape("gpt2", 64, 2, 2, 256, 128, "gelu_new", True),
    "neox-tiny": Shape("gpt_neox", 64, 2, 2, 256, 128, "gelu", False),
    "bert-tiny": Shape("bert", 64, 2, 2, 256, 128, "gelu", True),
}


@dataclass
class ModelConfig:
    """Model"""

    model: str = option("llama-tiny", f"Shape of the new model: {', '.join(PRESETS)}.")
    hidden_size: int | None = option(None, "Width of the residual stream, instead of the preset's.", minimum=8)
    num_layers: int | None = option(None, "Transformer layers, instead of the preset's.", minimum=1)
    num_heads: int | None = option(None, "Attention heads, instead of the preset's; divides hidden_size.", minimum=1)
    intermediate_size: int | None = option(None, "Feed-forward width, instead of the preset's.", minimum=8)
    max_positions: int | None = option(None, "Longest sequence in tokens, instead of the preset's.", minimum=2)
    tie_embeddings: bool | None = option(None, "Input and output embeddings share one matrix; else the preset's.")
    vocab_size: int | None = option(
        None, "Rows of the embedding; at least the tokenizer's vocabulary, by default equal to it.", minimum=2
    )
    dropout: float = option(0.0, "Dropout probability of embeddings, attention and residuals.", minimum=0, maximum=0.9)

    def check(self) -> Iterator[tuple[str, str]]:
        """Refuse values that cannot make a model."""
        if self.model not in PRESETS:
            yield (
                "model",
                f"unknown preset {self.model!r}{suggest(self.model, PRESETS)}; there are {', '.join(PRESETS)}",
            )
            return
        shape = self.shape
        if shape.hidden_size % shape.num_heads:
            yield "num_heads", f"{shape.num_heads} heads do not divide hidden_size {shape.hidden_size}"
        elif shape.architecture in ("gpt_neox", "llama") and shape.hidden_size // shape.num_heads % 2:
            yield (
                "num_heads",
                f"a head is {shape.hidden_size // shape.num_heads} wide; rotary positions need an even width",
            )
        if shape.is_encoder and not shape.tie_embeddings:
            yield "tie_embeddings", "a BERT has one matrix for both; remove it"
        if shape.architecture == "llama" and self.dropout:
            yield "dropout", "transformers' Llama has no residual dropout; set 0 or take a gpt2 or neox preset"

    @property
    def shape(self) -> Shape:
        """The preset with the values given instead of its own."""
        names = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions", "tie_embeddings")
        return replace(PRESETS[self.model], **{n: getattr(self, n) for n in names if getattr(self, n) is not None})
