"""The vocabulary of a tokenizer as a GGUF file holds it, for llama.cpp's own tokenizers.

llama.cpp does not run a tokenizer.json: it has one tokenizer for each kind of vocabulary, with a few switches. What
none of them does is refused, with the reason; that the rest gives equal ids is for a proof on the finished file to say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from jpllm.runtime import InputError
from jpllm.sharing.gguf.cuts import name_of_cuts
from jpllm.tokenizer.document_tokens import document_tokens
from jpllm.tokenizer.load import sentencepiece_file
from jpllm.tokenizer.model_file import BPE, NORMAL, UNIGRAM, SentencePieceModel, read_model
from jpllm.tokenizer.pieces import is_byte_level

if TYPE_CHECKING:
    from pathlib import Path

    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerFast

_UNUSED_SCORE = -1e6
_UNIGRAM_MODEL = "t5"
SURVIVING = "jpllm tokenizer train --model_type bpe --normalization identity"  # as an advice in messages
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6  # kinds of pieces, numbered as SentencePiece does
_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_PREFIX = {"type": "Prepend", "prepend": "▁"}


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
    elif model_file := sentencepiece_file(folder):
        found = _sentencepiece(tokenizer, read_model(model_file), num_ids)
    elif state["model"]["type"] == "BPE" and state["model"]["byte_fallback"]:
        found = _bpe_with_bytes(tokenizer, state, num_ids)
    else:
        raise InputError(
            f"the tokenizer is neither BPE with bytes nor one with a SentencePiece model beside it, but "
            f"{state['model']['type']}; llama.cpp has no tokenizer for it"
        )
    found.settings.update(_special_ids(tokenizer))
    if tokenizer.chat_template:
        found.settings["chat_template"] = tokenizer.get_chat_template()
    return found


def add_ends(found: Vocabulary, ends: Sequence[int]) -> None:
    """Note the id that ends a turn, where a model's defaults of `generate` end at more than the end of a text."""
    others = [index for index in ends if index != found.settings.get("eos_token_id")]
    if others:
        found.settings["eot_token_id"] = others[0]


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
    name = name_of_cuts(state)
    normalizer = (state["normalizer"] or {"type": None})["type"]
    if normalizer not in (None, "NFC"):  # most texts are in NFC, and the proof counts those that are not
        raise InputError(
            f"the tokenizer rewrites texts before it cuts them ({normalizer}), which llama.cpp does not do for "
            "byte-level BPE"
        )
    pieces, kinds = _pieces(tokenizer, num_ids)
    return Vocabulary("gpt2", pieces, kinds, None, [" ".join(pair) for pair in _merges(state)], {"pre": name})


def _bpe_with_bytes(tokenizer: PreTrainedTokenizerFast, state: dict, num_ids: int) -> Vocabulary:
    """Return a SentencePiece BPE vocabulary of which only the tokenizer.json is left, as Gemma and Mistral have it.

    SentencePiece joins the pair whose piece has the highest score, a tokenizer.json that of the earliest merge.
    """
    pieces, kinds = _pieces(tokenizer, num_ids)
    ids = {piece: index for index, piece in enumerate(pieces)}
    scores = [_UNUSED_SCORE] * num_ids
    for rank, pair in enumerate(_merges(state)):
        index = ids["".join(pair)]
        scores[index] = max(scores[index], -float(rank))
    for byte in range(256):
        if (index := ids.get(f"<0x{byte:02X}>")) is not None:
            kinds[index] = _BYTE
    unknown = state["model"]["unk_token"]
    if unknown is None:
        raise InputError("the tokenizer has no piece for what is unknown, which llama.cpp needs")
    kinds[ids[unknown]] = _UNKNOWN
    settings = {"add_space_prefix": _has_prefix(state), "unknown_token_id": ids[unknown]}
    return Vocabulary("llama", pieces, kinds, scores, None, settings)


def _has_prefix(state: dict) -> bool:
    """Return whether a text gets a space in front.

    Raises:
        InputError: something else is done to texts than spaces and that prefix.
    """
    steps = [state["normalizer"], state["pre_tokenizer"]]
    steps = [step for whole in steps if whole for step in whole.get("normalizers", whole.get("pretokenizers", [whole]))]
    marks = [step.get("prepend_scheme") for step in steps if step["type"] == "Metaspace"]
    rest = [step for step in steps if step["type"] != "Metaspace" and step not in (_SPACE, _PREFIX)]
    # cutting at a space does nothing where all spaces have become ▁ before
    rest = [step for step in rest if not (step["type"] == "Split" and step["pattern"] == {"String": " "})]
    if rest:
        raise InputError(
            f"the tokenizer rewrites or cuts texts by {[step['type'] for step in rest]}, which llama.cpp does not do "
            "for SentencePiece BPE"
        )
    return _PREFIX in steps or any(mark != "never" for mark in marks)


def _merges(state: dict) -> list[list[str]]:
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in state["model"]["merges"]]


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
