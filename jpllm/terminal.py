"""The door to the terminal and to reports: what others wrote is shown there, and nothing in it is obeyed.

Models, corpora, names of files, runs and groups can hold escape sequences, which retitle a window, hide lines or type
commands, and marks that turn the direction of writing (Unicode Standard Annex 9), which show a text as what it is not.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# The controls of C0 and C1 but for tab and newline, and those of the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f]")


def harmless(text: str) -> str:
    """Return the text, as long as before, with a space for each character that a terminal obeys instead of showing it.

    Halves of characters, which nothing can show, become question marks. Lines and tabs stay.
    """
    return _OBEYED.sub(" ", encodable(text))


def on_one_line(text: object) -> str:
    """Return the text harmless and without line breaks."""
    return harmless(str(text).replace("\r\n", "\n")).replace("\n", "⏎").replace("\t", " ")


def encodable(text: str) -> str:
    """Return the text without halves of characters, which JSON can hold and no file can."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def write(text: str, end: str = "\n", to_stderr: bool = False) -> None:
    """Write a text, or with `end=""` a piece of one, to stdout at once."""
    print(harmless(text), end=end, flush=True, file=sys.stderr if to_stderr else sys.stdout)


def write_above_bar(text: object) -> None:
    """Write one line to stderr, above the progress bar that a training may have there."""
    from tqdm.auto import tqdm

    tqdm.write(on_one_line(text), file=sys.stderr)


class LogFormatter(logging.Formatter):
    """Write log lines whose texts are harmless."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return harmless(super().format(record))


def console(**settings: Any) -> Console:
    """Return a console of `rich` that shows all texts harmless, and as they are: it reads no markup in them.

    `settings` are those of `rich.console.Console`.
    """
    from rich.console import Console
    from rich.text import Text

    class HarmlessConsole(Console):
        def render(self, renderable, options=None):  # every text passes here, also those in the cells of tables
            options = options or self.options
            if isinstance(renderable, str):
                renderable = self.render_str(renderable, highlight=options.highlight, markup=options.markup)
            if isinstance(renderable, Text):
                renderable = renderable.copy()
                renderable.plain = harmless(renderable.plain)
            return super().render(renderable, options)

    return HarmlessConsole(markup=False, emoji=False, **settings)
