"""Declare settings as fields of dataclasses, and write them: as the page of `--help`, and as YAML.

`jpllm.config.parse` describes what such a class may have.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
import math
import os
import shutil
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

import yaml

from jpllm.config.types import TEXT_TAG, Key, describe, is_entry_class, keys_of, limits_of, needs_quotes, without_none
from jpllm.whole_files import write_whole

REQUIRED = dataclasses.MISSING
_HOW_TO_SET = (
    "Every key can be set in the YAML file (key: value) and on the command line (--key value), which wins. "
    "A list takes any number of values. After a key that is true or false, true can be left out."
)


def option(
    default: object = REQUIRED,
    help: str = "",
    *,
    default_factory: Callable[[], object] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> typing.Any:
    """Declare a field of a configuration class: its default, one sentence of help, and the limits of its numbers.

    Without a default the key is required. Each instance gets its own copy of a list or dict default.
    `minimum` and `maximum` belong to what is allowed, `above` does not; in a list they hold for each item.
    """
    assert help, "each option needs a sentence of help"
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "above": above}
    if isinstance(default, list | dict):
        default_factory = functools.partial(copy.deepcopy, default)
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def to_yaml(instances: Iterable[typing.Any]) -> str:
    """Return YAML with every key of the instances, in their order; `--config` reads it back into equal instances."""
    values = {name: value for instance in instances for name, value in dataclasses.asdict(instance).items()}
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def with_defaults(values: Mapping[str, typing.Any], classes: Iterable[type]) -> dict[str, typing.Any]:
    """Return values that YAML held, with the default of each key of the classes that they lack, also in list entries.

    So what an older version wrote, which knew fewer keys, can be compared with what is set now. Required keys that are
    missing stay so.
    """
    found = dict(values)
    for cls in classes:
        for name, key in keys_of(cls).items():
            entry_classes = list(_entry_classes(key.hint))
            if name not in found and not key.is_required:
                found[name] = json.loads(json.dumps(_default_value(key), default=_plain))
            elif entry_classes and isinstance(found.get(name), list):
                found[name] = [
                    with_defaults(entry, entry_classes) if isinstance(entry, dict) else entry for entry in found[name]
                ]
    return found


def shareable_values(instances: Iterable[typing.Any], names: Sequence[str] = ()) -> dict[str, object]:
    """Return the values that tell nothing about a machine or its user: numbers, switches and choices, no typed text.

    The keys in `names` hold a name or a path; of these the last component is returned too.
    """
    found = {}
    for instance in instances:
        hints = typing.get_type_hints(type(instance))
        for name, value in dataclasses.asdict(instance).items():
            if isinstance(value, bool | int | float) or typing.get_origin(hints[name]) is typing.Literal:
                found[name] = value
            elif name in names and value is not None and PurePath(value).name != Path.home().name:
                found[name] = PurePath(value).name
    return found


def write_yaml(instances: Iterable[typing.Any], path: str | os.PathLike[str]) -> None:
    """Write the instances as YAML to `path`, making its folder if need be; no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_yaml(instances))


def help_text(classes: Sequence[type], *, prog: str, description: str | None, positional: str | None = None) -> str:
    """Return the page that `--help` prints, as wide as the terminal; `positional` is the key that needs no `--key`."""
    width = max(shutil.get_terminal_size().columns, 40)
    items = f" [{positional.upper()} ...]" if positional else ""
    blocks = [f"usage: {prog}{items} [--config FILE.yaml] [--key value ...]", (description or "").strip()]
    blocks.append(textwrap.fill(_HOW_TO_SET, width))
    for cls in classes:
        blocks.append(_group(cls, _title(cls), "--", width))
        for name, key in keys_of(cls).items():
            for entry in _entry_classes(key.hint):
                blocks.append(_group(entry, f"Each entry of {name}: {_title(entry)}", "", width))
    return "\n\n".join(block for block in blocks if block)


def _title(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


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
    return f"default {json.dumps(_default_value(key), ensure_ascii=False, default=_plain)}"


def _default_value(key: Key) -> object:
    made = key.field.default_factory is not dataclasses.MISSING
    return key.field.default_factory() if made else key.field.default


def _plain(value: object) -> object:
    return str(value) if isinstance(value, type) or not dataclasses.is_dataclass(value) else dataclasses.asdict(value)


def _entry_classes(hint: object) -> Iterator[type]:
    kind, _ = without_none(hint)
    if is_entry_class(kind):
        yield kind
    for argument in typing.get_args(kind):
        yield from _entry_classes(argument)


def _represent_text(dumper: yaml.SafeDumper, text: str | PurePath) -> yaml.Node:
    text = str(text)
    return dumper.represent_scalar(TEXT_TAG, text, style='"' if needs_quotes(text) else None)


class _Dumper(yaml.SafeDumper):
    """Write YAML with quotes where `jpllm.config.parse`, or a reader of YAML 1.1, would not see text without them."""


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(PurePath, _represent_text)
