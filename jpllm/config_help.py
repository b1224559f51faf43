"""The `--help` page of configuration classes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import textwrap
import typing
from collections.abc import Iterator, Sequence

from jpllm.config_types import Key, describe, keys_of, limits_of, without_none

_HOW_TO_SET = (
    "Every key can be set in the YAML file (key: value) and on the command line (--key value), which wins. "
    "A list takes any number of values. After a key that is true or false, true can be left out."
)


def help_text(classes: Sequence[type], *, prog: str, description: str, positional: str | None = None) -> str:
    """The page that `--help` prints, as wide as the terminal; `positional` is the key that needs no `--key`."""
    width = max(shutil.get_terminal_size().columns, 40)
    items = f" [{positional.upper()} ...]" if positional else ""
    parts = [f"usage: {prog}{items} [--config FILE.yaml] [--key value ...]", description.strip()]
    parts.append(textwrap.fill(_HOW_TO_SET, width))
    for cls in classes:
        parts.append(_group(cls, _title(cls), "--", width))
        for name, key in keys_of(cls).items():
            for entry in _entry_classes(key.hint):
                parts.append(_group(entry, f"Each entry of {name}: {_title(entry)}", "", width))
    return "\n\n".join(part for part in parts if part)


def _title(cls: type) -> str:
    return inspect.getdoc(cls).partition("\n")[0]


def _group(cls: type, title: str, prefix: str, width: int) -> str:
    lines = [textwrap.fill(title, width)]
    for name, key in keys_of(cls).items():
        limits = "".join(f", {words} {limit}" for words, limit, _ in limits_of(key.field))
        facts = f"{prefix}{name}: {describe(key.hint)}{limits}; {_default(key)}"
        sentence = key.field.metadata.get("help", "")
        lines += ["", _wrap(facts, 2, width), *([_wrap(sentence, 6, width)] if sentence else [])]
    return "\n".join(lines)


def _wrap(text: str, indent: int, width: int) -> str:
    first, rest = " " * indent, " " * 6
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _default(key: Key) -> str:
    if key.is_required:
        return "required"
    made = key.field.default_factory is not dataclasses.MISSING
    value = key.field.default_factory() if made else key.field.default
    return f"default {json.dumps(value, ensure_ascii=False, default=_plain)}"


def _plain(value: object) -> object:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else str(value)


def _entry_classes(hint: object) -> Iterator[type]:
    kind, _ = without_none(hint)
    if dataclasses.is_dataclass(kind):
        yield kind
    for argument in typing.get_args(kind):
        yield from _entry_classes(argument)
