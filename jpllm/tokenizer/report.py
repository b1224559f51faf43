"""Compare tokenizers on the same texts, one column each: how short text becomes, and what the pieces are."""

from __future__ import annotations

import re
import typing
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from jpllm import markdown, terminal
from jpllm.tokenizer.encoder import corpus_encode
from jpllm.tokenizer.pieces import JAPANESE, JOYO_KANJI, LETTERS, byte_piece_ids, piece_bytes, whole_characters

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from transformers import PreTrainedTokenizerFast

DEFAULT_MAX_CHARACTERS = 1_000_000
NUMBERS = ("2026", "12345", "3.14")
WHITE_SPACE = {
    "newline": "あ\nあ",
    "two newlines": "あ\n\nあ",
    "tab": "あ\tあ",
    "two spaces": "a  b",
    "leading spaces": "  a",
    "U+3000": "\u3000あ",
}
_NUM_EXAMPLES = 5
_SCRIPTS = {
    "Japanese": re.compile(f"[{LETTERS}]"),
    "digits": re.compile(r"\d"),
    "other letters": re.compile(rf"[^\W\d_{LETTERS}]"),
    "punctuation": re.compile(rf"(?![{LETTERS}])[^\w\s]|_"),
}


def sample(texts: Iterable[str], max_characters: int = DEFAULT_MAX_CHARACTERS) -> list[str]:
    """Return the first documents, cut off at `max_characters` characters in all; no further document is read."""
    chosen: list[str] = []
    num_left = max_characters
    for text in texts:
        if text:
            chosen.append(text[:num_left])
            num_left -= len(text)
        if num_left <= 0:
            break
    return chosen


def describe(tokenizer: PreTrainedTokenizerFast, path: str, texts: Sequence[str]) -> dict[str, int | float | str]:
    """Measure what a tokenizer, loaded from `path`, makes of the texts; return the values by name of the measure.

    Shares are between 0 and 1. A byte piece is one that is not whole characters, such as `<0xE3>`; a mixed piece has
    two of: Japanese, other letters, digits, punctuation. A round trip is exact if decoding gives the text back, and is
    compared again with NFKC on both sides, for tokenizers that normalize text. A kanji of the Jōyō table counts
    if it is a piece in the form of the table (塡 剝 頰 𠮟).
    """
    encode = corpus_encode(tokenizer, path)
    encoded = encode(list(texts))
    contents = piece_bytes(tokenizer)
    return {
        "vocabulary": len(tokenizer.get_vocab()),
        **_lengths(tokenizer, encoded, texts),
        **_round_trips(tokenizer, encoded, texts),
        "white space kept": ", ".join(_kept_white_space(tokenizer, encode)) or "none",
        **_pieces(contents),
        **{f"{number} is cut": _cut(encode([number])[0], contents) for number in NUMBERS},
    }


def rows(columns: Mapping[str, Mapping[str, int | float | str]]) -> list[dict[str, int | float | str]]:
    """Return one row per measure (its name is `measure`), from the result of `describe` for each tokenizer by name."""
    measures = next(iter(columns.values()))
    return [{"measure": measure, **{name: column[measure] for name, column in columns.items()}} for measure in measures]


def markdown_table(table: Sequence[Mapping[str, int | float | str]]) -> str:
    """Return the rows as a Markdown table."""
    return markdown.table(list(table[0]), _texts(table), are_numbers=True)


def show(table: Sequence[Mapping[str, int | float | str]]) -> None:
    """Print the rows to stdout: a table as wide as the terminal, or Markdown where there is none."""
    console = terminal.console()
    if console.is_terminal:
        console.print(markdown.terminal_table(list(table[0]), _texts(table)))
    else:
        terminal.write(markdown_table(table), end="")


def _lengths(tokenizer: PreTrainedTokenizerFast, encoded: Sequence[np.ndarray], texts: Sequence[str]) -> dict:
    import numpy as np

    ids = np.concatenate([np.zeros(0, np.int64), *encoded])
    num_tokens = max(len(ids), 1)
    num_bytes = sum(len(text.encode(errors="ignore")) for text in texts)
    is_unknown = ids == (-1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id)
    return {
        "tokens": len(ids),
        "characters per token": sum(map(len, texts)) / num_tokens,
        "UTF-8 bytes per token": num_bytes / num_tokens,
        "byte pieces, share of tokens": float(np.isin(ids, byte_piece_ids(tokenizer)).sum()) / num_tokens,
        "unknown tokens": int(is_unknown.sum()),
    }


def _round_trips(tokenizer: PreTrainedTokenizerFast, encoded: Sequence[np.ndarray], texts: Sequence[str]) -> dict:
    decoded = [str(tokenizer.decode(ids)) for ids in encoded]
    pairs = list(zip(texts, decoded, strict=True))
    normalized = ([unicodedata.normalize("NFKC", one) for one in pair] for pair in pairs)
    num_documents = max(len(pairs), 1)
    return {
        "exact round trips, share of documents": sum(one == other for one, other in pairs) / num_documents,
        "exact after NFKC": sum(one == other for one, other in normalized) / num_documents,
    }


def _kept_white_space(tokenizer: PreTrainedTokenizerFast, encode: Callable) -> list[str]:
    ids = encode(list(WHITE_SPACE.values()))
    return [name for (name, text), one in zip(WHITE_SPACE.items(), ids, strict=True) if tokenizer.decode(one) == text]


def _pieces(contents: Mapping[int, bytes]) -> dict:
    """Measure what depends on the vocabulary alone, and not on texts."""
    texts = {text.removeprefix(" ") for text in map(whole_characters, contents.values()) if text is not None}
    mixed = [text for text in texts if sum(script.search(text) is not None for script in _SCRIPTS.values()) > 1]
    runs = {text for text in texts if len(text) > 1 and len(set(text)) == 1}
    return {
        f"Jōyō kanji of {len(JOYO_KANJI):,}": sum(kanji in texts for kanji in JOYO_KANJI),
        "mixed pieces": len(mixed),
        "longest mixed pieces": _examples(mixed),
        "longest Japanese pieces": _examples(text for text in texts - runs if JAPANESE.fullmatch(text)),
        "longest pieces": _examples(texts - runs),
        "longest runs of one character": _examples(runs),
        "most digits in a piece": max((len(text) for text in texts if re.fullmatch("[0-9]+", text)), default=0),
    }


def _examples(texts: Iterable[str]) -> str:
    """Return the longest texts with their lengths in characters; a run of one character is written `―×16`."""
    longest = sorted(texts, key=lambda text: (-len(text), text))[:_NUM_EXAMPLES]
    shown = (
        f"{_visible(text[0])}×{len(text)}" if len(set(text)) == 1 < len(text) else f"{_visible(text)} ({len(text)})"
        for text in longest
    )
    return ", ".join(shown) or "none"


def _visible(text: str) -> str:
    """Return the text on one line, with characters that cannot be seen written as escapes."""
    shown = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return "".join(shown).replace(" ", "␣")


def _cut(ids: Iterable[int], contents: Mapping[int, bytes]) -> str:
    return "·".join(contents.get(int(index), b"?").decode(errors="replace").strip() for index in ids).strip("·")


def _texts(table: Sequence[Mapping[str, int | float | str]]) -> list[list[str]]:
    return [list(map(_cell, row.values())) for row in table]


def _cell(value: int | float | str) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    return f"{value:,}" if isinstance(value, int) else value
