"""Compose the nodes of a YAML file, which a stranger may have made, within limits of size, depth and repetition."""

from __future__ import annotations

import re

import yaml
from yaml.reader import ReaderError

from jpllm.runtime import InputError

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_VALUES = 20_000  # with those that aliases repeat
# Halves of characters; those from U+DC80 to U+DCFF stand for the bytes of a file name that is not UTF-8.
_NO_TEXT = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def compose(content: bytes, name: str) -> yaml.Node | None:
    """Return the root node of a YAML document; None where it is empty. All places in it carry the `name`.

    Raises:
        InputError: begins with `name` and the line.
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{name}: more than {MAX_BYTES / 1e6:.0f} MB: this is no file of settings")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}:{line}: not UTF-8; save the file as UTF-8") from None
    try:
        loader = PlainLoader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{name}:{line}: remove the control character U+{error.character:04X}") from None
    loader.name = name
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        begin = f" {error.context} (line {error.context_mark.line + 1}):" if error.context_mark else ""
        place = error.problem_mark or loader.get_mark()
        raise InputError(f"{name}:{place.line + 1}: not valid YAML:{begin} {error.problem}") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}:{loader.line + 1}: not valid YAML: no such character") from None


class PlainLoader(yaml.SafeLoader):
    """Compose YAML nodes without resolving scalars: they stay as written, so that the declared type decides.

    Raises:
        InputError: nested deeper than `MAX_DEPTH`, more than `MAX_VALUES` values, an anchor that contains itself, or a
            text that nothing can hold; PyYAML itself would use all time, memory or levels of recursion.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._num_nodes = 0
        self._extent: dict[int, tuple[int, int]] = {}  # values and levels of each node that is whole, by its id

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        self._refuse_deep(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._refuse_deep(len(self.indents))
        return super().add_indent(column)

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._num_nodes += 1
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not is_alias:
            self._extent[id(node)] = self._measured(node)
        elif id(node) not in self._extent:
            raise _refused(mark, "an alias inside its own anchor")
        num_values, num_levels = self._extent[id(node)]
        if max(num_values, self._num_nodes) > MAX_VALUES:
            raise _refused(mark, f"more than {MAX_VALUES:,} values, with those that aliases repeat")
        self._refuse_deep(num_levels, mark)
        return node

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if found := _NO_TEXT.search(node.value):
            raise _refused(node.start_mark, f"remove U+{ord(found[0]):04X}, which no text can hold")
        return node

    def _measured(self, node: yaml.Node) -> tuple[int, int]:
        children = node.value if isinstance(node.value, list) else []
        flat = [one for child in children for one in (child if isinstance(child, tuple) else (child,))]
        extents = [self._extent[id(one)] for one in flat]
        return 1 + sum(values for values, _ in extents), 1 + max((levels for _, levels in extents), default=0)

    def _refuse_deep(self, num_levels: int, mark: yaml.Mark | None = None) -> None:
        if num_levels > MAX_DEPTH:
            raise _refused(mark or self.get_mark(), f"nested more than {MAX_DEPTH} levels deep")


PlainLoader.yaml_implicit_resolvers = {}


def _refused(mark: yaml.Mark, message: str) -> InputError:
    return InputError(f"{mark.name}:{mark.line + 1}: {message}")
