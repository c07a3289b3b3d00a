"""Reasons to retrain: unique by (model, champion epoch, attempt), one open per model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from slipway.contract import Retraining
from slipway.ledger import events, runs
from slipway.ledger.schema import ReleaseRow, RunRow, TriggerRow


def fire(
    session: Session,
    model: str,
    *,
    epoch: int,
    kind: str,
    evidence: Mapping[str, Any],
    as_of: datetime,
    retraining: Retraining,
) -> TriggerRow | None:
    """Open a trigger and ask for its run, in one transaction.

    None when nothing is to start: the epoch is no longer the current one, automation is frozen, a trigger is open, the
    last one is younger than the contract's cool-down, or the budget of the period is spent.
    """
    release = session.get(ReleaseRow, model)
    if release is None or release.epoch != epoch or release.frozen or release.archived:
        return None
    last = newest(session, model)
    if last is not None and (last.state == "open" or as_of < last.as_of + retraining.cooldown):
        return None
    if is_over_budget(session, model, retraining, as_of):
        return None
    attempts = session.scalar(
        select(func.count()).select_from(TriggerRow).where(TriggerRow.model == model, TriggerRow.epoch == epoch)
    )
    trigger = TriggerRow(
        model=model,
        epoch=epoch,
        attempt=(attempts or 0) + 1,
        kind=kind,
        evidence=events.to_plain(evidence),
        state="open",
        as_of=as_of,
    )
    session.add(trigger)
    session.flush()
    events.record(
        session,
        model=model,
        kind="trigger_fired",
        actor="controller",
        as_of=as_of,
        trigger=trigger.id,
        epoch=epoch,
        attempt=trigger.attempt,
        because=kind,
        **evidence,
    )
    runs.submit(
        session,
        key=f"{model}/epoch-{epoch}/attempt-{trigger.attempt}",
        model=model,
        reason=f"{kind} trigger {trigger.attempt} of epoch {epoch}",
        as_of=as_of,
        trigger=trigger.id,
    )
    return trigger


def is_over_budget(session: Session, model: str, retraining: Retraining, as_of: datetime) -> bool:
    """Whether the automatic retrainings of the period that ends now have used the contract's budget up."""
    spent = session.scalar(
        select(func.count())
        .select_from(TriggerRow)
        .where(TriggerRow.model == model, TriggerRow.as_of > as_of - retraining.budget.per)
    )
    return (spent or 0) >= retraining.budget.runs


def close_finished(session: Session, model: str, *, as_of: datetime) -> list[TriggerRow]:
    """Close the triggers whose run has ended, however it ended: a refusal does not block the next attempt."""
    rows = session.execute(
        select(TriggerRow, RunRow)
        .join(RunRow, RunRow.trigger == TriggerRow.id)
        .where(TriggerRow.model == model, TriggerRow.state == "open", RunRow.state.in_(runs.ENDS))
    ).all()
    for trigger, run in rows:
        trigger.state = "done"
        events.record(
            session,
            model=model,
            kind="trigger_closed",
            actor="controller",
            as_of=as_of,
            trigger=trigger.id,
            run=run.id,
            ended=run.state,
        )
    return [trigger for trigger, _ in rows]


def newest(session: Session, model: str) -> TriggerRow | None:
    """The last trigger of this model, of whatever epoch."""
    return session.scalars(
        select(TriggerRow).where(TriggerRow.model == model).order_by(TriggerRow.id.desc()).limit(1)
    ).one_or_none()


def list_all(session: Session, model: str) -> list[TriggerRow]:
    """Every trigger, oldest first."""
    return list(session.scalars(select(TriggerRow).where(TriggerRow.model == model).order_by(TriggerRow.id)))
