"""YAML that holds nothing but plain values, within bounds: files of configuration, and values of `--set`."""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

MAX_YAML_NODES = 100_000
"""Most values of a document, with every alias written out."""


class PlainLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as in YAML 1.2; tags, a key given twice and alias bombs are errors."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"tag {event.tag!r} is not plain YAML", event.start_mark)
        return super().compose_node(parent, index)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _written_out(node, {}) > MAX_YAML_NODES:
            raise yaml.composer.ComposerError(None, None, f"aliases make it more than {MAX_YAML_NODES} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of nodes below and with `node` were every alias written out; infinite where one names what it is in."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in pairs)
    return known[id(node)]


def plain_value(text: str) -> Any:
    """The value of an assignment: YAML, in which a text stands for itself, with every character that was typed.

    In a file ` #` begins a comment. Where a value is typed on a command line it is part of it, as in `val #1`.

    Raises:
        ValueError: it is not plain YAML, or something follows the value.
    """
    value = load_yaml(text)
    node = yaml.compose(text, PlainLoader)
    plain = node is None or (isinstance(node, yaml.ScalarNode) and node.style is None)
    rest = text[node.end_mark.index if node else 0 :].strip()
    if rest and not plain:
        raise ValueError("something follows the value")
    return text if plain and (rest or isinstance(value, str)) else value


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    Raises:
        ValueError: it is not YAML, or not plain.
    """
    try:
        return yaml.load(text, PlainLoader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
