"""The facts that the page shows and `/api/status` answers: read from the ledger, the contracts and the gateway.

Plain data without markup. A part that does not answer leaves its numbers out; the page says so instead of failing.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.ledger import Ledger, alarms, events, monitors, progress, releases, rollouts, runs, versions
from slipway.ledger.schema import AlarmRow, EventRow, MonitorRow, ReleaseRow, RolloutRow, RunRow, VersionRow
from slipway.targets import Answers, Traffic
from slipway.targets.local.traffic import count_answers, read_traffic

KINDS = ("performance", "drift", "quality", "skew", "freshness")
_CHART_WINDOWS = 24
_PROJECTS = uuid.uuid5(uuid.NAMESPACE_DNS, "reports.slipway")
"""Evidently's project of a model is named by this and the model's name."""


@dataclass(frozen=True)
class Finding:
    """What a monitor found last, or in one window of a series."""

    kind: str
    verdict: str
    metric: float | None
    version: int
    window_start: datetime
    window_end: datetime
    reason: str
    """Why this verdict, in a sentence."""
    report: str
    """Path of the report on Evidently's host; empty when there is none."""


@dataclass(frozen=True)
class Rollout:
    challenger: int
    champion: int | None
    state: str
    step: int
    """Index into `steps`."""
    steps: list[int]
    """Per cent of traffic at each step."""
    since: datetime
    paused: bool
    reason: str
    looks: list[dict[str, Any]]
    """The findings of the last look of the present step: check, verdict, because."""


@dataclass(frozen=True)
class Run:
    id: int
    state: str
    step: str
    reason: str
    version: int | None
    message: str
    as_of: datetime


@dataclass(frozen=True)
class Event:
    id: int
    kind: str
    actor: str
    as_of: datetime
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Version:
    number: int
    state: str
    metric: str
    value: float | None
    """On the window that the gate judged."""
    interval: list[float] | None
    trained_until: str
    reasons: list[str]
    """Why the gate refused it; empty when it passed."""
    as_of: datetime


@dataclass(frozen=True)
class Alarm:
    kind: str
    message: str
    as_of: datetime


@dataclass(frozen=True)
class Model:
    name: str
    description: str
    owner: str
    champion: int | None
    previous: int | None
    challenger: int | None
    epoch: int
    frozen: bool
    archived: bool
    traffic: Traffic | None
    answers: dict[int, Answers]
    """Per version, since the gateway began to count; empty when it does not say."""
    rollout: Rollout | None
    versions: list[Version]
    """Newest first."""
    monitors: list[Finding]
    """The newest finding of each kind, about any version."""
    performance: list[Finding]
    """Oldest first, for the chart."""
    runs: list[Run]
    """Newest first."""
    events: list[Event]
    """Newest first."""
    alarms: list[Alarm]
    """Newest first."""

    def version(self, number: int | None) -> Version | None:
        return next((version for version in self.versions if version.number == number), None)


@dataclass(frozen=True)
class Overview:
    environment: str
    as_of: datetime | None
    """Event time; None before a replay has set it."""
    progress: dict[str, datetime]
    """Process -> event time up to which it has dealt with everything."""
    models: list[Model]


def read_overview(environment: Environment, ledger: Ledger, *, names: Sequence[str], depth: int = 8) -> Overview:
    """All facts about these models and those in the ledger; of each `depth` runs, versions and alarms and twice
    as many events."""
    with ledger.read() as session:
        found = {release.model: release for release in releases.list_all(session)}
        shown = sorted({*names, *found})
        models = [_read_model(environment, session, name, found.get(name), depth) for name in shown]
        reached = progress.read(session)
    return Overview(environment.settings.name, _as_of(environment), reached, models)


def _read_model(environment: Environment, session: Session, name: str, release: ReleaseRow | None, depth: int) -> Model:
    description, owner = _describe(name)
    rollout = rollouts.open_for(session, name)
    latest = {kind: monitors.recent(session, name, kind, limit=1) for kind in KINDS}
    series = monitors.recent(session, name, "performance", limit=_CHART_WINDOWS)
    traffic = read_traffic(environment, name)
    return Model(
        name=name,
        description=description,
        owner=owner,
        champion=release.champion if release else None,
        previous=release.previous if release else None,
        challenger=rollout.challenger if rollout else None,
        epoch=release.epoch if release else 0,
        frozen=bool(release and release.frozen),
        archived=bool(release and release.archived),
        traffic=traffic,
        answers=_answers(environment, name) if traffic else {},
        rollout=_rollout(rollout) if rollout else None,
        versions=[_version(row) for row in reversed(versions.list_all(session, name)[-depth:])],
        monitors=[_finding(rows[0]) for rows in latest.values() if rows],
        performance=[_finding(row) for row in reversed(series)],
        runs=[_run(row) for row in reversed(runs.list_all(session, name)[-depth:])],
        events=[_event(row) for row in reversed(events.read(session, name, 2 * depth))],
        alarms=[_alarm(row) for row in alarms.list_all(session, name, depth)],
    )


def _describe(name: str) -> tuple[str, str]:
    try:
        contract = load_contract(name)
    except SlipwayError:
        return "its contract cannot be read", ""  # a broken contract must not take the page away
    return contract.description, contract.owner.team


def _as_of(environment: Environment) -> datetime | None:
    try:
        return environment.clock.as_of()
    except SlipwayError:
        return None


def _answers(environment: Environment, model: str) -> dict[int, Answers]:
    try:
        return count_answers(environment, model)
    except SlipwayError:
        return {}


def _rollout(row: RolloutRow) -> Rollout:
    look = row.looks.get(str(row.step)) or {}
    findings = look.get("findings", []) if isinstance(look, dict) else []
    return Rollout(
        row.challenger, row.champion, row.state, row.step, rollouts.plan_of(row).steps, row.step_since, row.paused,
        row.reason, [dict(finding) for finding in findings],
    )  # fmt: skip


def _version(row: VersionRow) -> Version:
    gate = row.gate
    return Version(
        number=row.version,
        state=row.state,
        metric=str(gate.get("metric", "auc")),
        value=gate.get("value"),
        interval=gate.get("interval"),
        trained_until=str((gate.get("training") or {}).get("end", ""))[:10],
        reasons=[str(reason) for reason in gate.get("reasons") or []],
        as_of=row.as_of,
    )


def _finding(row: MonitorRow) -> Finding:
    return Finding(
        row.kind, row.verdict, row.metric, row.version, row.window_start, row.window_end,
        str(row.numbers.get("reason", "")), _report_path(row),
    )  # fmt: skip


def _report_path(row: MonitorRow) -> str:
    return f"/projects/{uuid.uuid5(_PROJECTS, row.model)}/reports/{row.report}" if row.report else ""


def _run(row: RunRow) -> Run:
    message = row.outcome.get("message", "")
    return Run(row.id, row.state, row.step, row.reason, row.version, str(message), row.as_of)


def _event(row: EventRow) -> Event:
    return Event(row.id, row.kind, row.actor, row.as_of, dict(row.evidence))


def _alarm(row: AlarmRow) -> Alarm:
    return Alarm(row.kind, row.message, row.as_of)
