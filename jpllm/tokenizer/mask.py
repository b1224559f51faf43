"""The mask token that a masked language model fills in."""

from __future__ import annotations

import typing

from jpllm.runtime import InputError

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MASK_TOKEN = "[MASK]"


def ensure_mask_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a tokenizer without a mask token one, `[MASK]`, with a new id behind all others; no old id changes.

    From then on special tokens in a text are what they spell, or nobody could write a gap. Corpora are as before: their
    encoder (`corpus_encoder`) never gives a special id.

    Raises:
        InputError: `[MASK]` stands for something else already, or the vocabulary has gaps that it would fall into.
    """
    from tokenizers import AddedToken

    tokenizer.split_special_tokens = False
    if tokenizer.mask_token_id is not None:
        return
    old = tokenizer.get_vocab()
    if MASK_TOKEN in old:
        raise InputError(
            f"tokenizer: {MASK_TOKEN} is in its vocabulary, but not as its mask token; if it is meant as that, write "
            f'"mask_token": "{MASK_TOKEN}" into tokenizer_config.json'
        )
    tokenizer.add_special_tokens({"mask_token": AddedToken(MASK_TOKEN, special=True, normalized=False)})
    if tokenizer.mask_token_id <= max(old.values()):
        raise InputError(
            f"tokenizer: its ids have gaps, and {MASK_TOKEN} would get the id {tokenizer.mask_token_id:,} in between; "
            "take a tokenizer that has a mask token"
        )
