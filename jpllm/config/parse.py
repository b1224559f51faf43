"""Read one flat YAML file and the command line into dataclasses, strictly.

A recipe names its configuration classes; `parse` returns one instance of each. The keys of all classes
share one flat name space: each can stand in the YAML file (`key: value`) and on the command line (`--key value`).
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

import dataclasses
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from jpllm.config.settings import help_text
from jpllm.config.types import (
    TEXT_TAG,
    argument_node,
    is_entry_class,
    keys_of,
    means_none,
    scalar_value,
    suggest,
    without_none,
)
from jpllm.config.yaml_file import MAX_BYTES, compose
from jpllm.runtime import InputError

_UNTAGGED = (TEXT_TAG, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


def parse(
    classes: Sequence[type],
    argv: Sequence[str] | None = None,
    *,
    prog: str,
    description: str | None,
    positional: str | None = None,
) -> tuple:
    """Return one instance per class, from the arguments `argv` (`sys.argv[1:]`) and the file that `--config` names.

    `positional` is a key that holds a list: arguments that belong to no `--key` are its items.
    `--help` prints the page about all keys and raises SystemExit(0).

    Raises:
        ConfigError: the problems of the file, then of the command line, then missing keys and what the classes'
            checks found.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not {"-h", "--help"}.isdisjoint(arguments):
        print(help_text(classes, prog=prog, description=description, positional=positional))
        raise SystemExit(0)
    instances, problems = _read(classes, arguments, positional)
    if problems:
        raise ConfigError(problems)
    return instances


def _read(
    classes: Sequence[type], arguments: Sequence[str], positional: str | None
) -> tuple[tuple[object, ...], list[str]]:
    """Return the instances and the problems; the instances mean nothing where there are problems."""
    settings = _Reader(classes)
    problems: list[str] = []
    texts_of, argument_problems = _split_arguments(arguments, settings, positional)
    config = texts_of.pop("config", None)
    root = None if config is None else _load(config, problems)
    if root is not None:
        settings.read(root, _Place("", "", problems))
    problems += argument_problems
    for name, texts in texts_of.items():
        settings.set(name, argument_node(texts, settings.keys[name].hint), _Place("--", name, problems))
    if config is not None and root is None:  # what the file would have set is not known
        return (), problems
    missing = _Place(f"{config[0]}: " if config else "--", "", problems)
    unset = _Place("default: ", "", problems)
    return tuple(settings.build(cls, missing, unset) for cls in classes), problems


def _split_arguments(
    arguments: Iterable[str], settings: _Reader, positional: str | None
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the texts that follow each `--key`, and the problems of the arguments that belong nowhere.

    The `positional` key, where there is one, gets the arguments that stand before all keys, and those behind a key that
    has its value already.
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
    if positional and free and texts_of.setdefault(positional, free) is not free:
        problems.append(f"{free[0]}: unexpected argument; --{positional} is given too")
    return texts_of, problems


def _load(config: list[str], problems: list[str]) -> yaml.MappingNode | None:
    """Return the mapping in the one file of `config`, or None after adding the reason to the problems."""
    if len(config) != 1:
        return problems.append(f"--config: write one file name, not {len(config)}")
    try:
        with Path(config[0]).open("rb") as stream:  # it may be a pipe
            root = compose(stream.read(MAX_BYTES + 1), config[0])
    except OSError as error:
        return problems.append(f"--config: cannot read {config[0]}: {error.strerror}")
    except InputError as error:
        return problems.append(str(error))
    if isinstance(root, yaml.MappingNode):
        return root
    what = "is empty" if root is None else "has no keys"
    return problems.append(f"{config[0]}:1: the file {what}; write key: value, one a line")


def _entries(mapping: yaml.MappingNode, place: _Place) -> Iterator[tuple[str, yaml.Node, _Place]]:
    """Yield name, value and place of each key; a key that is repeated, or is no name, becomes a problem instead."""
    first_nodes: dict[str, yaml.Node] = {}
    for key_node, value_node in mapping.value:
        if not isinstance(key_node, yaml.ScalarNode):
            place.child("", key_node).problem("a key cannot be a list or a mapping")
            continue
        name = key_node.value
        first_node = first_nodes.setdefault(name, key_node)
        key_place = place.child(f".{name}", key_node)
        if first_node is key_node:
            yield name, value_node, key_place
        else:
            first = f"; the first is in line {first_node.start_mark.line + 1}" if first_node.start_mark else ""
            key_place.problem(f"given twice{first}")


def _convert(node: yaml.Node, hint: object, field: dataclasses.Field, place: _Place) -> object:
    """Return the value of the node in its declared type; it means nothing when a problem was added to the place."""
    kind, optional = without_none(hint)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if node.tag not in _UNTAGGED:
        return place.problem(f"remove the YAML tag {node.tag}")
    if optional and means_none(node):
        return None
    if hasattr(kind, "shorthand") and isinstance(node, yaml.ScalarNode):
        is_preset = hasattr(kind, "preset_key") and node.value.endswith(".yaml")
        name = yaml.ScalarNode(TEXT_TAG, kind.preset_key if is_preset else kind.shorthand, node.start_mark)
        node = yaml.MappingNode(TEXT_TAG, [(name, node)], node.start_mark)
    if origin is list and isinstance(node, yaml.SequenceNode):
        children = [(item, place.child(f"[{index}]", item)) for index, item in enumerate(node.value)]
        return [_convert(item, arguments[0], field, child) for item, child in children]
    if origin is dict and isinstance(node, yaml.MappingNode):
        return {name: _convert(value, arguments[1], field, at) for name, value, at in _entries(node, place)}
    if is_entry_class(kind) and isinstance(node, yaml.MappingNode):
        entry = _Reader([kind])
        if preset := _preset(node, kind, place):
            entry.read(preset, place)
        entry.read(node, place)
        return entry.build(kind, missing=place, unset=place)
    try:
        return scalar_value(node, hint, field)
    except ValueError as error:
        return place.problem(str(error))


def _preset(node: yaml.MappingNode, kind: type, place: _Place) -> yaml.MappingNode | None:
    """Return the mapping in the file that the entry's preset key names, or None where it names none."""
    named = [value for key, value in node.value if key.value == getattr(kind, "preset_key", None)]
    if not named or not isinstance(named[0], yaml.ScalarNode) or means_none(named[0]):
        return None
    problems: list[str] = []
    root = _load([named[0].value], problems)
    for problem in problems:
        place.problem(problem.removeprefix("--config: "))
    return root


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a key was set: what messages about it begin with (`FILE:LINE: ` or `--`), and the list that they go to."""

    prefix: str
    key: str
    problems: list[str]

    def child(self, suffix: str, node: yaml.Node | None = None) -> _Place:
        """Return the place of a key or item below this one; `node` tells its line."""
        prefix = self.prefix
        if node is not None and node.start_mark is not None:
            prefix = f"{node.start_mark.name}:{node.start_mark.line + 1}: "
        return _Place(prefix, f"{self.key}{suffix}".removeprefix("."), self.problems)

    def problem(self, message: str) -> None:
        """Add a message about the key."""
        self.problems.append(f"{self.prefix}{self.key}: {message}")


class _Reader:
    """Collect the values of the keys of some classes, and build instances; a refused value is left out."""

    def __init__(self, classes: Sequence[type]) -> None:
        self.keys = {name: key for cls in classes for name, key in keys_of(cls).items()}
        self.renamed = {old: new for cls in classes for old, new in getattr(cls, "renamed_keys", {}).items()}
        self.values: dict[str, object] = {}
        self.places: dict[str, _Place] = {}
        assert len(self.keys) == sum(len(keys_of(cls)) for cls in classes), "a key is in two classes"
        assert self.keys.keys().isdisjoint({"config", "help", *self.renamed}), "a key is reserved or renamed"

    def unknown_key(self, name: str, *also_known: str) -> str:
        """Return the message about a key that no class has, with what to write instead."""
        advice = f"; {self.renamed[name]}" if name in self.renamed else suggest(name, [*self.keys, *also_known])
        return f"unknown key{advice or '; see --help'}"

    def has_its_value(self, name: str, texts: Sequence[str], following: str) -> bool:
        """Return whether the key `name`, which has the `texts`, cannot take the `following` text too."""
        kind = without_none(self.keys[name].hint)[0] if name in self.keys else str
        if kind is bool and not texts:
            return following not in ("true", "false")
        return bool(texts) and typing.get_origin(kind) not in (list, dict)

    def read(self, mapping: yaml.MappingNode, place: _Place) -> None:
        """Set the keys that a mapping has."""
        for name, node, key_place in _entries(mapping, place):
            if name in self.keys:
                self.set(name, node, key_place)
            else:
                key_place.problem(self.unknown_key(name))

    def set(self, name: str, node: yaml.Node, place: _Place) -> None:
        """Set a key to what the node says; it replaces an earlier value."""
        num_problems = len(place.problems)
        value = _convert(node, self.keys[name].hint, self.keys[name].field, place)
        self.places[name] = place
        self.values.pop(name, None)
        if len(place.problems) == num_problems:
            self.values[name] = value

    def build(self, cls: type, missing: _Place, unset: _Place) -> object:
        """Return the checked instance; None if a key is missing or its value was refused.

        Problems of keys that were not set go to places below `missing` (required keys) and `unset` (defaults).
        """
        names = keys_of(cls)
        absent = [name for name in names if self.keys[name].is_required and name not in self.places]
        for name in absent:
            missing.child(f".{name}").problem("required, but not set")
        if absent or any(name in self.places and name not in self.values for name in names):
            return None
        instance = cls(**{name: self.values[name] for name in names if name in self.values})
        for name, message in instance.check() if hasattr(cls, "check") else ():
            assert name in names, f"{cls.__name__}.check: {name} is no key of this class"
            self.places.get(name, unset.child(f".{name}")).problem(message)
        return instance


class ConfigError(InputError):
    """Settings that cannot be used; `problems` has one line for each, and the message all of them."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)
