"""Read and write the file of a SentencePiece model, which is a protocol buffer message.

SentencePiece's own reader of its format would need the package protobuf.
"""

from __future__ import annotations

import struct
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from jpllm.runtime import InputError

if typing.TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
_SCORE_GRID = 2.0**-9


def read_model(model_file: Path) -> SentencePieceModel:
    """Read a SentencePiece model.

    Raises:
        InputError: the file is missing, or is no SentencePiece model.
    """
    from sentencepiece import SentencePieceProcessor

    if not model_file.is_file():
        raise InputError(f"{model_file}: no such file; name a SentencePiece model (.model)")
    content = model_file.read_bytes()
    try:
        if not content:
            raise ValueError("it is empty")
        return SentencePieceModel(content, SentencePieceProcessor(model_proto=content))
    except (RuntimeError, struct.error, IndexError, ValueError, KeyError) as error:
        raise InputError(f"{model_file}: not a SentencePiece model ({error})") from error


def message_fields(message: bytes) -> Iterator[tuple[int, typing.Any]]:
    """Yield (number, value) of each field of a protocol buffer message; the value is an integer, a float or bytes.

    Source: https://protobuf.dev/programming-guides/encoding/.
    """
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        number, wire_type = divmod(varint(), 8)
        if wire_type == 0:
            yield number, varint()
            continue
        num_bytes = varint() if wire_type == 2 else {1: 8, 5: 4}[wire_type]
        value = message[position : position + num_bytes]
        position += num_bytes
        yield number, struct.unpack("<f", value)[0] if wire_type == 5 else value


class _Piece(typing.NamedTuple):
    text: str
    score: float
    kind: int


class SentencePieceModel:
    """Hold what a conversion needs of a model; field numbers and defaults are those of sentencepiece_model.proto."""

    def __init__(self, content: bytes, processor: SentencePieceProcessor) -> None:
        messages: dict[int, list[dict]] = {1: [], 2: [{}], 3: [{}], 5: [{}]}
        for number, value in message_fields(content):
            messages.setdefault(number, []).append(dict(message_fields(value)))
        trainer, normalizer, denormalizer = (messages[number][-1] for number in (2, 3, 5))
        self.pieces = [_Piece(one[1].decode(), one.get(2, 0.0), one.get(3, NORMAL)) for one in messages[1]]
        self.algorithm = trainer.get(3, UNIGRAM)
        self.has_suffix_spaces = bool(trainer.get(24, 0))
        self.charsmap = normalizer.get(2, b"")
        self.rule = normalizer.get(1, b"").decode() if self.charsmap else "identity"
        self.has_nmt_rule = self.rule.startswith("nmt_")
        self.has_dummy_prefix = bool(normalizer.get(3, 1))
        self.removes_extra_spaces = bool(normalizer.get(4, 1))
        self.escapes_spaces = bool(normalizer.get(5, 1))
        self.has_denormalizer = bool(denormalizer.get(2))
        self.has_bytes = any(piece.kind == BYTE for piece in self.pieces)
        ids = {name: getattr(processor, f"{name}_id")() for name in ("unk", "bos", "eos", "pad")}
        self.unk_id = ids["unk"]
        self.special_tokens = {f"{name}_token": self.pieces[i].text for name, i in ids.items() if i >= 0}


def with_pieces(content: bytes, num_pieces: int, pieces: Iterable[tuple[str, float]]) -> bytes:
    """Return the model file with pieces added and its own count of them (trainer_spec.vocab_size) set.

    A repeated field of a protocol buffer message is continued by what is appended, and the last value of a single one
    counts. Source: https://protobuf.dev/programming-guides/encoding/, sentencepiece_model.proto.
    """
    fields = [
        (number, value + b"\x20" + _varint(num_pieces) if number == 2 else value)
        for number, value in message_fields(content)
    ]
    fields += ((1, _piece_message(piece.encode(), score)) for piece, score in pieces)
    return b"".join(_delimited(number, value) for number, value in fields)


def with_exact_scores(content: bytes) -> bytes:
    """Return the file of a unigram model with scores whose sums are exact in 32 bits up to 32,768, some 4,000 tokens.

    Where two segmentations of a text have the same pieces in another order, rounding decides between them, and it
    differs between SentencePiece, which adds in 32 bits, and tokenizers, which adds in 64. So scores become multiples
    of 2^-9, and user-defined characters, to whose score SentencePiece adds -0.1 when it encodes, become ordinary
    pieces: no other piece has them, so they are cut as before.
    """
    pieces = [dict(message_fields(value)) for number, value in message_fields(content) if number == 1]
    highest = max(one[2] for one in pieces if one.get(3, NORMAL) == NORMAL)
    fields = []
    for number, value in message_fields(content):
        if number == 1:
            piece = dict(message_fields(value))
            text, score, kind = piece[1], piece.get(2, 0.0), piece.get(3, NORMAL)
            if kind == USER_DEFINED and len(text.decode()) == 1:
                score, kind = highest, NORMAL
            value = _piece_message(text, round(score / _SCORE_GRID) * _SCORE_GRID, kind)
        fields.append((number, value))
    return b"".join(_delimited(number, value) for number, value in fields)


def without_paths(content: bytes) -> bytes:
    """Return the model file without the names of the files that it was trained on and written to."""
    fields = []
    for number, value in message_fields(content):
        if number == 2:
            kept = (field for field in message_fields(value) if field[0] not in (1, 2))  # input, model_prefix
            value = b"".join(_field(*field) for field in kept)
        fields.append((number, value))
    return b"".join(_delimited(number, value) for number, value in fields)


def _field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, bytes):
        return _delimited(number, value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    return _varint(number << 3) + _varint(value)


def _piece_message(text: bytes, score: float, kind: int = NORMAL) -> bytes:
    kind_field = b"" if kind == NORMAL else b"\x18" + _varint(kind)
    return _delimited(1, text) + b"\x15" + struct.pack("<f", score) + kind_field


def _delimited(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
