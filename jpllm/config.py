"""Read one flat YAML file and the command line into dataclasses, strictly.

A recipe names its configuration classes; `parse` returns one instance of each. The keys of all classes
share one flat space: each can stand in the YAML file (`key: value`) and on the command line (`--key value`).
The command line wins over the file, the file over the default. Nothing is guessed and nothing is ignored:
the problems of the file, of the command line and of the classes' own checks come in one `ConfigError`.

A configuration class is a dataclass of `option` fields. It may also have

- `check(self)`, which yields (key, message) for values that do not go together;
- `renamed_keys: ClassVar[dict[str, str]]`: an old key, and the sentence that says what to write now;
- `shorthand: ClassVar[str]`, in a class of list entries: the key that a bare value stands for;
- `preset_key: ClassVar[str]`, in a class of list entries: the key that names a YAML file with keys of the entry,
  which the entry's own keys replace. A bare value that ends in `.yaml` stands for this key.

Types: int, float, bool, str, Path, Literal, list, dict with text keys, a dataclass, and each of them
`| None`. Scalars follow the core schema of YAML 1.2: `2e-5` is a number, and `no` is text.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import os
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath

import yaml

from jpllm.config_help import help_text
from jpllm.config_settings import Place, Settings, load
from jpllm.config_types import TEXT_TAG, argument_node, needs_quotes
from jpllm.runtime import InputError, write_whole

REQUIRED = dataclasses.MISSING


def option(
    default: object = REQUIRED,
    help: str = "",
    *,
    default_factory: Callable[[], object] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
) -> typing.Any:
    """Field of a configuration class: its default, one sentence of help, and the limits of its numbers.

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


def parse(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    positional: str | None = None,
) -> tuple:
    """One instance per class, from the arguments `argv` (`sys.argv[1:]`) and the file that `--config` names.

    `positional` is a key that holds a list: arguments that belong to no `--key` are its items.
    `--help` prints the page about all keys and raises SystemExit(0). Raises ConfigError with the problems of
    the file, then of the command line, then missing keys and what the classes' checks found.
    """
    settings = Settings(classes)
    arguments = sys.argv[1:] if argv is None else argv
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text(classes, prog=prog, description=description, positional=positional))
        raise SystemExit(0)

    problems: list[str] = []
    texts_of, argument_problems = _split_arguments(arguments, settings, positional)
    config = texts_of.pop("config", None)
    root = None if config is None else load(config, problems)
    if root is not None:
        settings.read(root, Place("", "", problems))
    problems += argument_problems
    for name, texts in texts_of.items():
        settings.set(name, argument_node(texts, settings.keys[name].hint), Place("--", name, problems))
    if config is not None and root is None:  # what the file would have set is not known
        raise ConfigError(problems)
    missing = Place(f"{config[0]}: " if config else "--", "", problems)
    unset = Place("default: ", "", problems)
    instances = tuple(settings.build(cls, missing, unset) for cls in classes)
    if problems:
        raise ConfigError(problems)
    return instances


def dump(instances: Iterable[object]) -> str:
    """YAML text with every key of the instances, in their order; read by `--config` it gives equal ones."""
    values = {name: value for instance in instances for name, value in dataclasses.asdict(instance).items()}
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def shareable(instances: Iterable[object], names: Sequence[str] = ()) -> dict[str, object]:
    """The keys that say nothing of a machine or its user: numbers, switches and choices; no text that was typed.

    Of the keys in `names`, which hold a name or a path, the last part is there too.
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


def write_resolved(instances: Iterable[object], path: str | os.PathLike[str]) -> None:
    """Write `dump(instances)` to `path`, making its folder if need be; no reader ever sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, dump(instances))


def _split_arguments(
    arguments: Iterable[str], settings: Settings, positional: str | None
) -> tuple[dict[str, list[str]], list[str]]:
    """The texts that follow each `--key`, and the problems of the arguments that belong nowhere.

    Where there is a `positional` key, it gets what stands before all keys, and behind one that has its value.
    """
    texts_of: dict[str, list[str]] = {}
    problems: list[str] = []
    free: list[str] = []
    name, texts = "", None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals_sign, text = argument[2:].partition("=")
            if (written := name.replace("-", "_")) in settings.keys:
                name = written
            texts = [text] if equals_sign else []
            if name != "config" and name not in settings.keys:
                problems.append(f"--{name}: {settings.unknown_key(name, 'config', 'help')}")
            elif texts_of.setdefault(name, texts) is not texts:
                problems.append(f"--{name}: given twice")
        elif texts is not None and not (positional and settings.has_its_value(name, texts, argument)):
            texts.append(argument)
        elif positional:
            free.append(argument)
        else:
            problems.append(f"{argument}: unexpected argument; write --key value, or --config FILE.yaml")
    if free and texts_of.setdefault(positional, free) is not free:
        problems.append(f"{free[0]}: unexpected argument; --{positional} is given too")
    return texts_of, problems


def _represent_text(dumper: yaml.SafeDumper, text: str | PurePath) -> yaml.Node:
    text = str(text)
    return dumper.represent_scalar(TEXT_TAG, text, style='"' if needs_quotes(text) else None)


class ConfigError(InputError):
    """Settings that cannot be used; `problems` has one line for each, and the message all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class _Dumper(yaml.SafeDumper):
    """Quotes what this module would not read back as text, beside what YAML 1.1 would not."""


_Dumper.add_representer(str, _represent_text)
_Dumper.add_multi_representer(PurePath, _represent_text)
