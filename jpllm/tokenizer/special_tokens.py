"""Give a tokenizer the special tokens that a kind of training needs, and say which tokens are special and end answers.

A new token gets an id behind all others, so no old id changes.
"""

from __future__ import annotations

import typing

from jpllm.runtime import InputError
from jpllm.tokenizer.document_tokens import document_tokens

if typing.TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD_TOKEN = "<pad>"
MASK_TOKEN = "[MASK]"


def ensure_pad_token(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Make sure that the tokenizer has a padding token that is nothing else; a missing one becomes `<pad>`.

    A padding token that is also the EOS (or the BOS, or the unknown token) does not count: padding is left out of the
    loss, and the EOS would be left out with it, so that no model would learn where a text ends.

    Returns:
        Whether the id is new, so that the model needs a row for it (`jpllm.models.resize`).

    Raises:
        InputError: the vocabulary has gaps that the new id would fall into.
    """
    others = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in others:
        return False
    if PAD_TOKEN in tokenizer.get_vocab():  # it is there, and only not named as the padding token
        tokenizer.pad_token = PAD_TOKEN
        return False
    _add_behind_all("pad_token", PAD_TOKEN, "padding token", tokenizer)
    return True


def ensure_mask_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make sure that the tokenizer has a mask token, which a masked language model fills in; a new one is `[MASK]`.

    From then on a special token that is typed in a text becomes its id, or nobody could write a gap. Corpora are
    encoded as before: their encoder (`corpus_encoder`) never gives a special id.

    Raises:
        InputError: `[MASK]` stands for something else already, or the vocabulary has gaps that it would fall into.
    """
    tokenizer.split_special_tokens = False
    if tokenizer.mask_token_id is not None:
        return
    if MASK_TOKEN in tokenizer.get_vocab():
        raise InputError(
            f"tokenizer: {MASK_TOKEN} is in its vocabulary, but not as its mask token; if it is meant as that, write "
            f'"mask_token": "{MASK_TOKEN}" into tokenizer_config.json'
        )
    _add_behind_all("mask_token", MASK_TOKEN, "mask token", tokenizer)


def mark_boundaries(tokenizer: PreTrainedTokenizerFast, at_beginning: bool) -> None:
    """Make the tokenizer write its EOS between the two texts of a pair, and with `at_beginning` before the first text.

    A place where it writes special tokens already, as BERT's does, stays as it is. Control strings that are typed in a
    text are encoded as text from then on. All of this is saved with the tokenizer, so `tokenizer(text, text_pair)`
    gives the same ids wherever it is loaded.

    Raises:
        InputError: the tokenizer would have to write an EOS, and has none.
    """
    from tokenizers.processors import TemplateProcessing

    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    around, places = document_tokens(tokenizer), tokenizer("a", "b").sequence_ids()
    before, behind = list(around.before), list(around.behind)
    is_separated = None in places[places.index(0) : places.index(1)]
    if is_separated and (before or not at_beginning):
        return
    if tokenizer.eos_token_id is None:
        raise InputError("tokenizer: it has no EOS token to part texts by; set eos_token in tokenizer_config.json")
    if at_beginning and not before:
        before = [tokenizer.eos_token_id]
    begin, between, end = (
        tokenizer.convert_ids_to_tokens(ids) for ids in (before, behind or [tokenizer.eos_token_id], behind)
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*begin, "$A:0", *end],
        pair=[*begin, "$A:0", *between, "$B:1", *end],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in {*begin, *between, *end}],
    )


def special_ids(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """Return the ids of all special tokens, also of those without a name of their own, such as the ends of turns."""
    added = tokenizer.added_tokens_decoder.items()
    return {index for index, token in added if token.special} | set(tokenizer.all_special_ids)


def listed(setting: int | list[int] | None) -> list[int]:
    """Return the ids that a setting such as `eos_token_id` names: one, several or none."""
    return [] if setting is None else list(setting) if isinstance(setting, list) else [setting]


def end_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[int]:
    """Return the ids that end an answer: the tokenizer's EOS, and those that the model's generation settings name.

    A single one in the settings that the configuration has too is no word of the publisher: it may be the default of
    the architecture.
    """
    settings = model.generation_config
    own = settings.eos_token_id if settings else None
    if not isinstance(own, list):
        default = getattr(model.config.get_text_config(), "eos_token_id", None)
        own = [] if own in (None, default) else [own]
    return list(dict.fromkeys([tokenizer.eos_token_id, *own]))


def record_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, document_eos_token_id: int) -> None:
    """Note in the model's generation settings that the tokenizer's EOS ends answers, where it did not end documents.

    What ended a text before goes on doing so.
    """
    if tokenizer.eos_token_id != document_eos_token_id and model.generation_config:
        ends = dict.fromkeys([*end_ids(tokenizer, model), document_eos_token_id])
        model.generation_config.eos_token_id = list(ends)


def _add_behind_all(key: str, token: str, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import AddedToken

    last = max(tokenizer.get_vocab().values())
    tokenizer.add_special_tokens({key: AddedToken(token, special=True, normalized=False)})
    new_id = tokenizer.get_vocab()[token]
    if new_id <= last:
        raise InputError(
            f"tokenizer: its ids have gaps, and {token} would get the id {new_id:,} in between; "
            f"take a tokenizer that has a {name}"
        )
