"""What the ledger remembers of versions: digest, gate record, and whether they were ever rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from slipway.errors import Conflict, Unknown
from slipway.ledger import events
from slipway.ledger.schema import VersionRow


def add(
    session: Session,
    model: str,
    version: int,
    *,
    digest: str,
    gate: Mapping[str, Any],
    passed: bool,
    as_of: datetime,
) -> VersionRow:
    """Make a registered version known; the same call again changes nothing.

    Content that was rolled back under any number is refused, whatever the gate said. Raises Conflict when the version
    is known with another digest: versions are immutable.
    """
    known = session.get(VersionRow, (model, version))
    if known is not None:
        if known.digest != digest:
            raise Conflict(
                f"{model} version {version}: registered with digest {known.digest[:12]}, not {digest[:12]}",
                hint="versions are immutable; register the new content under a new number",
            )
        return known
    blocked = is_blocked(session, model, digest)
    row = VersionRow(
        model=model,
        version=version,
        digest=digest,
        gate=events.to_plain(gate),
        state="candidate" if passed and not blocked else "refused",
        as_of=as_of,
    )
    session.add(row)
    session.flush()
    events.record(
        session,
        model=model,
        kind="version_added",
        actor="pipeline",
        as_of=as_of,
        version=version,
        digest=digest,
        state=row.state,
        passed=passed,
        blocked=blocked,
        gate=gate,
    )
    return row


def read(session: Session, model: str, version: int) -> VersionRow:
    """Raises Unknown with the versions that exist."""
    row = session.get(VersionRow, (model, version))
    if row is None:
        raise Unknown(f"{model} version", version, [known.version for known in list_all(session, model)])
    return row


def list_all(session: Session, model: str) -> list[VersionRow]:
    """Every version, oldest number first."""
    return list(session.scalars(select(VersionRow).where(VersionRow.model == model).order_by(VersionRow.version)))


def is_blocked(session: Session, model: str, digest: str) -> bool:
    """Whether content with this digest was rolled back, under whatever number."""
    return bool(_rolled_back(session, model, digest))


def block(session: Session, model: str, version: int) -> None:
    """Remember that this version was rolled back: its content stays refused."""
    read(session, model, version).state = "rolled_back"


def unblock(session: Session, model: str, digest: str) -> None:
    """Forget, for a person who says so, that content with this digest was rolled back."""
    for row in _rolled_back(session, model, digest):
        row.state = "retired"


def _rolled_back(session: Session, model: str, digest: str) -> list[VersionRow]:
    return list(
        session.scalars(
            select(VersionRow).where(
                VersionRow.model == model, VersionRow.digest == digest, VersionRow.state == "rolled_back"
            )
        )
    )
