"""What a monitor found in one window, before it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["good", "bad", "warn", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """A verdict with the numbers that it rests on."""

    verdict: Verdict
    reason: str
    """Why this verdict, in a sentence a person understands without the code."""
    metric: float | None = None
    """The one number to draw over time."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """Plain JSON values."""
    run: Any = None
    """Evidently's run for the reports page; None where there was nothing to show."""

    def describe(self) -> dict[str, Any]:
        """The numbers with the reason, as the ledger keeps them."""
        return {**self.numbers, "reason": self.reason}


def inconclusive(reason: str, **numbers: Any) -> Finding:
    """Neither good nor bad: too little is known."""
    return Finding("inconclusive", reason, numbers=numbers)
