"""Rollouts as the ledger knows them: a state machine whose every move names the state that it leaves.

pending -> starting -> canary (step by step) -> promoting -> done; from each of the open states also to aborted (the
challenger is hauled back) and failed (it never ran). The first version of a model skips the canary: there is nobody to
compare it with.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from slipway.contract import RolloutPlan
from slipway.errors import Conflict, Refused, Unknown
from slipway.ledger import events, versions
from slipway.ledger.schema import ReleaseRow, RolloutRow

CLOSED = ("done", "aborted", "failed")
MOVES = {
    "pending": {"starting"},
    "starting": {"canary", "promoting"},
    "canary": {"canary", "promoting"},
    "promoting": {"done"},
}
"""From each open state, where it may go besides aborted and failed."""


def open_for(session: Session, model: str) -> RolloutRow | None:
    """The rollout in progress; there is at most one (a unique index says so)."""
    return session.scalars(
        select(RolloutRow).where(RolloutRow.model == model, RolloutRow.state.not_in(CLOSED))
    ).one_or_none()


def list_all(session: Session, model: str) -> list[RolloutRow]:
    """Every rollout, oldest first."""
    return list(session.scalars(select(RolloutRow).where(RolloutRow.model == model).order_by(RolloutRow.id)))


def begin(
    session: Session, model: str, challenger: int, *, plan: RolloutPlan, reason: str, as_of: datetime
) -> RolloutRow:
    """Open a rollout of `challenger` against the present champion.

    Raises Refused when the gate or an earlier rollback said no to it, Conflict when another rollout is open.
    """
    row = versions.read(session, model, challenger)
    if row.state != "candidate" or versions.is_blocked(session, model, row.digest):
        raise Refused(f"{model} version {challenger}: is {row.state}, only a candidate can be rolled out")
    running = open_for(session, model)
    if running is not None:
        raise Conflict(f"{model}: a rollout of version {running.challenger} is in progress")
    release = session.get(ReleaseRow, model)
    rollout = RolloutRow(
        model=model,
        challenger=challenger,
        champion=release.champion if release else None,
        epoch=release.epoch if release else 0,
        state="pending",
        plan=plan.model_dump(mode="json"),
        step=0,
        step_since=as_of,
        canary_since=None,
        counts={},
        looks={},
        paused=False,
        reason=reason,
        as_of=as_of,
    )
    session.add(rollout)
    session.flush()
    _tell(session, rollout, "rollout_opened", as_of, "controller", reason=reason)
    return rollout


def move(
    session: Session,
    rollout: RolloutRow,
    state: str,
    *,
    as_of: datetime,
    step: int | None = None,
    look: Mapping[str, Any] | None = None,
) -> RolloutRow:
    """Go on to `state` (and `step`, for canary); `look` is the analysis that allowed it.

    Raises Conflict when the rollout is no longer where `rollout` says it is, or was paused meanwhile.
    """
    if state not in MOVES[rollout.state]:
        raise ValueError(f"a rollout cannot go from {rollout.state} to {state}")
    columns: dict[str, Any] = {"state": state, "step_since": as_of, "counts": {}}
    if step is not None:
        columns["step"] = step
    if look is not None:
        columns["looks"] = {**rollout.looks, str(rollout.step): events.to_plain(look)}
    if state == "canary" and rollout.canary_since is None:
        columns["canary_since"] = as_of
    moved = _compare_and_set(session, rollout, **columns)
    _tell(session, moved, "rollout_moved", as_of, "controller", before=rollout.state, look=look)
    return moved


def note(
    session: Session,
    rollout: RolloutRow,
    *,
    counts: Mapping[str, Any] | None = None,
    look: Mapping[str, Any] | None = None,
    as_of: datetime,
) -> RolloutRow:
    """Keep what was counted or looked at on the present step, without moving. A look is also an event."""
    columns: dict[str, Any] = {}
    if counts is not None:
        columns["counts"] = events.to_plain(counts)
    if look is not None:
        columns["looks"] = {**rollout.looks, str(rollout.step): events.to_plain(look)}
    noted = _compare_and_set(session, rollout, **columns)
    if look is not None:
        _tell(session, noted, "rollout_looked", as_of, "controller", look=look)
    return noted


def close(
    session: Session,
    rollout: RolloutRow,
    state: str,
    *,
    reason: str,
    as_of: datetime,
    actor: str = "controller",
    block: bool = False,
    look: Mapping[str, Any] | None = None,
) -> RolloutRow:
    """End the rollout as done, aborted or failed; `block` marks the challenger as rolled back, for ever."""
    if state not in CLOSED:
        raise ValueError(f"{state} is not an end")
    columns: dict[str, Any] = {"state": state, "reason": reason}
    if look is not None:
        columns["looks"] = {**rollout.looks, str(rollout.step): events.to_plain(look)}
    closed = _compare_and_set(session, rollout, **columns)
    if block:
        versions.block(session, rollout.model, rollout.challenger)
    kind = "rollout_done" if state == "done" else f"rollout_{state}"
    _tell(session, closed, kind, as_of, actor, reason=reason, blocked=block, look=look, percent_step=rollout.step)
    return closed


def set_paused(session: Session, model: str, paused: bool, *, actor: str, as_of: datetime) -> RolloutRow:
    """Hold the rollout where it is, or let it go on; the step then begins anew. Health still rolls back.

    Raises Refused when there is no rollout in progress.
    """
    rollout = require_open(session, model)
    if rollout.paused != paused:
        columns: dict[str, Any] = {"paused": paused}
        if not paused:
            columns |= {
                "step_since": as_of,
                "counts": {},
                "looks": {step: look for step, look in rollout.looks.items() if step != str(rollout.step)},
            }
        rollout = _compare_and_set(session, rollout, **columns)
        _tell(session, rollout, "rollout_paused" if paused else "rollout_resumed", as_of, actor)
    return rollout


def abort(session: Session, model: str, *, actor: str, reason: str, as_of: datetime) -> RolloutRow:
    """A person hauls the challenger back; its content stays blocked. Raises Refused when there is no rollout, or when
    the challenger has become champion already (then it is `slipway rollback`)."""
    rollout = require_open(session, model)
    release = session.get(ReleaseRow, model)
    if release is not None and release.champion == rollout.challenger:
        raise Refused(
            f"{model} version {rollout.challenger}: is the champion already", hint=f"slipway rollback {model}"
        )
    return close(session, rollout, "aborted", reason=reason, as_of=as_of, actor=actor, block=True)


def plan_of(rollout: RolloutRow) -> RolloutPlan:
    """The rules that this rollout started with."""
    return RolloutPlan.model_validate(rollout.plan)


def percent_of(rollout: RolloutRow) -> int:
    """Share of requests, in per cent, that the challenger answers now."""
    return plan_of(rollout).steps[rollout.step] if rollout.state in ("canary", "promoting") else 0


def require_open(session: Session, model: str) -> RolloutRow:
    """The rollout in progress. Raises Unknown for a model that was never rolled out, Refused when none is open."""
    rollout = open_for(session, model)
    if rollout is None:
        known = session.scalars(select(RolloutRow.model).distinct().order_by(RolloutRow.model)).all()
        if model not in known:
            raise Unknown("rollout", model, known)
        raise Refused(f"{model}: no rollout is in progress", hint=f"slipway rollout show {model}")
    return rollout


def newest_challenger(session: Session, model: str) -> int:
    """The highest version that was ever rolled out, 0 before the first."""
    return session.scalar(select(func.max(RolloutRow.challenger)).where(RolloutRow.model == model)) or 0


def _compare_and_set(session: Session, rollout: RolloutRow, **columns: Any) -> RolloutRow:
    """The row as the caller knew it becomes the new one; else Conflict. The caller's object is left as it was."""
    result = session.execute(
        update(RolloutRow)
        .where(
            RolloutRow.id == rollout.id,
            RolloutRow.state == rollout.state,
            RolloutRow.step == rollout.step,
            RolloutRow.paused == rollout.paused,
        )
        .values(**columns)
        .returning(RolloutRow.id)
        .execution_options(synchronize_session=False)
    )
    if result.first() is None:
        raise Conflict(f"{rollout.model}: the rollout of version {rollout.challenger} was changed by somebody else")
    if rollout in session:
        session.expunge(rollout)
    return session.get_one(RolloutRow, rollout.id, populate_existing=True)


def _tell(session: Session, rollout: RolloutRow, kind: str, as_of: datetime, actor: str, **evidence: Any) -> None:
    events.record(
        session,
        model=rollout.model,
        kind=kind,
        actor=actor,
        as_of=as_of,
        rollout=rollout.id,
        challenger=rollout.challenger,
        champion=rollout.champion,
        state=rollout.state,
        step=rollout.step,
        **{key: value for key, value in evidence.items() if value is not None},
    )
