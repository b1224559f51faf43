"""The vocabulary of a tokenizer as a GGUF file holds it, for llama.cpp's own tokenizers.

llama.cpp does not run a tokenizer.json: it has one tokenizer for each kind of vocabulary, with a few switches. What
none of them does is refused, with the reason; that the rest gives equal ids is for a proof on the finished file to say.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from jpllm.runtime import InputError
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.load import sentencepiece_file
from jpllm.tokenizer.model_file import BPE, NORMAL, UNIGRAM, SentencePieceModel, read_model
from jpllm.tokenizer.pieces import is_byte_level

if TYPE_CHECKING:
    from pathlib import Path

    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerFast

# What a tokenizer.json cuts texts at before its merges act → the name of the same in llama.cpp.
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_CUTS = {"gpt-2": [_BYTE_LEVEL], "smollm": [_DIGITS, _BYTE_LEVEL]}
_UNUSED_SCORE = -1e6
_UNIGRAM_MODEL = "t5"
SURVIVING = "jpllm tokenizer train --model_type bpe --normalization identity"  # as an advice in messages
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # kinds of pieces, the same numbers as SentencePiece's


class Vocabulary(NamedTuple):
    """What llama.cpp is told of a tokenizer: pieces by their ids, `settings` by keys below `tokenizer.ggml.`"""

    model: str
    pieces: list[str]
    kinds: list[int]
    scores: list[float] | None
    merges: list[str] | None
    settings: dict[str, str | int | bool | bytes]

    @property
    def has_no_bytes(self) -> bool:
        """Whether llama.cpp makes <unk> of characters without a piece, whatever pieces of bytes there are."""
        return self.model == _UNIGRAM_MODEL


def vocabulary(tokenizer: PreTrainedTokenizerFast, folder: Path, num_ids: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer that was loaded from `folder`, for a model with `num_ids` rows.

    Raises:
        InputError: llama.cpp has no tokenizer for this one; the message says why.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if is_byte_level(tokenizer) and state["model"]["type"] == "BPE":
        found = _byte_level(tokenizer, state, num_ids)
    else:
        model_file = sentencepiece_file(folder)
        if model_file is None:
            raise InputError(
                f"the tokenizer is neither byte-level BPE nor one with a SentencePiece model beside it, but "
                f"{state['model']['type']}; llama.cpp has no tokenizer for it"
            )
        found = _sentencepiece(tokenizer, read_model(model_file), num_ids)
    found.settings.update(_special_ids(tokenizer))
    if tokenizer.chat_template:
        found.settings["chat_template"] = tokenizer.get_chat_template()
    return found


def add_vocabulary(writer: GGUFWriter, found: Vocabulary) -> None:
    """Hand the vocabulary to the writer."""
    writer.add_tokenizer_model(found.model)
    writer.add_token_list(found.pieces)
    writer.add_token_types(found.kinds)
    if found.scores is not None:
        writer.add_token_scores(found.scores)
    if found.merges is not None:
        writer.add_token_merges(found.merges)
    for name, value in found.settings.items():
        if isinstance(value, bytes):
            writer.add_precompiled_charsmap(value)
        elif isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{name}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{name}", value)
        elif name == "chat_template":
            writer.add_chat_template(value)
        else:
            writer.add_string(f"tokenizer.ggml.{name}", value)


def _byte_level(tokenizer: PreTrainedTokenizerFast, state: dict, num_ids: int) -> Vocabulary:
    cuts = state["pre_tokenizer"]
    steps = cuts["pretokenizers"] if cuts["type"] == "Sequence" else [cuts]
    steps = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    name = next((name for name, known in _CUTS.items() if known == steps), None)
    if name is None:
        raise InputError(
            f"the tokenizer cuts texts before its merges by {[step['type'] for step in steps]} with settings that are "
            f"not those of {' or '.join(_CUTS)}, the ones that are converted here"
        )
    if state["normalizer"] is not None:
        raise InputError(
            f"the tokenizer rewrites texts before it cuts them ({state['normalizer']['type']}), which llama.cpp does "
            "not do for byte-level BPE"
        )
    pieces, kinds = _pieces(tokenizer, num_ids)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in state["model"]["merges"]]
    return Vocabulary("gpt2", pieces, kinds, None, merges, {"pre": name})


def _sentencepiece(tokenizer: PreTrainedTokenizerFast, model: SentencePieceModel, num_ids: int) -> Vocabulary:
    if model.algorithm == BPE and model.charsmap:
        raise InputError(
            f"the tokenizer rewrites texts by the rule {model.rule} before it cuts them, which llama.cpp does not do "
            "for SentencePiece BPE: full-width letters, for one, would get other ids. A tokenizer made by "
            f"`{SURVIVING}` has no such rule"
        )
    if model.removes_extra_spaces:
        kind = (
            "does not do for SentencePiece BPE" if model.algorithm == BPE else "does otherwise at the edges of a text"
        )
        raise InputError(
            f"the tokenizer removes extra spaces, which llama.cpp {kind}. A tokenizer made by `{SURVIVING}`, with the "
            "default preset, keeps them"
        )
    pieces, kinds = _pieces(tokenizer, num_ids)
    scores = [_UNUSED_SCORE] * num_ids
    for index, piece in enumerate(model.pieces):
        pieces[index], kinds[index], scores[index] = piece.text, piece.kind, piece.score
    settings = {
        "add_space_prefix": model.has_dummy_prefix,
        "remove_extra_whitespaces": False,
        "unknown_token_id": model.unk_id,
    }
    if model.charsmap:
        settings["precompiled_charsmap"] = model.charsmap
    return Vocabulary(_UNIGRAM_MODEL if model.algorithm == UNIGRAM else "llama", pieces, kinds, scores, None, settings)


def _pieces(tokenizer: PreTrainedTokenizerFast, num_ids: int) -> tuple[list[str], list[int]]:
    """Return text and kind of each id; ids that the tokenizer does not have are unused."""
    pieces = [f"[PAD{index}]" for index in range(num_ids)]
    kinds = [_UNUSED] * num_ids
    for piece, index in tokenizer.get_vocab().items():
        pieces[index], kinds[index] = piece, NORMAL
    for index, token in tokenizer.added_tokens_decoder.items():
        kinds[index] = _CONTROL if token.special else _USER_DEFINED
    return pieces, kinds


def _special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | bool]:
    """Return the ids that have a meaning, and which of them the tokenizer puts around a text by itself.

    Raises:
        InputError: it puts others there.
    """
    names = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
    ids = {key: getattr(tokenizer, f"{name}_token_id") for name, key in names.items()}
    around = document_tokens(tokenizer)
    if around.before not in ((), (tokenizer.bos_token_id,)) or around.behind not in ((), (tokenizer.eos_token_id,)):
        raise InputError(
            f"the tokenizer puts special tokens around a text (ids {around.before} before, {around.behind} behind) "
            "that llama.cpp cannot put there"
        )
    return {
        **{key: index for key, index in ids.items() if index is not None},
        "add_bos_token": bool(around.before),
        "add_eos_token": bool(around.behind),
    }
