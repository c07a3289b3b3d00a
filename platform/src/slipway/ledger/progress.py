"""How far each process has brought the world, and what a replay must still wait for."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway.ledger.rollouts import CLOSED
from slipway.ledger.schema import ProgressRow, ReleaseRow, RolloutRow, RunRow, TriggerRow, VersionRow

AT_ONCE = ("pending", "starting", "promoting")
"""States of a rollout that end by themselves, without event time moving on."""


def report(session: Session, process: str, as_of: datetime) -> None:
    """Everything known by `as_of` has been dealt with by `process`; it never goes back."""
    row = session.get(ProgressRow, process)
    if row is None:
        session.add(ProgressRow(process=process, as_of=as_of))
    elif as_of > row.as_of:
        row.as_of = as_of


def read(session: Session) -> dict[str, datetime]:
    """Process -> event time up to which it has dealt with everything."""
    return {row.process: row.as_of for row in session.scalars(select(ProgressRow))}


def outstanding(session: Session) -> list[str]:
    """What happens by itself before event time should move on, in words; empty when the world may go on.

    Together with the controller's own progress (reported only when every due look has been taken) this is the barrier
    of a replay. A model that a person has frozen or archived, and a rollout that waits for event time, hold nothing up.
    """
    runs = session.scalars(select(RunRow).where(RunRow.state.in_(("waiting", "running"))).order_by(RunRow.id))
    waits = [f"run {run.id} of {run.model} is {run.state}" for run in runs]
    held = set(session.scalars(select(ReleaseRow.model).where(ReleaseRow.frozen | ReleaseRow.archived)))
    rollouts = session.scalars(select(RolloutRow).where(RolloutRow.state.in_(AT_ONCE), RolloutRow.paused.is_(False)))
    waits += [f"rollout of {row.model} version {row.challenger} is {row.state}" for row in rollouts]
    triggers = session.scalars(select(TriggerRow).where(TriggerRow.state == "open"))
    waits += [f"trigger {row.id} of {row.model} is open" for row in triggers]
    busy = set(session.scalars(select(RolloutRow.model).where(RolloutRow.state.not_in(CLOSED))))
    waits += [
        f"{model} version {version} waits for its rollout"
        for model, version in unopened(session)
        if model not in held | busy
    ]
    return waits


def unopened(session: Session) -> list[tuple[str, int]]:
    """Versions that a run has delivered as candidates and that no rollout has taken up: (model, version)."""
    rows = session.execute(
        select(VersionRow.model, VersionRow.version)
        .join(RunRow, (RunRow.model == VersionRow.model) & (RunRow.version == VersionRow.version))
        .where(
            RunRow.state == "succeeded",
            VersionRow.state == "candidate",
            ~select(RolloutRow.id)
            .where(RolloutRow.model == VersionRow.model, RolloutRow.challenger >= VersionRow.version)
            .exists(),
            ~select(ReleaseRow.model)
            .where(ReleaseRow.model == VersionRow.model, ReleaseRow.champion > VersionRow.version)
            .exists(),
        )
        .distinct()
        .order_by(VersionRow.model, VersionRow.version)
    ).all()
    return [(model, version) for model, version in rows]


def busy_models(session: Session) -> set[str]:
    """Models for which something is under way, with or without a release."""
    queries = (
        select(RolloutRow.model).where(RolloutRow.state.not_in(CLOSED)),
        select(RunRow.model),
        select(TriggerRow.model).where(TriggerRow.state == "open"),
    )
    return {model for query in queries for model in session.scalars(query.distinct())}
