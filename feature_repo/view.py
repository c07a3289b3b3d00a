"""What a feature view is, without Feast: keys, features with type and default, and how long a value lives.

Transforms and publishers read this; `definitions.py` turns it into Feast's objects, so that code which only needs
names does not wait seconds for Feast's import.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

Kind = Literal["int", "float"]


@dataclass(frozen=True)
class Feature:
    """One published value. `default` stands in where no value is known (no row, row too old, store out of reach)."""

    name: str
    kind: Kind
    default: float
    about: str


@dataclass(frozen=True)
class View:
    """Values of one kind of thing, each row valid from its publication time (`event_timestamp`, UTC) on.

    `keys` are request fields. A row older than `lifetime` counts as absent, offline and online alike.
    """

    name: str
    keys: tuple[str, ...]
    lifetime: timedelta
    features: tuple[Feature, ...]
    about: str

    @property
    def columns(self) -> list[str]:
        """Names of the features, in the order of the view."""
        return [feature.name for feature in self.features]

    @property
    def qualified(self) -> dict[str, str]:
        """Feature name to its name in joined rows, `view__feature`."""
        return {feature.name: f"{self.name}__{feature.name}" for feature in self.features}


KEY_KINDS: dict[str, Literal["string", "int"]] = {
    "carrier": "string",
    "flight": "int",
    "origin": "string",
    "dest": "string",
}
"""Every entity key that views may use and its type."""
