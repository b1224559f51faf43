"""`jpllm chat`: a conversation with a trained model, in the terminal or in the browser."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpllm import runtime, terminal
from jpllm.config.parse import parse
from jpllm.config.settings import REQUIRED, option
from jpllm.config.types import suggest
from jpllm.evaluation.chat.conversation import FORGOTTEN, ChatSamplingConfig, Conversation
from jpllm.evaluation.chat.page import require_gradio, serve
from jpllm.evaluation.comparison import cut_mark
from jpllm.models.adapters import LoadingConfig, tokenizer_source
from jpllm.runtime import InputError

HELP = """\
/reset       forget everything and begin anew
/save FILE   write the conversation as JSON, a row that recipes/sft.py reads
/quit        end (also Ctrl-D); Ctrl-C takes back a question while it is answered
A line that begins with a space is never a command."""


@dataclass
class ChatConfig:
    """Chat"""

    model: str = option(REQUIRED, "Model folder, or name on the Hugging Face Hub, whose tokenizer has a chat template.")
    system: str | None = option(None, "System message: how the model is to behave, where its template takes one.")
    seed: int = option(0, "The same seed and the same questions give the same conversation.", minimum=0)
    context_length: int | None = option(
        None,
        "Tokens of the conversation and the answer together, up to the model's positions; by default the length that "
        "it was trained on.",
        minimum=2,
    )
    script: Path | None = option(None, "Text file with the lines to type; without it they are read from the terminal.")
    web: bool = option(False, "Talk in the browser, on this machine only; needs the extra web.")
    port: int | None = option(
        None, "Port of the page; by default the first free one from 7860 on.", minimum=1, maximum=65_535
    )

    def check(self) -> Iterator[tuple[str, str]]:
        """Refuse settings of the terminal for the page, and the other way round."""
        if self.web and self.script:
            yield "script", "its lines are for the terminal; remove it or web"
        if self.port and not self.web:
            yield "port", "only the page in the browser has one; remove it, or add --web"


def chat(argv: Sequence[str]) -> None:
    """Talk with a trained model that has a chat template."""
    classes = [ChatConfig, LoadingConfig, ChatSamplingConfig]
    settings, loading, sampling = parse(classes, argv, prog="jpllm chat", description=chat.__doc__)
    lines = _script(settings.script) if settings.script else None
    if settings.web:
        require_gradio()  # before minutes of loading
    from jpllm.models.build import load_trained, set_context_length
    from jpllm.tokenizer.load import load

    runtime.use_all_cores()
    tokenizer = load(tokenizer_source(settings.model, loading.base_model))
    model = load_trained(settings.model, tokenizer=tokenizer, dtype=loading.dtype, base_model=loading.base_model)
    if settings.context_length:
        set_context_length(model, settings.context_length)

    def begin() -> Conversation:
        return Conversation(model, tokenizer, sampling, settings.seed, settings.system)

    if settings.web:
        serve(begin, settings.model, settings.port)
    elif lines is None and sys.stdin.isatty():
        _talk(begin())
    else:
        _follow(begin(), lines or _numbered("stdin", sys.stdin))


def _script(file: Path) -> list[tuple[str, str]]:
    try:
        return list(_numbered(str(file), file.read_text(encoding="utf-8-sig").split("\n")))
    except UnicodeDecodeError as error:
        raise InputError(f"script: {file} is not UTF-8; save it as UTF-8") from error


def _numbered(name: str, lines: Iterator[str] | Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((f"{name}:{number}", line.rstrip("\r\n")) for number, line in enumerate(lines, start=1))


def _talk(conversation: Conversation) -> None:
    """Answer the lines that a person types; a line that cannot be used is explained, and another one can be typed."""
    with contextlib.suppress(ImportError):  # arrow keys and earlier lines in input(), where the system has them
        import readline  # noqa: F401

    print("/help lists the commands.")
    while True:
        try:
            line = input("\n> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        try:
            if not answer_line(conversation, line):
                return
        except (InputError, OSError) as error:
            terminal.write(f"error: {error}")
        except KeyboardInterrupt:
            print("\n(question taken back)")


def _follow(conversation: Conversation, lines: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> None:
    """Show and answer the lines of a file, up to the first that cannot be used."""
    for place, line in lines:
        if line.strip():
            terminal.write(f"\n> {line}")
        try:
            if not answer_line(conversation, line):
                return
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


def answer_line(conversation: Conversation, line: str) -> bool:
    """Print the answer to one line, a command or a question; return False when the line ends the conversation.

    Raises:
        InputError: an unknown command, or a question that fills the context.
    """
    if not line.strip():
        return True
    if not line.startswith("/"):
        _answer(conversation, line.strip())
        return True
    name, _, argument = line.strip().partition(" ")
    if name == "/quit":
        return False
    if name not in _COMMANDS:
        known = [*_COMMANDS, "/quit"]
        raise InputError(f"unknown command {name}{suggest(name, known)}; there are {', '.join(known)}")
    terminal.write(_COMMANDS[name](conversation, argument.strip()))
    return True


def _answer(conversation: Conversation, question: str) -> None:
    num_forgotten = conversation.num_forgotten
    reply = conversation.ask(question, on_text=lambda piece: terminal.write(piece, end=""))
    print(cut_mark(reply))
    if conversation.num_forgotten and not num_forgotten:
        print(FORGOTTEN)


def _help(conversation: Conversation, argument: str) -> str:
    return HELP


def _reset(conversation: Conversation, argument: str) -> str:
    conversation.reset()
    return "(a new conversation)"


def _save(conversation: Conversation, argument: str) -> str:
    if not argument:
        raise InputError("/save: name a file, as in /save talk.json")
    conversation.save(Path(argument).expanduser())
    return f"({argument}: {len(conversation.exchanges):,} answers)"


_COMMANDS: dict[str, Callable[[Conversation, str], str]] = {"/help": _help, "/reset": _reset, "/save": _save}
