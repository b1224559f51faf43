"""What the pieces of a tokenizer spell, and which bytes only Japanese text has."""

from __future__ import annotations

import codecs
import re
import typing

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# CJK punctuation and kana; phonetic extensions, enclosed and squared forms, kanji; compatibility kanji; full-width and
# half-width forms; rarer kanji.
_JAPANESE_RANGES = ((0x3000, 0x30FF), (0x31F0, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF))
_JAPANESE_RANGES += ((0x20000, 0x3FFFF),)
_CHARACTERS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _JAPANESE_RANGES)
JAPANESE = re.compile(f"[{_CHARACTERS}]+")
# Kana, kanji and the marks that stand among them, as the inside of a character class.
LETTERS = "\u3005-\u3007\u3031-\u3035\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
LETTERS += "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_characters() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    A byte that prints in Latin-1 stands for itself, the others for the characters from U+0100 on.
    Source: Radford et al. 2019, https://github.com/openai/gpt-2, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_characters()
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


def is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """True where the vocabulary is written in bytes, as GPT-2's is."""
    return b'"ByteLevel"' in _decoder_state(tokenizer)


def piece_bytes(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """The UTF-8 bytes that each id stands for in a text, a beginning or rest of a character among them.

    Special tokens are left out, and so are pieces of a byte-level vocabulary that are not written in bytes.
    """
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items() if index not in special}
    if is_byte_level(tokenizer):
        spelled = {index: [BYTE_OF_CHARACTER.get(one) for one in piece] for index, piece in pieces.items()}
        return {index: bytes(content) for index, content in spelled.items() if None not in content}
    spells_bytes = b'"ByteFallback"' in _decoder_state(tokenizer)
    return {index: _sentencepiece_bytes(piece, spells_bytes) for index, piece in pieces.items()}


def byte_piece_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of pieces that are no whole characters: `<0xE3>`, or parts of characters in a byte-level vocabulary.

    A piece of one ASCII byte counts where it is written `<0x41>`.
    """
    vocabulary = tokenizer.get_vocab()
    if not is_byte_level(tokenizer):
        spells_bytes = b'"ByteFallback"' in _decoder_state(tokenizer)
        return [index for piece, index in vocabulary.items() if spells_bytes and _BYTE_PIECE.fullmatch(piece)]
    return [index for index, content in piece_bytes(tokenizer).items() if whole_characters(content) is None]


def whole_characters(content: bytes) -> str | None:
    """The text that the bytes are, or None where a character is not whole."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def is_japanese(content: bytes) -> bool:
    """True for whole Japanese characters, and for the beginning of one character that can only become Japanese.

    No text without Japanese characters contains such bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(content)
    except UnicodeDecodeError:
        return False
    beginning = decoder.getstate()[0]
    if text:
        return not beginning and JAPANESE.fullmatch(text) is not None
    return _must_become_japanese(beginning)


def _decoder_state(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """The settings of the decoder as JSON."""
    decoder = tokenizer.backend_tokenizer.decoder
    return b"" if decoder is None else decoder.__getstate__()


def _must_become_japanese(beginning: bytes) -> bool:
    if not beginning:
        return False
    num_missing = (2 if beginning[0] < 0xE0 else 3 if beginning[0] < 0xF0 else 4) - len(beginning)
    try:
        first, last = (ord((beginning + byte * num_missing).decode()) for byte in (b"\x80", b"\xbf"))
    except UnicodeDecodeError:
        return False
    return any(low <= first and last <= high for low, high in _JAPANESE_RANGES)


def _sentencepiece_bytes(piece: str, spells_bytes: bool) -> bytes:
    if spells_bytes and (match := _BYTE_PIECE.fullmatch(piece)):
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()
