"""What the infrastructure program declares, as plain objects.

So that controllers are shown the very objects that users get, and not copies of them that age.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.recording import record
from infra.services.program import stand_up
from slipway.settings import Settings

Object = dict[str, Any]


class Stack:
    """Every resource of the program in one environment."""

    def __init__(self, settings: Settings) -> None:
        self.recording = record(lambda: stand_up(settings))

    def objects(self, *kinds: str, namespace: str = "") -> Iterator[Object]:
        """Plain Kubernetes objects of these kinds, as the API server would get them."""
        for each in self.recording.of_kind(*kinds):
            if not namespace or each.metadata.get("namespace") == namespace:
                yield each.inputs

    def find(self, where: str) -> Object:
        """The object called `Kind/namespace/name`. Raises KeyError."""
        return self.recording.find(where).inputs

    def chart_values(self, chart: str) -> Object:
        """The values that a chart of this name is given. Raises KeyError."""
        charts = [each for each in self.recording.resources if each.type.startswith("kubernetes:helm.sh")]
        for each in charts:
            if each.name == chart:
                values: Object = each.inputs.get("values") or {}
                return values
        raise KeyError(f"no chart {chart!r} among {', '.join(sorted(each.name for each in charts))}")
