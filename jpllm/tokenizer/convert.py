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
import re
import shutil
import typing
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from jpllm import whole_files
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
_HIDDEN_CHARACTERS = [chr(plane << 16 | 0xFFFE | last) for plane in range(2, 17) for last in (0, 1)]


def convert(model_file: Path, output_dir: Path, proof_texts: Iterable[str] = ()) -> None:
    """Write a tokenizer folder with the model's ids; the model itself goes with it as `tokenizer.model`.

    The folder appears complete or not at all, after `verify` has passed on NASTY_STRINGS and `proof_texts`.

    Raises:
        InputError: the file is no SentencePiece model, the model uses what cannot be reproduced exactly, or
            `output_dir` is in use.
    """
    from transformers import PreTrainedTokenizerFast

    whole_files.refuse_used(output_dir)
    model = read_model(model_file)
    if problems := list(_problems(model)):
        raise InputError(
            f"{model_file}: cannot be converted exactly: {'; '.join(problems)}. If the folder that the model was "
            "published in has a tokenizer.json, name that folder as the tokenizer: it needs no conversion"
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(model),
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **model.special_tokens,
    )
    symbols = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    symbol_texts = (text.format(symbol) for symbol in symbols for text in ("{0}", "a{0}{0} {0}b", "\n{0}</s>{0}"))
    with whole_files.new_folder(output_dir) as folder:
        tokenizer.save_pretrained(folder)
        _name_portable_class(folder / "tokenizer_config.json")
        shutil.copyfile(model_file, folder / MODEL_FILE_NAME)
        verify(folder, chain(NASTY_STRINGS, symbol_texts, proof_texts))


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
    symbols = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    if changed := [one for one in symbols if normalizer.normalize_str(one) != one or set(one) & set(" ▁")]:
        yield f"{_named(changed)} would be normalized"
    if model.has_dummy_prefix and (whole := _kept_whole(model)):
        yield f"{_named(whole)} would not follow the space that it puts before each text"
    if model.algorithm == UNIGRAM:
        single, spelled = _single_characters(model), _spelled_otherwise(model)
        for piece in model.pieces:
            missing = set(piece.text) - single
            if missing and piece.kind != USER_DEFINED and piece.text not in spelled:
                yield f"its piece {piece.text!r} has {min(missing)!r}, which is no piece of its own"
                break


def _named(symbols: Sequence[str]) -> str:
    others = f" and {len(symbols) - 1:,} others" if len(symbols) > 1 else ""
    return f"its user-defined symbol {symbols[0]!r}{others}"


def _kept_whole(model: SentencePieceModel) -> list[str]:
    """Return the user-defined symbols that the vocabulary cannot keep whole: those of BPE of several characters."""
    return [
        one.text for one in model.pieces if one.kind == USER_DEFINED and len(one.text) > 1 and model.algorithm == BPE
    ]


def _single_characters(model: SentencePieceModel) -> set[str]:
    return {piece.text for piece in model.pieces if piece.kind not in _RESERVED and len(piece.text) == 1}


def _spelled_otherwise(model: SentencePieceModel) -> dict[str, tuple[str, str]]:
    """Return reserved pieces of a unigram model with a character of theirs, and what to put in its place in a text.

    They have characters that are no piece of their own: a typed `<s>` whose `<` is unknown cannot be spelled out with a
    better score than the reserved piece has. So in such a text something else stands for `<`: the pieces of its bytes,
    or without them a character that no text has, which is unknown too.
    """
    single, found = _single_characters(model), {}
    for piece in model.pieces if model.algorithm == UNIGRAM else ():
        for character in piece.text if piece.kind in _RESERVED else ():
            byte_pieces = [f"<0x{byte:02X}>" for byte in character.encode()] if model.has_bytes else []
            if character not in single and all(set(one) - single for one in byte_pieces):
                found[piece.text] = character, "".join(byte_pieces) or _HIDDEN_CHARACTERS[0]
                break
    used = list(dict.fromkeys(character for character, _ in found.values()))
    return {piece: one for piece, one in found.items() if one[0] in used[: len(_HIDDEN_CHARACTERS)]}


def _spelling_rules(model: SentencePieceModel) -> Iterator[Normalizer]:
    """Yield the rules that put what `_spelled_otherwise` says into a text."""
    from tokenizers import Regex, normalizers

    places: dict[tuple[str, str], list[str]] = {}
    for piece, (character, spelled) in _spelled_otherwise(model).items():
        before, _, behind = map(re.escape, piece.partition(character))
        pattern = (
            f"(?<={before}){re.escape(character)}(?={behind})" if before else f"{re.escape(character)}(?={behind})"
        )
        places.setdefault((character, spelled), []).append(pattern)
    hidden = dict(zip(places, _HIDDEN_CHARACTERS, strict=False))  # at first: what is put in has such characters too
    for place, patterns in places.items():
        yield normalizers.Replace(Regex("|".join(patterns)), hidden[place])
    for place, character in hidden.items():
        yield normalizers.Replace(character, place[1])


def _backend(model: SentencePieceModel) -> Tokenizer:
    """Return the model as a `tokenizers.Tokenizer`, with its control pieces and its unknown piece as special tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers

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
    backend.normalizer = normalizers.Sequence([*rules, *_spelling_rules(model)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.has_dummy_prefix or model.removes_extra_spaces:
        max_leading_spaces = 2**31 if model.removes_extra_spaces else 1
        steps.append(decoders.Strip(" ", max_leading_spaces, 0))
    backend.decoder = decoders.Sequence(steps)
    backend.add_tokens([AddedToken(symbol, special=False, normalized=True) for symbol in _kept_whole(model)])
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
