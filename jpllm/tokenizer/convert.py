"""Convert a SentencePiece model into a folder that `AutoTokenizer` loads, with the same ids.

Two things keep a typed `</s>` or `<0x0A>` from becoming a control or byte id, which SentencePiece never does:
the folder's default is `split_special_tokens`, and in a unigram vocabulary the reserved pieces score so low that
spelling them out always wins. A caller that writes special tokens into its text, as chat templates do, passes
`split_special_tokens=False`.

Two harmless differences remain (`proof.first_difference` knows them). SentencePiece adds scores in 32 bits, tokenizers
in 64, so they may choose differently between segmentations of equal score, as in a long run of one character. And
where a letter has several combining marks, tokenizers' NFKC sorts the marks, SentencePiece leaves them as typed.
"""

from __future__ import annotations

import json
import shutil
import typing
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from jpllm import runtime
from jpllm.runtime import InputError
from jpllm.tokenizer.load import MODEL_FILE_NAME
from jpllm.tokenizer.model_file import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_model,
)
from jpllm.tokenizer.proof import NASTY_STRINGS, verify

if typing.TYPE_CHECKING:
    from tokenizers import Tokenizer, models
    from tokenizers.normalizers import Normalizer

_RESERVED = (UNKNOWN, CONTROL, BYTE)
_NFKC_RULES = ("nfkc", "nfkc_cf", "nmt_nfkc", "nmt_nfkc_cf")
_HIDDEN_PREFIX, _HIDDEN_TILDE = "\U0001fffe", "\U0001ffff"  # noncharacters: no text has them


def convert(model_file: Path, output_dir: Path, proof_texts: Iterable[str] = ()) -> None:
    """Write a tokenizer folder with the model's ids; the model itself goes with it as `tokenizer.model`.

    The folder appears complete or not at all, after `verify` has passed on NASTY_STRINGS and `proof_texts`.

    Raises:
        InputError: the file is no SentencePiece model, the model uses what cannot be reproduced exactly, or
            `output_dir` is in use.
    """
    from transformers import PreTrainedTokenizerFast

    runtime.refuse_used(output_dir)
    model = read_model(model_file)
    if problems := list(_problems(model)):
        raise InputError(f"{model_file}: cannot be converted exactly: {'; '.join(problems)}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(model),
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **model.special_tokens,
    )
    with runtime.new_folder(output_dir) as folder:
        tokenizer.save_pretrained(folder)
        _name_portable_class(folder / "tokenizer_config.json")
        shutil.copyfile(model_file, folder / MODEL_FILE_NAME)
        verify(folder, chain(NASTY_STRINGS, proof_texts))


def _problems(model: SentencePieceModel) -> Iterator[str]:
    """Yield a sentence for each thing that the model uses and the conversion does not reproduce."""
    if model.algorithm not in (UNIGRAM, BPE):
        yield "its model_type is not unigram or bpe"
    if model.rule not in ("identity", *_NFKC_RULES):
        yield f"its normalization rule {model.rule!r} is not one of identity, {', '.join(_NFKC_RULES)}"
    if model.has_suffix_spaces or not model.escapes_spaces or model.has_denormalizer:
        yield "it treats white space as a suffix, does not escape it, or has a denormalizer"
    if any(piece.kind == UNUSED for piece in model.pieces):
        yield "it has unused pieces"
    normalizer = _character_normalizer(model)
    for piece in model.pieces:
        if piece.kind == USER_DEFINED:
            is_plain = normalizer.normalize_str(piece.text) == piece.text and not set(piece.text) & set(" ▁")
            if not is_plain or (model.algorithm == BPE and len(piece.text) > 1):
                yield f"its user-defined symbol {piece.text!r} would be normalized, or not be kept whole"
    single = {piece.text for piece in model.pieces if piece.kind not in _RESERVED and len(piece.text) == 1}
    if model.algorithm == UNIGRAM:
        for piece in model.pieces:
            if piece.kind != USER_DEFINED and (missing := set(piece.text) - single):
                yield f"its piece {piece.text!r} has {min(missing)!r}, which is no piece of its own"
                break


def _backend(model: SentencePieceModel) -> Tokenizer:
    """Return the model as a `tokenizers.Tokenizer`, with its control pieces and its unknown piece as special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, normalizers

    backend = Tokenizer(_unigram(model) if model.algorithm == UNIGRAM else _bpe(model))
    rules = [_character_normalizer(model)]
    prefix = ""
    if model.has_dummy_prefix:  # first of all: SentencePiece adds it even if every character is deleted later
        prefix = _HIDDEN_PREFIX if model.has_nmt_rule else "▁"  # the nmt rules map "▁" to a space
        rules.insert(0, normalizers.Prepend(prefix))
    if model.removes_extra_spaces:
        rules += [
            normalizers.Replace(Regex(rf"\A{prefix} +"), prefix),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    rules.append(normalizers.Replace(" ", "▁"))
    if prefix == _HIDDEN_PREFIX:
        rules.append(normalizers.Replace(prefix, "▁"))
    if model.removes_extra_spaces:  # after the escape: SentencePiece strips a "▁" that was typed, too
        rules.append(normalizers.Replace(Regex(r"▁+\z"), ""))
    backend.normalizer = normalizers.Sequence(rules)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.has_dummy_prefix or model.removes_extra_spaces:
        max_leading_spaces = 2**31 if model.removes_extra_spaces else 1
        steps.append(decoders.Strip(" ", max_leading_spaces, 0))
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([piece.text for piece in model.pieces if piece.kind in (UNKNOWN, CONTROL)])
    return backend


def _character_normalizer(model: SentencePieceModel) -> Normalizer:
    """Return the part of SentencePiece's normalizer that maps characters.

    `Precompiled` looks at one grapheme at a time and misses what spans more (カ and a half-width dakuten), so
    NFKC comes first. The nmt rules keep the full-width tilde that NFKC would change.
    """
    from tokenizers import normalizers

    if not model.charsmap:
        return normalizers.Sequence([])
    rules = [normalizers.NFKC(), normalizers.Precompiled(model.charsmap)]
    if model.has_nmt_rule:
        split = normalizers.Replace("\r\n", "  ")  # one grapheme, of which `Precompiled` would keep one half
        hide, show = normalizers.Replace("～", _HIDDEN_TILDE), normalizers.Replace(_HIDDEN_TILDE, "～")
        rules = [split, hide, *rules, show]
    return normalizers.Sequence(rules)


def _unigram(model: SentencePieceModel) -> models.Unigram:
    from tokenizers import models

    normal_scores = [piece.score for piece in model.pieces if piece.kind == NORMAL]
    max_reserved_characters = max(len(piece.text) for piece in model.pieces if piece.kind in _RESERVED)
    reserved_score = (max_reserved_characters + 1) * min(*normal_scores, -1.0)  # spelling it out scores more
    vocabulary = []
    for piece in model.pieces:
        score = reserved_score if piece.kind in _RESERVED else piece.score
        if piece.kind == USER_DEFINED:  # the bonus that SentencePiece gives when it encodes
            score = len(piece.text.encode()) * max(normal_scores) - 0.1
        vocabulary.append((piece.text, score))
    return models.Unigram(vocabulary, model.unk_id, byte_fallback=model.has_bytes)


def _bpe(model: SentencePieceModel) -> models.BPE:
    """Return a BPE that merges any two neighbours whose union is a piece, the union with the best score first."""
    from tokenizers import models

    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    merges = [
        (text[:middle], text[middle:])
        for text in sorted(scores, key=scores.__getitem__, reverse=True)
        for middle in range(1, len(text))
        if text[:middle] in scores and text[middle:] in scores
    ]
    ids = {piece.text: index for index, piece in enumerate(model.pieces)}
    unk_piece = model.pieces[model.unk_id].text
    return models.BPE(ids, merges, unk_token=unk_piece, fuse_unk=True, byte_fallback=model.has_bytes)


def _name_portable_class(config_file: Path) -> None:
    """Write the class under a name that transformers 4 knows too; version 5 reads both names alike."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
