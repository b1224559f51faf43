"""What data needs of a tokenizer, in one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jpllm.tokenizer import load

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class CorpusEncoder:
    """Encodes corpora and says what its ids depend on.

    Attributes:
        encode: texts → one int32 id array each, without special tokens.
        eos_token_id: to be written once after each document.
        vocab_size: all ids are below it.
        fingerprint: changes whenever an id would.
    """

    encode: Callable[[list[str]], list[np.ndarray]]
    eos_token_id: int
    vocab_size: int
    fingerprint: str


def corpus_encoder(tokenizer: PreTrainedTokenizerFast, path: str | Path) -> CorpusEncoder:
    """The fastest exact encoder of a tokenizer that was loaded from `path`."""
    return CorpusEncoder(
        encode=load.corpus_encoder(tokenizer, path),
        eos_token_id=tokenizer.eos_token_id,
        vocab_size=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        fingerprint=load.fingerprint(tokenizer),
    )
