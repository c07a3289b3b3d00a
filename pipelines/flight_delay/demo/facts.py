"""What the demonstration found, as data: the story writes it, the report shows it, and nothing else goes in between."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class Fact(BaseModel):
    """One line of evidence: what was looked at, what was found, and how it was computed."""

    name: str
    value: str
    how: str = ""


class Act(BaseModel):
    """One of the five things that must happen."""

    title: str
    asks: str
    """What would have to be true for the act to count."""
    happened: bool = False
    begun: float = 0.0
    """Seconds of wall time since the start of the story."""
    seconds: float = 0.0
    """Wall time that the act took; one act may lie within another."""
    start: datetime | None = None
    """Event time."""
    end: datetime | None = None
    found: list[Fact] = []


class MemorySample(BaseModel):
    """Proportional memory (PSS) of every process of the run, in bytes, by the program that it belongs to."""

    second: float
    """Wall time since the start."""
    programs: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.programs.values())


class Mark(BaseModel):
    """Something that happened at one moment: a trigger, a training, an operator's command, a crash."""

    lane: Literal["training", "people", "fault"]
    at: datetime
    good: bool
    label: str
    text: str


class Story(BaseModel):
    """What the story itself measured: everything that the ledger and the log do not hold."""

    model: str
    first_version: int | None = None
    """The version that was launched first and, in the comparison, never retrained."""
    replay_start: datetime
    replay_end: datetime
    sample: float
    """Share of flights that ask for a prediction."""
    acts: list[Act]
    memory: list[MemorySample] = []
    seconds: float = 0.0
    cpus: int = 0
    versions: dict[str, str] = {}
    """Library -> version."""
    faults: list[Mark] = []
    losses: list[Fact] = []
    """What clients, gateway and log counted while the platform still ran."""


class Span(BaseModel):
    """A version was champion, from and until (event time)."""

    version: int
    start: datetime
    end: datetime
    why: str


class RolloutSpan(BaseModel):
    champion: int | None
    challenger: int
    start: datetime
    end: datetime
    state: str
    reason: str


class Window(BaseModel):
    """What one monitor said about one window."""

    kind: str
    version: int
    start: datetime
    end: datetime
    verdict: str
    metric: float | None
    threshold: float | None = None
    numbers: dict[str, Any] = {}


class Timeline(BaseModel):
    champions: list[Span]
    rollouts: list[RolloutSpan]
    marks: list[Mark]
    windows: list[Window]


class Estimate(BaseModel):
    """An estimate with its 95 % interval."""

    low: float
    value: float
    high: float


class Month(BaseModel):
    """AUC on the same flights; None where a month holds too little to say."""

    month: datetime
    flights: int
    late: float
    living: Estimate | None
    first: Estimate | None
    recent: Estimate | None
    difference: Estimate | None
    """Living minus never retrained, paired, by day."""


class Comparison(BaseModel):
    months: list[Month]
    since: datetime
    """The first automatic promotion; the pooled numbers start here."""
    until: datetime
    flights: int
    days: int
    pooled: Estimate | None
    """Living minus never retrained."""
    pooled_living: Estimate | None
    pooled_first: Estimate | None
    pooled_recent: Estimate | None
    recent_difference: Estimate | None
    """Living minus the model retrained at the same moments on the most recent rows of the first one's number."""
    recent_rows: int


class Week(BaseModel):
    start: datetime
    answers: dict[int, int]
    """Version -> answers delivered."""


class Decision(BaseModel):
    at: datetime
    who: str
    what: str
    verdict: Literal["yes", "no", "hold"]
    because: str
    numbers: list[Fact]


class Evidence(BaseModel):
    """Everything that the report shows."""

    story: Story
    timeline: Timeline
    comparison: Comparison | None
    weeks: list[Week]
    decisions: list[Decision]
    events: int
    chain_intact: bool
