"""Choose the Japanese lines that new pieces are learned from, and say where they are too few."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass

from jpllm.config.settings import option
from jpllm.runtime import InputError
from jpllm.tokenizer.pieces import JAPANESE
from jpllm.tokenizer.train import training_lines


@dataclass
class ExtendConfig:
    """New pieces"""

    num_pieces: int = option(8000, "Number of pieces to add.", minimum=1)
    max_piece_characters: int = option(8, "Most characters of a new piece.", minimum=1)
    join_punctuation: bool = option(
        True,
        "Whether a new piece may end in 、 or 。 as in である。; a byte-level BPE then cuts Japanese into words by "
        "another rule, which programs other than tokenizers may not know.",
    )
    max_lines: int = option(
        50_000, "Number of Japanese lines to learn from, drawn evenly from the whole text.", minimum=1
    )
    seed: int = option(0, "Another seed draws other lines, where there are more than max_lines.", minimum=0)


def japanese_lines(texts: Iterable[str], config: ExtendConfig) -> list[str]:
    """Return `max_lines` of the lines with Japanese, each drawn with the same chance.

    Raises:
        InputError: no line has Japanese.
    """
    generator = random.Random(config.seed)
    lines = (line for line in training_lines(texts) if JAPANESE.search(line))
    drawn = heapq.nsmallest(config.max_lines, lines, key=lambda _: generator.random())
    if not drawn:
        raise InputError("the text to learn new pieces from has no Japanese line")
    return drawn


def refuse_too_few(num_found: int, num_pieces: int) -> None:
    """Raise InputError if the text gave fewer pieces than were asked for."""
    if num_found < num_pieces:
        raise InputError(
            f"num_pieces: the text gives only {num_found:,} new pieces, not {num_pieces:,}; "
            "ask for fewer, raise max_lines or give more text"
        )
