"""Read from a tokenizer which special tokens it writes around a text: none, a BOS, an EOS, or both.

A model was trained on documents that begin and end as its tokenizer writes them. Llama, Gemma and Mistral have a BOS in
front of every document, and without it Gemma's perplexity is worse by orders of magnitude (EleutherAI's
lm-evaluation-harness, pull request 1465); GPT-2 and Qwen have none; llm-jp's ver2.2 writes an EOS behind every text.
The flags of a tokenizer's configuration do not say it (transformers 5 reads some and passes over others), so a text is
encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jpllm.runtime import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXT = "a"


@dataclass(frozen=True)
class DocumentTokens:
    """What a tokenizer writes around a text.

    Attributes:
        bos_token_id: the id in front of every text; None where there is none. It may be that of the EOS, as in OPT.
        has_eos: whether the EOS stands behind every text.
    """

    bos_token_id: int | None
    has_eos: bool
    eos_token_id: int | None

    @property
    def document_bos_token_id(self) -> int | None:
        """The id that documents begin with in a corpus; None where the EOS before a document is its BOS too."""
        return None if self.bos_token_id == self.eos_token_id else self.bos_token_id


def document_tokens(tokenizer: PreTrainedTokenizerBase) -> DocumentTokens:
    """Return what the tokenizer writes around a text.

    Raises:
        InputError: it writes several tokens in front, or something else than its EOS behind.
    """
    plain, whole = (tokenizer(_TEXT, add_special_tokens=added)["input_ids"] for added in (False, True))
    start = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    before, behind = whole[:start], whole[start + len(plain) :]
    if len(before) > 1 or behind not in ([], [tokenizer.eos_token_id]):
        written = " ".join(map(str, tokenizer.convert_ids_to_tokens(whole)))
        raise InputError(
            f"tokenizer: it writes the text {_TEXT!r} as {written}; jpllm knows documents with one token in front and "
            f"the EOS ({tokenizer.eos_token}) behind; set eos_token in tokenizer_config.json, or take another one"
        )
    return DocumentTokens(before[0] if before else None, bool(behind), tokenizer.eos_token_id)
