"""Read from a tokenizer what it writes around a text: nothing, a BOS in front, an EOS behind, or both.

A model is used to what its tokenizer does: Llama, Gemma and Mistral saw a BOS in front of each document, GPT-2 and Qwen
did not, llm-jp's tokenizer appends the EOS. Here that is read by encoding, for flags and names do not decide it:
`add_bos_token` in tokenizer_config.json has no effect beside a tokenizer.json (transformers 5.23), and the
post-processor that does it has several forms.
"""

from __future__ import annotations

import logging
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jpllm.runtime import InputError

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Habit = Literal["none", "BOS", "EOS", "BOS and EOS"]

_PROBES = ("a", "あ", "1", "。")  # the first of which the tokenizer makes ids
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DocumentTokens:
    """The special ids that a tokenizer writes in front of a single text, and behind it."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @property
    def habit(self) -> Habit:
        """The name of the habit; an id that is written in front counts as BOS, one behind as EOS."""
        if self.before:
            return "BOS and EOS" if self.behind else "BOS"
        return "EOS" if self.behind else "none"


def document_tokens(tokenizer: PreTrainedTokenizerBase) -> DocumentTokens:
    """Return what a tokenizer writes around a single text.

    Raises:
        InputError: it makes no ids of any text that was tried.
    """
    for probe in _PROBES:
        plain, whole = (
            typing.cast("list[int]", tokenizer(probe, add_special_tokens=added)["input_ids"]) for added in (False, True)
        )
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return DocumentTokens(tuple(whole[:start]), tuple(whole[start + len(plain) :]))
    raise InputError(f"the tokenizer makes no ids of {', '.join(map(repr, _PROBES))}; take another one")


def document_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id that documents begin with, or None where the tokenizer writes nothing in front of a text.

    Raises:
        InputError: the tokenizer writes more than one id in front, or another one than its EOS behind: then it cannot
            be told how the model knows a document.
    """
    found = document_tokens(tokenizer)
    if len(found.before) > 1 or found.behind not in ((), (tokenizer.eos_token_id,)):
        names = [
            " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids)))) or "nothing"
            for ids in (found.before, found.behind)
        ]
        raise InputError(
            f"tokenizer: it writes {names[0]} in front of a text and {names[1]} behind it, where a language model's "
            f"writes at most one BOS in front and its EOS ({tokenizer.eos_token}) behind; set eos_token in "
            "tokenizer_config.json to what it writes behind, correct post_processor in tokenizer.json, or take another "
            "tokenizer"
        )
    return found.before[0] if found.before else None


def warn_of_unwritten_bos(tokenizer: PreTrainedTokenizerBase, path: str | Path) -> None:
    """Say where the tokenizer_config.json of `path` asks for a BOS that the tokenizer loaded from it does not write."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    if document_tokens(tokenizer).before:
        return
    if get_tokenizer_config(path, local_files_only=Path(path).is_dir()).get("add_bos_token") is True:
        logger.warning(
            "%s: add_bos_token in tokenizer_config.json is true, but the tokenizer writes no BOS, for the key has no "
            "effect beside a tokenizer.json. If the model was trained with %s in front of each text, add that to "
            "post_processor in tokenizer.json",
            *(path, tokenizer.bos_token),
        )
