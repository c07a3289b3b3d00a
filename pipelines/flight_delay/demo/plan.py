"""What the demonstration asks for, act by act, and which days of 2013 it lives through."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pipelines.flight_delay.demo.facts import Act


@dataclass(frozen=True)
class Plan:
    """Which days are lived through, in event time. Labels of the last judged day are due when the replay ends."""

    history: datetime = datetime(2013, 1, 1, tzinfo=UTC)
    launch: datetime = datetime(2013, 3, 17, tzinfo=UTC)
    """Trained on January and February; the gate judges the fortnight after the embargo, 1 to 15 March."""
    watched: datetime = launch
    """From here on flights ask for predictions; what lies between it and the launch is published at once."""
    decay: datetime = datetime(2013, 9, 9, tzinfo=UTC)
    """By then a retraining should have been promoted by itself; later weeks are tried before the act is given up."""
    bad_version: datetime = datetime(2013, 10, 1, tzinfo=UTC)
    """By then the version that is good offline must have been hauled back."""
    operator: datetime = datetime(2013, 10, 22, tzinfo=UTC)
    judged: datetime = datetime(2013, 11, 1, tzinfo=UTC)
    end: datetime = datetime(2013, 11, 3, tzinfo=UTC)
    sample: float = 0.5
    """Share of flights that ask for a prediction; all of them feed the features."""


ACTS = (
    Act(
        title="Train on two months, pass the gate, launch",
        asks="A snapshot with a broken column is stopped by validation; a first version passes the gate and is "
        "launched; a version trained on shuffled labels is refused by the gate.",
    ),
    Act(
        title="Months pass, the model decays, and is retrained and replaced by itself",
        asks="The performance monitor fires a trigger, the retrained challenger passes gate and canary and becomes "
        "champion, and no person has acted.",
    ),
    Act(
        title="kill -9 of the controller in the middle of that rollout",
        asks="The controller comes back, takes the rollout up where the ledger says it is, and finishes it.",
    ),
    Act(
        title="A version that is good offline and bad online",
        asks="Its feature claims to know a flight's departure delay before departure. The gate, fed these false times, "
        "passes it; the canary hauls it back; nobody types.",
    ),
    Act(
        title="An operator rolls back by hand under load, then resumes",
        asks="The previous version answers, no request fails, automation is frozen until slipway resume.",
    ),
)
