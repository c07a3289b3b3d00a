"""From stored monitor findings to a retraining: N bad of the last M conclusive windows, once.

Drift warns and does not retrain, unless the contract says so: weather and season always drift.
"""

from __future__ import annotations

from collections.abc import Sequence

from slipway.controller.world import World
from slipway.failpoints import failpoint
from slipway.ledger import alarms, monitors, releases, rollouts, runs, triggers
from slipway.ledger.schema import MonitorRow, ReleaseRow, TriggerRow
from slipway.logs import get_logger

RECENT = 100
"""Findings of one kind that are looked through."""
_SEVERITY = {"good": 0, "warn": 1, "bad": 2}
CONCLUSIVE = tuple(_SEVERITY)


def close_triggers(world: World) -> bool:
    """Close those whose run has ended; whether there was one."""
    with world.ledger.read() as session:
        newest = triggers.newest(session, world.model)
        ended = {run.trigger for run in runs.list_all(session, world.model) if run.state in runs.ENDS}
    if newest is None or newest.state != "open" or newest.id not in ended:
        return False
    with world.ledger.transaction() as session:
        triggers.close_finished(session, world.model, as_of=world.as_of)
    failpoint("trigger.after_closing")
    return True


def pull_trigger(world: World) -> bool:
    """Start a retraining if the findings or the schedule ask for one and the contract allows it."""
    with world.ledger.read() as session:
        release = releases.read(session, world.model)
        if release is None or release.champion is None or release.frozen or release.archived:
            return False
        busy = rollouts.open_for(session, world.model) is not None or any(
            run.state in ("waiting", "running") for run in runs.list_all(session, world.model)
        )
        last = triggers.newest(session, world.model)
        findings = {
            kind: monitors.recent(session, world.model, kind, epoch=release.epoch, limit=RECENT)
            for kind in ("performance", "drift")
        }
        spent = triggers.is_over_budget(session, world.model, world.contract.retraining, world.as_of)
    if busy:
        return False
    for kind in world.contract.retraining.on:
        bad = choose_windows(world, findings[kind], last)
        if bad and spent:
            return _tell_of_budget(world, release)
        if bad:
            evidence = {"windows": [_window_of(row) for row in bad], "champion": release.champion}
            return _fire(world, release, kind, evidence)
    return _is_scheduled(world) and not spent and _fire(world, release, "schedule", {"champion": release.champion})


def choose_windows(world: World, rows: Sequence[MonitorRow], last: TriggerRow | None) -> list[MonitorRow]:
    """The last M conclusive windows, newest first, if at least N of them are bad; else nothing.

    Counted are windows of this epoch that ended after the last trigger and within the contract's age limit. Of windows
    that overlap only the newest counts: two neighbours that share their days are the same decay seen twice.
    """
    rule = world.contract.monitors.performance
    needed, among = rule.trigger
    chosen: list[MonitorRow] = []
    for row in rows:
        if row.verdict not in CONCLUSIVE or (chosen and row.window_end > chosen[-1].window_start):
            continue
        if row.window_end <= world.as_of - rule.max_age or (last is not None and row.window_end <= last.as_of):
            break
        chosen.append(row)
        if len(chosen) == among:
            break
    bad = sum(row.verdict == "bad" or (row.kind == "drift" and row.verdict == "warn") for row in chosen)
    return chosen if bad >= needed else []


def raise_alarms(world: World) -> bool:
    """Tell a person of windows that say nothing, K in a row, and of what warns; whether there was something new."""
    with world.ledger.read() as session:
        release = releases.read(session, world.model)
        if release is None or release.archived:
            return False
        performance = monitors.recent(session, world.model, "performance", epoch=release.epoch, limit=RECENT)
        known = {alarm.key for alarm in alarms.list_all(session, world.model, limit=500)}
        others = [
            row
            for kind in ("drift", "quality", "skew", "freshness")
            for row in choose_rises(monitors.recent(session, world.model, kind, epoch=release.epoch, limit=RECENT))
        ]
    wanted: dict[str, tuple[str, str]] = {}
    silent = _leading(performance)
    if len(silent) >= world.contract.monitors.performance.inconclusive_alarm:
        # Named after its first window, so that a silence is one alarm however long it lasts.
        first = silent[-1].window_start
        wanted[f"{world.model}-inconclusive-{release.epoch}-{first.isoformat()}"] = (
            "monitor_inconclusive",
            f"{len(silent)} performance windows in a row are inconclusive, since {first.isoformat()}",
        )
    for row in others:
        wanted[f"{world.model}-{row.kind}-{row.version}-{row.window_end.isoformat()}"] = (
            f"{row.kind}_{row.verdict}",
            f"{row.kind} of version {row.version} is {row.verdict} since the window up to {row.window_end.isoformat()}",
        )
    new = {key: alarm for key, alarm in wanted.items() if key not in known}
    for key, (kind, message) in new.items():
        with world.ledger.transaction() as session:
            alarms.raise_alarm(session, key=key, model=world.model, kind=kind, message=message, as_of=world.as_of)
    return bool(new)


def choose_rises(rows: Sequence[MonitorRow]) -> list[MonitorRow]:
    """The windows, of one kind and newest first, that are worse than the conclusive one before them.

    A season that drifts for months is one alarm, not one a week; the oldest row says nothing when older ones were cut.
    """
    conclusive = [row for row in rows if row.verdict in CONCLUSIVE]
    before = [_SEVERITY[row.verdict] for row in conclusive[1:]]
    if len(rows) < RECENT:
        before.append(_SEVERITY["good"])
    return [row for row, earlier in zip(conclusive, before, strict=False) if _SEVERITY[row.verdict] > earlier]


def _leading(rows: Sequence[MonitorRow]) -> list[MonitorRow]:
    """The inconclusive windows since the last conclusive one, newest first."""
    silent: list[MonitorRow] = []
    for row in rows:
        if row.verdict != "inconclusive":
            break
        silent.append(row)
    return silent


def _is_scheduled(world: World) -> bool:
    """The contract's time since the last training has passed, whoever asked for that one."""
    schedule = world.contract.retraining.schedule
    if schedule == "none":
        return False
    with world.ledger.read() as session:
        trained = [run.as_of for run in runs.list_all(session, world.model)]
    return bool(trained) and world.as_of >= max(trained) + schedule


def _fire(world: World, release: ReleaseRow, kind: str, evidence: dict[str, object]) -> bool:
    failpoint("trigger.before_ledger")
    with world.ledger.transaction() as session:
        trigger = triggers.fire(
            session,
            world.model,
            epoch=release.epoch,
            kind=kind,
            evidence=evidence,
            as_of=world.as_of,
            retraining=world.contract.retraining,
        )
    failpoint("trigger.after_ledger")
    if trigger is not None:
        get_logger().info("trigger fired", model=world.model, because=kind, attempt=trigger.attempt)
    return trigger is not None


def _tell_of_budget(world: World, release: ReleaseRow) -> bool:
    budget = world.contract.retraining.budget
    key = f"{world.model}-budget-{release.epoch}"
    with world.ledger.read() as session:
        if any(alarm.key == key for alarm in alarms.list_all(session, world.model, limit=500)):
            return False
    with world.ledger.transaction() as session:
        alarms.raise_alarm(
            session,
            key=key,
            model=world.model,
            kind="retraining_over_budget",
            message=f"performance asks for a retraining, but {budget.runs} were started within {budget.per}",
            as_of=world.as_of,
        )
    return True


def _window_of(row: MonitorRow) -> dict[str, object]:
    return {
        "kind": row.kind,
        "start": row.window_start,
        "end": row.window_end,
        "verdict": row.verdict,
        "metric": row.metric,
        "numbers": row.numbers,
        "report": row.report,
    }
