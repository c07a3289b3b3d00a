"""What runs the platform. Nothing above this interface knows which target is in use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from slipway.environment import Environment


@dataclass(frozen=True)
class Traffic:
    """Who answers a model's requests.

    While there is a challenger, each request is also mirrored to the version that does not answer it, so that both
    versions score the same requests with the features that were really online (the log marks who delivered).
    """

    champion: int
    challenger: int | None = None
    percent: int = 0
    """Share of requests, in per cent, that the challenger answers."""
    previous: int | None = None
    """Kept warm; answers what a dead version could not."""


@dataclass(frozen=True)
class Answers:
    """What one version answered through the gateway since it was started, counted by upstream attempt.

    Mirrored requests are not counted.
    """

    total: int
    errors: int
    """Attempts that failed: 5xx, resets, refused connections, time-outs."""
    latency_p50: float | None = None
    """Seconds."""
    latency_p95: float | None = None
    """Seconds."""
    counting_since: datetime | None = None
    """Wall clock. Counters begin anew when the gateway restarts: whoever takes differences compares this first."""


class Target(Protocol):
    """Every method is idempotent and returns only when what it says is true; a wait that times out raises NotReady."""

    def apply_revision(self, model: str, version: int) -> None:
        """Start a server for this version and wait until it is ready (its golden requests answered)."""
        ...

    def remove_revision(self, model: str, version: int) -> None:
        """Drain and stop the server of this version; nothing happens when there is none."""
        ...

    def list_revisions(self, model: str) -> dict[int, bool]:
        """Version -> ready, for every server that should run."""
        ...

    def set_traffic(self, model: str, traffic: Traffic) -> None:
        """Route requests; returns when the gateway has taken the routes. No request is dropped."""
        ...

    def read_traffic(self, model: str) -> Traffic | None:
        """What is in force; None when the model is not routed."""
        ...

    def count_answers(self, model: str) -> dict[int, Answers]:
        """Per version. Raises NotReady when the gateway does not say: a missing metric is never a zero."""
        ...


def open_target(environment: Environment) -> Target:
    """The target that the environment's settings name."""
    if environment.settings.target == "kubernetes":
        from slipway.targets.kubernetes.target import KubernetesTarget

        return KubernetesTarget(environment)
    from slipway.targets.local.target import LocalTarget

    return LocalTarget(environment)
