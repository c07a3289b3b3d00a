"""What a person should look at: one row per key, sent to the webhook once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway.ledger import events
from slipway.ledger.schema import AlarmRow


def raise_alarm(session: Session, *, key: str, model: str, kind: str, message: str, as_of: datetime) -> AlarmRow:
    """Raise an alarm; the same key again gives the first one back."""
    known = session.scalars(select(AlarmRow).where(AlarmRow.key == key)).one_or_none()
    if known is not None:
        return known
    alarm = AlarmRow(key=key, model=model, kind=kind, message=message, sent=False, as_of=as_of)
    session.add(alarm)
    session.flush()
    events.record(
        session, model=model, kind="alarm_raised", actor="controller", as_of=as_of, alarm=kind, key=key, message=message
    )
    return alarm


def unsent(session: Session, limit: int = 20) -> list[AlarmRow]:
    """The oldest alarms that the webhook has not taken."""
    return list(session.scalars(select(AlarmRow).where(AlarmRow.sent.is_(False)).order_by(AlarmRow.id).limit(limit)))


def mark_sent(session: Session, alarm_id: int) -> None:
    """The webhook took it."""
    session.get_one(AlarmRow, alarm_id).sent = True


def list_all(session: Session, model: str | None = None, limit: int = 50) -> list[AlarmRow]:
    """The newest alarms, newest first."""
    query = select(AlarmRow).order_by(AlarmRow.id.desc()).limit(limit)
    return list(session.scalars(query if model is None else query.where(AlarmRow.model == model)))
