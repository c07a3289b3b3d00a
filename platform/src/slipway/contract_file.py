"""A contract's YAML, read without surprises: no tags, no repeated keys, the booleans of version 1.2."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from slipway.errors import InvalidContract, Problem


class _Loader(yaml.SafeLoader):
    """YAML with the booleans of version 1.2: in 1.1 the key `on` would be read as true. A key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_document(file: Path) -> Any:
    """What the file says. Raises InvalidContract when it is no YAML."""
    try:
        return yaml.load(file.read_text(), _Loader)  # noqa: S506 -- a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        hint = "see pipelines/flight_delay/model.yaml"
        raise InvalidContract(Problem(str(file), f"not YAML: {told}", hint)) from error
