"""A plan that can be read: what would happen to which part, one line for each kind of object."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

_MOST_NAMES = 8
_COMPONENT = "slipway:components:"


@dataclass(frozen=True)
class Change:
    """One thing that would not be left as it is."""

    sign: str
    """`+ create`, `~ update` ..."""
    urn: str
    kind: str
    name: str
    namespace: str
    """Empty for what belongs to none, and for what is not a Kubernetes object."""
    fields: str
    """Of an update: ` [spec.replicas]`."""

    @property
    def part(self) -> str:
        """The component of the program that it belongs to, in words."""
        outermost = next((each for each in self.urn.split("::")[2].split("$") if each.startswith(_COMPONENT)), "")
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", outermost.removeprefix(_COMPONENT)).lower() or "the rest"


def list_lines(changes: Iterable[Change]) -> Iterator[str]:
    """By part in the order of standing up; in it by namespace and kind."""
    order: dict[str, int] = {}
    for change in (known := list(changes)):
        order.setdefault(change.part, len(order))
    for part, of_part in groupby(sorted(known, key=lambda change: order[change.part]), lambda change: change.part):
        members = sorted(of_part, key=_place)
        yield f"  {part} ({len(members)})"
        for (namespace, sign, kind), same in groupby(members, _place):
            names = sorted(f"{change.name}{change.fields}" for change in same)
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            where = f" in {namespace}" if namespace else ""
            yield f"    {sign}  {kind} {', '.join(names[:_MOST_NAMES])}{more}{where}"


def _place(change: Change) -> tuple[str, str, str]:
    return change.namespace, change.sign, change.kind
