"""Run the `jpllm` command: the table of its verbs, and the choice of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from jpllm import runtime, streams
from jpllm.commands import card, chat, compare, data, doctor, export, generate, plan, tokenizer, watch
from jpllm.config.types import suggest
from jpllm.runtime import InputError

VERBS: dict[str, Callable[[Sequence[str]], None]] = {
    "tokenizer train": tokenizer.train,
    "tokenizer convert": tokenizer.convert,
    "tokenizer report": tokenizer.report,
    "tokenizer extend": tokenizer.extend,
    "data preview": data.preview,
    "data dedup": data.dedup,
    "data pack": data.pack,
    "data contamination": data.contamination,
    "data jglue": data.jglue,
    "data builtin": data.builtin,
    "plan": plan.plan,
    "generate": generate.generate,
    "compare": compare.compare,
    "watch": watch.watch,
    "card": card.card,
    "export": export.export,
    "chat": chat.chat,
    "doctor": doctor.doctor,
}

_FOR_A_READER = ("data preview", "generate", "watch", "chat")  # go on for long, and nobody would see it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the arguments name, and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return runtime.run_command(lambda: _dispatch(argv))


def _dispatch(argv: list[str]) -> None:
    for num_words in (2, 1):
        name = " ".join(argv[:num_words])
        verb = VERBS.get(name)
        if verb and len(argv) >= num_words:
            runtime.configure_logging()
            if name in _FOR_A_READER:
                streams.end_with_reader()
            verb(argv[num_words:])
            return
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return
    words = [word for word in argv[:2] if not word.startswith("-")]
    raise InputError(f"unknown command {' '.join(words)!r}{suggest(' '.join(words), VERBS)}\n\n{_overview()}")


def _overview() -> str:
    lines = [f"  jpllm {name:<18} {function.__doc__}" for name, function in VERBS.items()]
    return "\n".join(["jpllm: build a Japanese language model at home", "", *lines, "", "Keys: jpllm VERB --help"])


if __name__ == "__main__":
    sys.exit(main())
