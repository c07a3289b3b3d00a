"""The event chain: who or what decided what, on which evidence; append-only, each row holds the hash of the one before.

The database refuses changes (triggers), `verify` finds those made behind its back, and the signed head (`chain_head`)
finds a chain that was rewritten whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from slipway.errors import Problem
from slipway.ledger.schema import EventRow

GENESIS = "0" * 64
"""What the first event names as the one before it."""


def record(session: Session, *, model: str, kind: str, actor: str, as_of: datetime, **evidence: object) -> EventRow:
    """Append one event; `evidence` is stored as canonical JSON (non-finite numbers as null, moments as RFC 3339)."""
    last = session.execute(select(EventRow.id, EventRow.digest).order_by(EventRow.id.desc()).limit(1)).first()
    row = EventRow(
        # Given, not drawn from a sequence: numbers without a gap show that nothing was cut out.
        id=1 if last is None else last.id + 1,
        model=model,
        kind=kind,
        actor=actor,
        evidence=to_plain(evidence),
        as_of=as_of.astimezone(UTC),
        written=datetime.now(UTC),
        before=GENESIS if last is None else last.digest,
    )
    row.digest = compute_digest(row)
    session.add(row)
    session.flush()
    return row


def read(
    session: Session, model: str | None = None, limit: int | None = None, *, kind: str | None = None
) -> list[EventRow]:
    """The events in the order in which they happened; with `limit`, the newest that many."""
    query = select(EventRow).order_by(EventRow.id.desc())
    if model is not None:
        query = query.where(EventRow.model == model)
    if kind is not None:
        query = query.where(EventRow.kind == kind)
    if limit is not None:
        query = query.limit(limit)
    return list(reversed(session.scalars(query).all()))


def count(session: Session) -> int:
    """How many events there are."""
    return session.scalar(select(func.count()).select_from(EventRow)) or 0


def verify(session: Session) -> list[Problem]:
    """Every break of the chain: changed content, a missing or inserted row, a wrong link. Empty: the chain holds."""
    problems = []
    before, number = GENESIS, 0
    for row in session.scalars(select(EventRow).order_by(EventRow.id).execution_options(yield_per=1000)):
        where = f"event {row.id}"
        if row.id != number + 1:
            problems.append(Problem(where, f"follows event {number}: events between them are missing"))
        if row.before != before:
            problems.append(Problem(where, "does not name the digest of the event before it"))
        if row.digest != compute_digest(row):
            problems.append(Problem(where, "was changed after it was written: its digest does not match its content"))
        before, number = row.digest, row.id
    return problems


def export(session: Session) -> Iterator[dict[str, Any]]:
    """Every event of every model as plain data, oldest first: the chain can be verified without this database."""
    for row in session.scalars(select(EventRow).order_by(EventRow.id).execution_options(yield_per=1000)):
        yield {**_content(row), "digest": row.digest}


def compute_digest(row: EventRow) -> str:
    """sha256 over the canonical JSON of everything that the row says, the digest before it included."""
    return hashlib.sha256(canonical_json(_content(row))).hexdigest()


def canonical_json(value: object) -> bytes:
    """UTF-8, keys sorted, no blanks, no NaN: one byte sequence for one value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _content(row: EventRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "model": row.model,
        "kind": row.kind,
        "actor": row.actor,
        "evidence": row.evidence,
        "as_of": row.as_of.astimezone(UTC).isoformat(timespec="microseconds"),
        "written": row.written.astimezone(UTC).isoformat(timespec="microseconds"),
        "before": row.before,
    }


def to_plain(value: Any) -> Any:
    """The value as JSON knows it. Raises TypeError for what has no plain form."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [to_plain(item) for item in items]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # a numpy scalar
        return to_plain(value.item())
    raise TypeError(f"evidence holds a {type(value).__name__}, which has no plain form")
