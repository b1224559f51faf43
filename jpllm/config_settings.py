"""Turn YAML nodes into instances of configuration classes, and gather all that is wrong with them.

The nodes of the command line have no marks; those of a file carry its name and their line into the messages.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from jpllm.config_types import TEXT_TAG, PlainLoader, keys_of, means_none, scalar_value, suggest, without_none

_UNTAGGED = (TEXT_TAG, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


def load(config: list[str], problems: list[str]) -> yaml.MappingNode | None:
    """The mapping in the file, or None after adding the reason to the problems."""
    if len(config) != 1:
        return problems.append(f"--config: write one file name, not {len(config)}")
    try:
        content = Path(config[0]).read_bytes()
        text = content.decode()
        loader = PlainLoader(text)
        loader.name = config[0]  # the marks of all nodes carry it into the messages
        root = loader.get_single_node()
    except OSError as error:
        return problems.append(f"--config: cannot read {config[0]}: {error.strerror}")
    except UnicodeDecodeError as error:
        line, message = content.count(b"\n", 0, error.start) + 1, "not UTF-8; save the file as UTF-8"
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"remove the control character U+{error.character:04X}"
    except yaml.MarkedYAMLError as error:
        begin = f" {error.context} (line {error.context_mark.line + 1}):" if error.context_mark else ""
        line, message = error.problem_mark.line + 1, f"not valid YAML:{begin} {error.problem}"
    else:
        if isinstance(root, yaml.MappingNode):
            return root
        line, message = 1, f"the file {'is empty' if root is None else 'has no keys'}; write key: value, one a line"
    return problems.append(f"{config[0]}:{line}: {message}")


def _entries(mapping: yaml.MappingNode, place: Place) -> Iterator[tuple[str, yaml.Node, Place]]:
    """Name, value and place of each key; a key that came before, or is no name, is a problem instead."""
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


def _convert(node: yaml.Node, hint: object, field: dataclasses.Field, place: Place) -> object:
    """The value of the node in its declared type; without meaning when a problem was added to the place."""
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
    if dataclasses.is_dataclass(kind) and isinstance(node, yaml.MappingNode):
        entry = Settings([kind])
        if preset := _preset(node, kind, place):
            entry.read(preset, place)
        entry.read(node, place)
        return entry.build(kind, missing=place, unset=place)
    try:
        return scalar_value(node, hint, field)
    except ValueError as error:
        return place.problem(str(error))


def _preset(node: yaml.MappingNode, kind: type, place: Place) -> yaml.MappingNode | None:
    """The mapping in the file that the entry's preset key names, if it names one."""
    named = [value for key, value in node.value if key.value == getattr(kind, "preset_key", None)]
    if not named or not isinstance(named[0], yaml.ScalarNode) or means_none(named[0]):
        return None
    problems: list[str] = []
    root = load([named[0].value], problems)
    for problem in problems:
        place.problem(problem.removeprefix("--config: "))
    return root


@dataclasses.dataclass(frozen=True)
class Place:
    """A key, what messages about it begin with (`FILE:LINE: ` or `--`), and the list that they go to."""

    prefix: str
    key: str
    problems: list[str]

    def child(self, suffix: str, node: yaml.Node | None = None) -> Place:
        prefix = self.prefix
        if node is not None and node.start_mark is not None:
            prefix = f"{node.start_mark.name}:{node.start_mark.line + 1}: "
        return Place(prefix, f"{self.key}{suffix}".removeprefix("."), self.problems)

    def problem(self, message: str) -> None:
        self.problems.append(f"{self.prefix}{self.key}: {message}")


class Settings:
    """The keys of some classes, the values set so far, and the place of each; a refused value has no value."""

    def __init__(self, classes: Sequence[type]) -> None:
        self.keys = {name: key for cls in classes for name, key in keys_of(cls).items()}
        self.renamed = {old: new for cls in classes for old, new in getattr(cls, "renamed_keys", {}).items()}
        self.values: dict[str, object] = {}
        self.places: dict[str, Place] = {}
        assert len(self.keys) == sum(len(keys_of(cls)) for cls in classes), "a key is in two classes"
        assert self.keys.keys().isdisjoint({"config", "help", *self.renamed}), "a key is reserved or renamed"

    def unknown_key(self, name: str, *also_known: str) -> str:
        advice = f"; {self.renamed[name]}" if name in self.renamed else suggest(name, [*self.keys, *also_known])
        return f"unknown key{advice or '; see --help'}"

    def has_its_value(self, name: str, texts: Sequence[str], following: str) -> bool:
        """Whether the key, which `texts` were given to, cannot take the `following` text too."""
        kind = without_none(self.keys[name].hint)[0] if name in self.keys else str
        if kind is bool and not texts:
            return following not in ("true", "false")
        return bool(texts) and typing.get_origin(kind) not in (list, dict)

    def read(self, mapping: yaml.MappingNode, place: Place) -> None:
        for name, node, key_place in _entries(mapping, place):
            if name in self.keys:
                self.set(name, node, key_place)
            else:
                key_place.problem(self.unknown_key(name))

    def set(self, name: str, node: yaml.Node, place: Place) -> None:
        num_problems = len(place.problems)
        value = _convert(node, self.keys[name].hint, self.keys[name].field, place)
        self.places[name] = place
        self.values.pop(name, None)
        if len(place.problems) == num_problems:
            self.values[name] = value

    def build(self, cls: type, missing: Place, unset: Place) -> object:
        """The instance, checked; None if a key is missing or its value was refused.

        What is wrong with keys that have no place goes to children of `missing` and `unset`.
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
