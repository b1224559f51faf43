"""One instruction row in colour: what is given, what is learned, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from jpllm.data.conversations.rows import Row

if TYPE_CHECKING:
    from rich.text import Text


def preview(row: Row, decode: Callable[[Sequence[int]], str]) -> Text:
    """The row as the model reads it; given parts are dim, learned ones green, the end of each answer red.

    `decode` makes text of ids, special ones included.
    """
    from rich.text import Text

    text = Text()
    place = 0
    for learned, group in groupby(row.learned.tolist()):
        size = len(list(group))
        ids = row.ids[place : place + size].tolist()
        place += size
        if learned:
            text.append(decode(ids[:-1]), style="bold green")
            text.append(decode(ids[-1:]), style="bold white on red")
        else:
            text.append(decode(ids), style="dim")
    num_learned = int(row.learned.sum())
    text.append(
        f"\n{row.conversation.place}: {len(row):,} tokens, of which {num_learned:,} are learned (green, and the "
        f"end in red) and {len(row) - num_learned:,} given (dim)"
    )
    return text
