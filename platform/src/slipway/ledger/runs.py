"""Pipeline runs: asked for by a trigger or a person, taken by the pipeline runner."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway.errors import Conflict, Unknown
from slipway.ledger import events
from slipway.ledger.schema import RunRow

ENDS = ("succeeded", "refused", "failed")
MOST_ATTEMPTS = 3
"""How often a run is taken up again after its runner died in the middle of it."""


def submit(
    session: Session,
    *,
    key: str,
    model: str,
    reason: str,
    as_of: datetime,
    trigger: int | None = None,
    options: Mapping[str, Any] | None = None,
    actor: str = "controller",
) -> RunRow:
    """Ask for a run; the same key again gives the same run."""
    known = session.scalars(select(RunRow).where(RunRow.key == key)).one_or_none()
    if known is not None:
        return known
    run = RunRow(
        key=key,
        model=model,
        pipeline="training",
        reason=reason,
        trigger=trigger,
        options=events.to_plain(options or {}),
        state="waiting",
        step="",
        attempts=0,
        outcome={},
        as_of=as_of,
    )
    session.add(run)
    session.flush()
    events.record(
        session,
        model=model,
        kind="run_submitted",
        actor=actor,
        as_of=as_of,
        run=run.id,
        key=key,
        reason=reason,
        options=options or {},
    )
    return run


def claim(session: Session) -> RunRow | None:
    """The oldest run that is to be worked on, now `running`; None when there is none.

    One runner works on one run at a time, so a run that is found running was left by a runner that died: it is taken up
    again, and failed after MOST_ATTEMPTS.
    """
    for run in session.scalars(select(RunRow).where(RunRow.state.in_(("waiting", "running"))).order_by(RunRow.id)):
        if run.attempts >= MOST_ATTEMPTS:
            message = f"the runner died {run.attempts} times at step {run.step or 'start'}"
            finish(session, run.id, "failed", outcome={"message": message})
            continue
        run.state = "running"
        run.attempts += 1
        session.flush()
        return run
    return None


def set_step(session: Session, run_id: int, step: str) -> None:
    """Say which step runs now."""
    read(session, run_id).step = step


def finish(
    session: Session,
    run_id: int,
    state: str,
    *,
    version: int | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> RunRow:
    """End a run as succeeded, refused or failed; the same end again changes nothing. Raises Conflict for another."""
    if state not in ENDS:
        raise ValueError(f"{state} is not the end of a run")
    run = read(session, run_id)
    if run.state in ENDS:
        if run.state != state or run.version != version:
            raise Conflict(f"run {run_id}: ended as {run.state} before")
        return run
    run.state, run.version, run.outcome = state, version, events.to_plain(outcome or {})
    session.flush()
    events.record(
        session,
        model=run.model,
        kind=f"run_{state}",
        actor="pipeline",
        as_of=run.as_of,
        run=run.id,
        step=run.step,
        version=version,
        outcome=outcome or {},
    )
    return run


def read(session: Session, run_id: int) -> RunRow:
    """Raises Unknown."""
    run = session.get(RunRow, run_id)
    if run is None:
        raise Unknown("run", run_id, session.scalars(select(RunRow.id).order_by(RunRow.id.desc()).limit(10)).all())
    return run


def list_all(session: Session, model: str | None = None) -> list[RunRow]:
    """Every run, oldest first."""
    query = select(RunRow).order_by(RunRow.id)
    return list(session.scalars(query if model is None else query.where(RunRow.model == model)))
