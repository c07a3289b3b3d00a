"""Reads what the run left in the ledger, and puts it in the words of the report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipelines.flight_delay.demo.facts import Decision, Fact, Mark, RolloutSpan, Span, Timeline, Window
from slipway.ledger import events, rollouts
from slipway.ledger.schema import EventRow, MonitorRow, RunRow

AUTOMATION = ("controller", "pipeline", "monitor")
"""Actors that are no person."""
UNTOLD = {"rollout", "run", "trigger", "challenger", "champion", "epoch", "replaced_epoch", "digest", "key", "window"}
"""Evidence that names a row and is no number to judge by."""
MOST_LINES = 60


def read_timeline(session: Session, model: str, end: datetime, faults: Sequence[Mark] = ()) -> Timeline:
    """Champions, rollouts, trainings, people's commands and monitor windows until `end` (event time)."""
    told = events.read(session, model)
    return Timeline(
        champions=read_champions(told, end),
        rollouts=_read_rollouts(session, model, told, end),
        marks=[*_read_runs(session, model, told), *_read_people(told), *faults],
        windows=_read_windows(session, model),
    )


def read_champions(told: Sequence[EventRow], end: datetime) -> list[Span]:
    """Who was champion from when to when, oldest first."""
    changes = [event for event in told if event.kind in ("promoted", "rolled_back")]
    spans = []
    for number, event in enumerate(changes):
        until = changes[number + 1].as_of if number + 1 < len(changes) else max(end, event.as_of)
        rolled_back = event.kind == "rolled_back"
        version = int(event.evidence["to"] if rolled_back else event.evidence["version"])
        why = f"{'put back' if rolled_back else 'promoted'} by {event.actor}: {event.evidence.get('reason', '')}"
        spans.append(Span(version=version, start=event.as_of, end=until, why=why))
    return spans


def _read_rollouts(session: Session, model: str, told: Sequence[EventRow], end: datetime) -> list[RolloutSpan]:
    """Rollouts against a champion; the launch of the first version has nobody to be compared with."""
    ends = {
        event.evidence.get("rollout"): event.as_of
        for event in told
        if event.kind in ("rollout_done", "rollout_aborted", "rollout_failed")
    }
    return [
        RolloutSpan(
            champion=row.champion,
            challenger=row.challenger,
            start=row.as_of,
            end=ends.get(row.id, end),
            state=row.state,
            reason=row.reason,
        )
        for row in rollouts.list_all(session, model)
        if row.champion is not None
    ]


def _read_runs(session: Session, model: str, told: Sequence[EventRow]) -> list[Mark]:
    runs = {run.id: run for run in session.scalars(select(RunRow).where(RunRow.model == model))}
    marks = []
    for event in told:
        run = runs.get(event.evidence.get("run", -1))
        if run is None or event.kind not in ("run_succeeded", "run_refused", "run_failed"):
            continue
        passed = event.kind == "run_succeeded"
        said_no = f"gate: not v{run.version}" if run.version else f"{run.step} stopped it"
        label = f"v{run.version}" if passed else said_no if event.kind == "run_refused" else "failed"
        where = "by the gate" if run.version and event.kind == "run_refused" else f"at {run.step}"
        words = f"{run.reason}: {run.state} {where}. {shorten(str(run.outcome.get('message', '')))}"
        marks.append(Mark(lane="training", at=event.as_of, good=passed, label=label, text=words))
    return marks


def _read_people(told: Sequence[EventRow]) -> list[Mark]:
    words = {"rolled_back": "rollback", "resumed": "resume", "promoted": "promote"}
    return [
        Mark(
            lane="people",
            at=event.as_of,
            good=event.kind != "rolled_back",
            label=words[event.kind],
            text=f"{event.kind} by {event.actor}. {event.evidence.get('reason', '')}",
        )
        for event in told
        if event.kind in words and event.actor not in AUTOMATION
    ]


def _read_windows(session: Session, model: str) -> list[Window]:
    rows = session.scalars(select(MonitorRow).where(MonitorRow.model == model).order_by(MonitorRow.window_end))
    return [
        Window(
            kind=row.kind,
            version=row.version,
            start=row.window_start,
            end=row.window_end,
            verdict=row.verdict,
            metric=row.metric,
            threshold=_limit_of(row),
            numbers=row.numbers,
        )
        for row in rows
    ]


def _limit_of(row: MonitorRow) -> float | None:
    """The champion's value at the gate less what the contract allows; None for monitors without a gate value."""
    gate, drop = row.numbers.get("gate"), row.numbers.get("drop")
    if not isinstance(gate, Mapping) or not isinstance(drop, int | float):
        return None
    return float(gate["value"]) - float(drop)


def read_decisions(session: Session, model: str) -> list[Decision]:
    """Every event that decided something, in the order in which it was decided."""
    return [decision for event in events.read(session, model) if (decision := _decide(event))]


def _decide(event: EventRow) -> Decision | None:
    told = event.evidence
    look = told.get("look")
    verdict_of_look = str(look.get("verdict", "")) if isinstance(look, Mapping) else ""
    version, challenger = told.get("version"), told.get("challenger")
    what, verdict = {
        "run_succeeded": (f"Gate passed version {version}.", "yes"),
        "run_refused": (f"{_refuser(told)} said no.", "no"),
        "run_failed": (f"Pipeline failed at {told.get('step', '?')}.", "no"),
        "trigger_fired": (f"Trigger: retrain.{_windows_of(told)}", "hold"),
        "rollout_opened": (f"Rollout of version {challenger} opened.", "hold"),
        "rollout_looked": (f"Canary of version {challenger}: {verdict_of_look or 'looked'}.", "hold"),
        "rollout_moved": (f"Rollout of version {challenger}: on to {_place(told)}.", "yes"),
        "rollout_aborted": (f"Version {challenger} hauled back.", "no"),
        "rollout_failed": (f"Rollout of version {challenger} failed.", "no"),
        "promoted": (f"Version {version} is champion.", "yes"),
        "rolled_back": (f"Rolled back from version {version} to {told.get('to')}.", "no"),
        "resumed": ("Automation acts again.", "yes"),
    }.get(event.kind, ("", "hold"))
    if not what:
        return None
    return Decision(
        at=event.as_of,
        who=event.actor,
        what=what,
        verdict=verdict,
        because=shorten(_reason(told)),
        numbers=list_numbers({key: value for key, value in told.items() if key not in UNTOLD})[:MOST_LINES],
    )


def _windows_of(told: Mapping[str, Any]) -> str:
    """The windows that a trigger names, with what was measured."""
    windows = [row for row in told.get("windows", []) if isinstance(row.get("metric"), float)]
    return "".join(f" Week to {str(row['end'])[:10]}: {row['metric']:.3f} {row['verdict']}." for row in windows)


def _refuser(told: Mapping[str, Any]) -> str:
    """A version exists only once the gate has judged it."""
    return (
        f"Gate of version {told['version']}" if told.get("version") else str(told.get("step", "pipeline")).capitalize()
    )


def describe_event(event: EventRow) -> str:
    """One line for a person who watches; empty for events that decide nothing."""
    decision = _decide(event)
    return f"{decision.what} {shorten(decision.because, 1)}".strip() if decision else ""


def shorten(message: str, most: int = 2) -> str:
    """The first reasons of a message; how many more there are stands for the rest."""
    reasons = [part.strip() for part in re.split(r"\n(?!\s*hint)|; ", message) if part.strip()]
    reasons = [re.sub(r"\s+hint:.*", "", reason, flags=re.DOTALL) for reason in reasons]
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _place(told: Mapping[str, Any]) -> str:
    return f"canary step {told.get('step', 0) + 1}" if told.get("state") == "canary" else str(told.get("state"))


def _reason(told: Mapping[str, Any]) -> str:
    for source in (told, told.get("look"), told.get("outcome")):
        if isinstance(source, Mapping):
            for key in ("reason", "because", "message"):
                if source.get(key):
                    return str(source[key])
    return ""


def list_numbers(value: Mapping[str, Any], path: str = "") -> list[Fact]:
    """Nested evidence as lines `a.b: value`; an interval is one line; empty parts are left out."""
    lines: list[Fact] = []
    for key, item in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping):
            if {"low", "high"} <= item.keys():
                lines.append(Fact(name=name, value=_interval(item)))
            else:
                lines += list_numbers(item, name)
        elif isinstance(item, list) and item and all(isinstance(part, Mapping) for part in item):
            for number, part in enumerate(item, start=1):
                lines += list_numbers(part, f"{name} {part.get('name', part.get('rule', number))}")
        elif item not in (None, "", []):
            lines.append(Fact(name=name, value=_plain(item)))
    return lines


def _interval(item: Mapping[str, Any]) -> str:
    middle = item.get("estimate", item.get("value"))
    spelled = f"{_plain(item['low'])} to {_plain(item['high'])}"
    return f"{_plain(middle)} ({spelled})" if middle is not None else spelled


def _plain(item: object) -> str:
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, float):
        return f"{item:.4g}" if abs(item) < 1e6 else f"{item:,.0f}"
    if isinstance(item, list):
        return ", ".join(_plain(part) for part in item)
    return f"{item:,}" if isinstance(item, int) and abs(item) >= 10_000 else str(item)
