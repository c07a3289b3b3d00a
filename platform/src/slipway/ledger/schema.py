"""The tables of the release ledger.

MLflow says what versions exist; the ledger says what is released, and why. All times are UTC; `as_of` columns are
event time, `written` columns are the wall clock and serve people only.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, ForeignKey, Index, String, Text, TypeDecorator, UniqueConstraint, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Utc(TypeDecorator[datetime]):
    """A moment with a time zone; SQLite keeps none, so it is put back on reading. Naive moments are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, list[Any]: JSON}


def _now() -> datetime:
    return datetime.now(UTC)


class ReleaseRow(Base):
    """Which version is champion: one row per model, changed only by compare-and-set on `epoch`."""

    __tablename__ = "release"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    champion: Mapped[int | None]
    previous: Mapped[int | None]
    epoch: Mapped[int] = mapped_column(default=0)
    frozen: Mapped[bool] = mapped_column(default=False)
    """True after a manual rollback, until `slipway resume`: automation does not act on this model."""
    archived: Mapped[bool] = mapped_column(default=False)
    written: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)


class VersionRow(Base):
    """What the ledger remembers of a version: its digest, its gate record, and whether it was ever rolled back."""

    __tablename__ = "version"
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    """sha256 of the bundle's content, the same for the same content under another number."""
    gate: Mapped[dict[str, Any]]
    """The gate record, whole: numbers, thresholds, verdict, training span."""
    state: Mapped[str] = mapped_column(String(20))
    """candidate, refused (by the gate), champion, retired, rolled_back, archived."""
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now)


class RolloutRow(Base):
    """Moving traffic from champion to challenger: a state machine that survives a kill at any point."""

    __tablename__ = "rollout"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    challenger: Mapped[int]
    champion: Mapped[int | None]
    epoch: Mapped[int]
    """The release epoch that this rollout started from, and that its promotion replaces."""
    state: Mapped[str] = mapped_column(String(20))
    """pending, starting, canary, promoting, done, aborted, failed."""
    plan: Mapped[dict[str, Any]]
    """The contract's rollout section as it was at the start: an edit does not change the rules half-way."""
    step: Mapped[int] = mapped_column(default=0)
    """Index into the plan's steps while the state is canary."""
    step_since: Mapped[datetime]
    """Event time at which the present step began."""
    canary_since: Mapped[datetime | None]
    """Event time at which the challenger first answered: quality is judged on the rows logged from then on."""
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Answers and errors by version on the present step, summed over restarts of the gateway's counters."""
    looks: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """The analysis of each step: numbers, verdict."""
    paused: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str] = mapped_column(Text, default="")
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)
    __table_args__ = (
        Index(
            "rollout_one_open_per_model",
            "model",
            unique=True,
            sqlite_where=text("state not in ('done', 'aborted', 'failed')"),
            postgresql_where=text("state not in ('done', 'aborted', 'failed')"),
        ),
    )


class TriggerRow(Base):
    """A reason to retrain, unique by (model, champion epoch, attempt), one open per model."""

    __tablename__ = "trigger"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    epoch: Mapped[int]
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20))
    """performance, drift, schedule."""
    evidence: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(20))
    """open, done."""
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)
    __table_args__ = (
        UniqueConstraint("model", "epoch", "attempt"),
        Index(
            "trigger_one_open_per_model",
            "model",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
    )


class RunRow(Base):
    """A pipeline run: asked for by a trigger or a person, taken by the pipeline runner."""

    __tablename__ = "run"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(200), unique=True)
    """Idempotency key: the same key asked for twice is one run."""
    model: Mapped[str] = mapped_column(String(63))
    pipeline: Mapped[str] = mapped_column(String(40), default="training")
    reason: Mapped[str] = mapped_column(Text)
    trigger: Mapped[int | None] = mapped_column(ForeignKey("trigger.id"))
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Contract file and variations that a demonstration asks for; empty in production."""
    state: Mapped[str] = mapped_column(String(20))
    """waiting, running, succeeded (a version passed the gate), refused (by validation or the gate), failed."""
    step: Mapped[str] = mapped_column(String(40), default="")
    """The step that runs now, or at which it ended."""
    attempts: Mapped[int] = mapped_column(default=0)
    version: Mapped[int | None]
    outcome: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What was found: message, gate record or validation problems, seconds per step."""
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)


class MonitorRow(Base):
    """What a monitor found in one window: idempotent by (model, kind, window, version)."""

    __tablename__ = "monitor"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(20))
    """performance, drift, quality, skew, freshness."""
    version: Mapped[int]
    epoch: Mapped[int]
    window_start: Mapped[datetime]
    window_end: Mapped[datetime]
    verdict: Mapped[str] = mapped_column(String(20))
    """good, bad, warn, inconclusive."""
    metric: Mapped[float | None] = mapped_column(Float)
    numbers: Mapped[dict[str, Any]]
    report: Mapped[str] = mapped_column(Text, default="")
    """Identifier of the report in the Evidently workspace; empty: none was made, or it is kept no longer."""
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now)
    __table_args__ = (UniqueConstraint("model", "kind", "version", "window_start", "window_end"),)


class AlarmRow(Base):
    """Something a person should look at; `sent` says whether the webhook took it."""

    __tablename__ = "alarm"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(200), unique=True)
    model: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(40))
    message: Mapped[str] = mapped_column(Text)
    sent: Mapped[bool] = mapped_column(default=False)
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now)


class EventRow(Base):
    """Who or what decided what, on which evidence: append-only, each row holds the hash of the one before."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    model: Mapped[str] = mapped_column(String(63))
    kind: Mapped[str] = mapped_column(String(40))
    actor: Mapped[str] = mapped_column(String(63))
    """controller, monitor, pipeline, or the name of a person."""
    evidence: Mapped[dict[str, Any]]
    as_of: Mapped[datetime]
    written: Mapped[datetime] = mapped_column(default=_now)
    before: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64), unique=True)


class ProgressRow(Base):
    """How far each process has brought the world: a replay waits for it."""

    __tablename__ = "progress"
    process: Mapped[str] = mapped_column(String(63), primary_key=True)
    """controller, monitor, collector."""
    as_of: Mapped[datetime]
    """Everything known by this event time has been dealt with."""
    written: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)
