"""What monitors found, one row per (model, kind, version, window)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway.ledger.events import to_plain
from slipway.ledger.schema import MonitorRow

VERDICTS = ("good", "bad", "warn", "inconclusive")


def store(session: Session, **columns: Any) -> MonitorRow:
    """Keep the finding of one window; the same window of the same version again gives the first finding back."""
    if columns.get("verdict") not in VERDICTS:
        raise ValueError(f"{columns.get('verdict')!r} is not a verdict (one of {', '.join(VERDICTS)})")
    same = ("model", "kind", "version", "window_start", "window_end")
    known = session.scalars(
        select(MonitorRow).where(*(getattr(MonitorRow, name) == columns[name] for name in same))
    ).one_or_none()
    if known is not None:
        return known
    metric = to_plain(columns.get("metric"))
    row = MonitorRow(**{"report": "", **columns, "metric": metric, "numbers": to_plain(columns.get("numbers", {}))})
    session.add(row)
    session.flush()
    return row


def reported_before(session: Session, model: str, moment: datetime) -> list[MonitorRow]:
    """Findings with a report about a window that ended before `moment`."""
    query = select(MonitorRow).where(MonitorRow.model == model, MonitorRow.report != "", MonitorRow.window_end < moment)
    return list(session.scalars(query))


def recent(
    session: Session, model: str, kind: str | None = None, *, epoch: int | None = None, limit: int = 20
) -> list[MonitorRow]:
    """The newest findings, newest window first."""
    query = select(MonitorRow).where(MonitorRow.model == model)
    if kind is not None:
        query = query.where(MonitorRow.kind == kind)
    if epoch is not None:
        query = query.where(MonitorRow.epoch == epoch)
    return list(session.scalars(query.order_by(MonitorRow.window_end.desc(), MonitorRow.id.desc()).limit(limit)))
