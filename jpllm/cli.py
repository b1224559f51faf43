"""Run the `jpllm` command: the table of its verbs, and the choice of one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from jpllm import runtime, streams
from jpllm.config.types import suggest
from jpllm.runtime import InputError

VERBS = (  # each is a function of jpllm.commands, of the name of its last word, in the module of its first
    "tokenizer train",
    "tokenizer convert",
    "tokenizer report",
    "tokenizer extend",
    "data preview",
    "data dedup",
    "data pack",
    "data contamination",
    "data jglue",
    "data builtin",
    "plan",
    "generate",
    "compare",
    "watch",
    "card",
    "export",
    "chat",
    "doctor",
)

_FOR_A_READER = ("data preview", "generate", "watch", "chat")  # go on for long, and nobody would see it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the arguments name, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return runtime.run_command(lambda: _dispatch(argv))


def _dispatch(argv: list[str]) -> None:
    for num_words in (2, 1):
        name = " ".join(argv[:num_words])
        if name in VERBS and len(argv) >= num_words:
            runtime.configure_logging()
            if name in _FOR_A_READER:
                streams.end_with_reader()
            _function(name)(argv[num_words:])
            return
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    words = [word for word in argv[:2] if not word.startswith("-")]
    raise InputError(f"unknown command {' '.join(words)!r}{suggest(' '.join(words), VERBS)}\n\n{_overview()}")


def _function(name: str) -> Callable[[Sequence[str]], None]:
    """Return the function of a verb; only its module is imported, so that each verb answers soon."""
    module, function = name.split()[0], name.split()[-1]
    return getattr(importlib.import_module(f"jpllm.commands.{module}"), function)


def _overview() -> str:
    lines = [f"  jpllm {name:<18} {_function(name).__doc__}" for name in VERBS]
    return "\n".join(["jpllm: build a Japanese language model at home", "", *lines, "", "Keys: jpllm VERB --help"])


if __name__ == "__main__":
    sys.exit(main())
