"""How a figure is measured: alternating runs of what is compared, medians, and the spread of the ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Spread:
    """The median of some runs with the smallest and the largest."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    ours: Spread
    peer: Spread | None = None
    ratio: Spread | None = None
    """Ours over the peer's, run by run."""
    peer_name: str = ""
    note: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


def alternate(repeat: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Run each in turn, `repeat` times, beginning with another one each time: what slows one round slows them all."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(runs[name]())
    return found


def compare(
    name: str, unit: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, note: str = ""
) -> Figure:
    """A figure from runs that alternated."""
    ratio = Spread.of([mine / theirs for mine, theirs in zip(ours, peer, strict=True)])
    return Figure(name, unit, Spread.of(ours), Spread.of(peer), ratio, peer_name, note)
