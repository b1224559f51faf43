"""Check values against the types of configuration keys, and word what is wrong with them.

Values come as YAML nodes whose scalars are still as they were written. A scalar node without a mark comes from the
command line, where the shell has taken the quotes off.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import yaml

from jpllm.bounded import read_bytes
from jpllm.config.yaml_file import MAX_BYTES, compose
from jpllm.runtime import InputError

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

TEXT_TAG = "tag:yaml.org,2002:str"
_INTEGER = re.compile(r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAX_DIGITS = 200  # an integer with more digits is read as a float; with fewer it always has one
_MAX_EXACT_INTEGER = 2**53  # above it a float is no longer one integer
_PYTHON_NONE = ("None", "none")  # YAML reads text, but the writer of an optional key means null
_NAME_OF_TYPE: dict[object, str] = {
    int: "an integer",
    float: "a number",
    str: "text",
    Path: "a path",
    bool: "true or false",
    type(None): "null",
}
_LIMITS = {"minimum": ("at least", operator.ge), "above": ("above", operator.gt), "maximum": ("at most", operator.le)}


def keys_of(cls: type[typing.Any]) -> dict[str, Key]:
    """Return the keys that a configuration class declares, in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: Key(hints[field.name], field) for field in dataclasses.fields(cls)}


def is_entry_class(kind: object) -> typing.TypeGuard[type[DataclassInstance]]:
    """Return whether the type is a dataclass: that of the entries of a list, or of a mapping with keys of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def without_none(hint: object) -> tuple[object, bool]:
    """Return `X, True` for the type `X | None`, and any other type itself with False."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    assert len(kinds) == 1, f"{hint}: the only union is with None"
    return kinds[0], True


def describe(hint: object) -> str:
    """Return the words for a value of this type, as in "write an integer or null"."""
    kind, optional = without_none(hint)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if optional:
        comma = "," if origin in (list, dict) or is_entry_class(kind) else ""
        return f"{describe(kind)}{comma} or null"
    if origin is typing.Literal:
        return f"one of {', '.join(str(choice) for choice in arguments)}"
    if origin is list:
        return f"a list, each item {describe(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {describe(arguments[1])}"
    if is_entry_class(kind):
        shorthand = f"its {kind.shorthand}, or " if hasattr(kind, "shorthand") else ""
        return f"{shorthand}a mapping with {', '.join(keys_of(kind))}"
    assert kind in _NAME_OF_TYPE, f"{hint}: a type that configuration keys cannot have"
    return _NAME_OF_TYPE[kind]


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the candidate that is most like `name`, or an empty text if none is."""
    candidates = list(candidates)
    close = difflib.get_close_matches(name, candidates, n=1)
    close = close or [candidate for candidate in candidates if name and candidate.startswith(name)]
    return f"; did you mean '{close[0]}'?" if close else ""


def parse_scalar(text: str) -> bool | int | float | str | None:
    """Return the value of an unquoted scalar by the core schema of YAML 1.2, without nan and inf.

    Two more forms are integers: `1_000_000`, and scientific notation of a whole number such as `2e8`.
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if len(text) <= _MAX_DIGITS and _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    is_integer = "e" in text.lower() and number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER
    return int(number) if is_integer else number


def plain_value(node: yaml.Node | None) -> object:
    """Return what a node holds by the core schema of YAML 1.2, whatever it is for; keys that are no scalars are out."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain_value(value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    if isinstance(node, yaml.SequenceNode):
        return [plain_value(item) for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        return None
    return node.value if node.style else parse_scalar(node.value)


def read_settings(file: Path) -> object:
    """Return what a file of settings in YAML holds, whichever keys it has.

    Raises:
        InputError: it is not within the limits of `jpllm.bounded` and `jpllm.config.yaml_file`.
        OSError: it cannot be read.
    """
    return plain_value(compose(read_bytes(file, MAX_BYTES), file.name))


def needs_quotes(text: str) -> bool:
    """Return whether the text, written without quotes, would not be read back as itself by each key that holds text."""
    return not isinstance(parse_scalar(text), str) or text in _PYTHON_NONE or not text.isprintable()


def _text_node(text: str, kind: object) -> yaml.Node:
    """Return a scalar node, or a mapping where the type has keys and the text is `{key: value}`."""
    entry = next(iter(typing.get_args(kind)), kind)
    if is_entry_class(entry) and text.startswith("{"):
        try:
            node = compose(text.encode("utf-8", "surrogateescape"), "")
        except InputError:
            node = None  # a file may be called so
        if node is not None:
            return _without_marks(node)
    return yaml.ScalarNode(TEXT_TAG, text)


def _without_marks(node: yaml.Node) -> yaml.Node:
    """Return the node without its place in a file, so that it counts as typed on the command line."""
    children = node.value if isinstance(node.value, list) else []
    for child in children:
        for node_below in child if isinstance(child, tuple) else [child]:
            _without_marks(node_below)
    node.start_mark = None
    return node


def argument_node(texts: list[str], hint: object) -> yaml.Node:
    """Return the node for the texts that follow a `--key`: a sequence for a list, or unless there is exactly one."""
    kind, optional = without_none(hint)
    scalars = [_text_node(text, kind) for text in texts or (["true"] if kind is bool else [])]
    is_list = typing.get_origin(kind) is list and not (optional and texts in (["null"], ["none"]))
    return scalars[0] if len(scalars) == 1 and not is_list else yaml.SequenceNode(TEXT_TAG, scalars)


def scalar_value(node: yaml.Node, hint: object, field: dataclasses.Field) -> object:
    """Return the value of the node for a scalar type, within the limits of the field.

    Raises:
        ValueError: says what to write instead.
    """
    kind, optional = without_none(hint)
    value: object = node
    is_python_none = False
    if isinstance(node, yaml.ScalarNode):
        is_text = kind in (str, Path) or node.value in typing.get_args(kind)
        value = node.value if node.style or (is_text and _is_argument(node)) else parse_scalar(node.value)
        is_python_none = optional and kind in (str, Path) and value in _PYTHON_NONE and not node.style
    if is_python_none or not _fits(value, kind):
        raise ValueError(f"write {describe(hint)}, not {_shown(node)}{_advice(node, kind)}")
    for words, limit, holds in limits_of(field):
        if not holds(value, limit):
            raise ValueError(f"must be {words} {limit}, not {node.value}")
    return kind(value) if isinstance(kind, type) else value


def means_none(node: yaml.Node) -> bool:
    """Return whether the node means None where the type allows it: YAML's null, and `none` on the command line."""
    if not isinstance(node, yaml.ScalarNode) or node.style:
        return False
    return node.value.lower() in ("null", "none") if _is_argument(node) else parse_scalar(node.value) is None


def _is_argument(node: yaml.Node) -> bool:
    return node.start_mark is None


def limits_of(field: dataclasses.Field) -> Iterator[tuple[str, float, Callable[[typing.Any, float], bool]]]:
    """Yield words, value and test of each limit of a field, such as `("at least", 2, operator.ge)`."""
    for name, (words, holds) in _LIMITS.items():
        if field.metadata.get(name) is not None:
            yield words, field.metadata[name], holds


def _fits(value: typing.Any, kind: object) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (str if kind is Path else kind)


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.SequenceNode):
        return f"{len(node.value)} values" if _is_argument(node) else "a list"
    if not isinstance(node, yaml.ScalarNode):
        return "a mapping"
    is_text = node.style or isinstance(parse_scalar(node.value), str)
    return repr(node.value) if is_text else node.value or "an empty value"


def _advice(node: yaml.Node, kind: object) -> str:
    """Return how to turn the node into a value that fits, where that is easy to say, or else an empty text."""
    origin = typing.get_origin(kind)
    if origin is dict or is_entry_class(kind):
        return "; set it in the YAML file" if _is_argument(node) else ""
    if not isinstance(node, yaml.ScalarNode):
        return ""
    if origin is list:
        return f"; in brackets: [{node.value}]"
    if kind in (str, Path):
        return f'; quote it: "{node.value}"' if node.value else ""
    half_width = unicodedata.normalize("NFKC", node.value)
    if _fits(parse_scalar(half_width), kind):
        return "; remove the quotes" if half_width == node.value else f"; in half-width characters: {half_width}"
    return suggest(node.value, map(str, typing.get_args(kind)))


class Key(typing.NamedTuple):
    """One key of a configuration class: its resolved type, and the field with default, help and limits."""

    hint: object
    field: dataclasses.Field

    @property
    def is_required(self) -> bool:
        missing = dataclasses.MISSING
        return self.field.default is missing and self.field.default_factory is missing
