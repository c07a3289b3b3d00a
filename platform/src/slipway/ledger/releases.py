"""Which version is champion: one row per model, changed only by compare-and-set on its epoch.

Does not touch traffic: traffic follows the row (`slipway.rollout`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from slipway.errors import Conflict, Refused, Unknown
from slipway.ledger import events, rollouts, versions
from slipway.ledger.schema import ReleaseRow, VersionRow


def read(session: Session, model: str) -> ReleaseRow | None:
    """None before the first promotion."""
    return session.get(ReleaseRow, model)


def require(session: Session, model: str) -> ReleaseRow:
    """Raises Unknown with the models that have a release."""
    row = read(session, model)
    if row is None:
        raise Unknown("release", model, [known.model for known in list_all(session)])
    return row


def list_all(session: Session) -> list[ReleaseRow]:
    """Every model's release, by name."""
    return list(session.scalars(select(ReleaseRow).order_by(ReleaseRow.model)))


def promote(
    session: Session,
    model: str,
    version: int,
    *,
    epoch: int,
    actor: str,
    reason: str,
    as_of: datetime,
    evidence: Mapping[str, Any] | None = None,
    override: bool = False,
    unblock: bool = False,
) -> ReleaseRow:
    """Make `version` the champion; `epoch` names the release that it replaces (0: there is none yet).

    `override` is a person's word against the gate's verdict and a freeze, `unblock` against an earlier rollback of the
    same content; both stand in the event. Raises Conflict when `epoch` is stale, Refused when a rule says no.
    """
    row = versions.read(session, model, version)
    before = read(session, model)
    if epoch != (before.epoch if before else 0):
        _raise_stale(model, epoch, before)
    if before is not None and before.champion == version:
        raise Refused(f"{model} version {version}: is the champion already")
    _check_may_be_champion(session, row, override=override, unblock=unblock)
    if before is not None and not override:
        refuse_automation(before)
    if unblock:
        versions.unblock(session, model, row.digest)
    champion = before.champion if before else None
    if champion is not None:
        versions.read(session, model, champion).state = "retired"
    row.state = "champion"
    release = _replace(session, model, epoch, champion=version, previous=champion)
    open_rollout = rollouts.open_for(session, model)
    if open_rollout is not None and (open_rollout.challenger != version or override):
        state = "done" if open_rollout.challenger == version else "aborted"
        rollouts.close(session, open_rollout, state, reason=f"{actor} promoted version {version}", as_of=as_of)
    events.record(
        session,
        model=model,
        kind="promoted",
        actor=actor,
        as_of=as_of,
        version=version,
        replaced=champion,
        epoch=release.epoch,
        replaced_epoch=epoch,
        reason=reason,
        override=override,
        unblock=unblock,
        **(evidence or {}),
    )
    return release


def roll_back(
    session: Session,
    model: str,
    *,
    to: int | None = None,
    epoch: int | None = None,
    actor: str,
    reason: str,
    as_of: datetime,
) -> ReleaseRow:
    """Put an older version back and freeze automation for this model until `resume`.

    Ends an open rollout, blocks the content of the version that goes, and makes the next older champion that was never
    rolled back the new `previous`. `to` defaults to the present `previous`; `epoch` to the present one. Raises Conflict
    when `epoch` is stale, Refused when there is nothing to go back to or `to` was rolled back itself.
    """
    before = require(session, model)
    if epoch is not None and epoch != before.epoch:
        _raise_stale(model, epoch, before)
    champion = before.champion
    target = find_target(session, before, to)
    if champion is not None:
        versions.block(session, model, champion)
        session.flush()
    row = versions.read(session, model, target)
    _check_may_be_champion(session, row, override=False, unblock=False)
    row.state = "champion"
    session.flush()
    previous = _newest_below(session, row.version, unlike=row)
    open_rollout = rollouts.open_for(session, model)
    if open_rollout is not None:
        rollouts.close(session, open_rollout, "aborted", reason=f"{actor} rolled back: {reason}", as_of=as_of)
    release = _replace(session, model, before.epoch, champion=target, previous=previous, frozen=True)
    events.record(
        session,
        model=model,
        kind="rolled_back",
        actor=actor,
        as_of=as_of,
        version=champion,
        to=target,
        previous=previous,
        epoch=release.epoch,
        replaced_epoch=release.epoch - 1,
        ended_rollout=None if open_rollout is None else open_rollout.id,
        reason=reason,
    )
    return release


def find_target(session: Session, release: ReleaseRow, to: int | None) -> int:
    """The version that a rollback would bring back. Raises Unknown, or Refused where no rollback may go."""
    model = release.model
    target = _default_target(session, release) if to is None else to
    if target is None:
        raise Refused(f"{model}: there is no older version to go back to", hint=f"slipway releases {model}")
    row = versions.read(session, model, target)
    if target == release.champion:
        raise Refused(f"{model} version {target}: is the champion already")
    if row.state != "retired":
        raise Refused(
            f"{model} version {target}: is {row.state.replace('_', ' ')}, a rollback goes to a former champion",
            hint=f"slipway releases {model}",
        )
    return target


def resume(session: Session, model: str, *, actor: str, as_of: datetime) -> ReleaseRow:
    """Let automation act on this model again; nothing happens when it may already."""
    release = require(session, model)
    if release.frozen:
        release.frozen = False
        events.record(session, model=model, kind="resumed", actor=actor, as_of=as_of, epoch=release.epoch)
    return release


def archive(session: Session, model: str, *, actor: str, reason: str, as_of: datetime) -> ReleaseRow:
    """Take a model out of service: its rollout ends, automation stops, its servers are removed. Kept: everything."""
    release = require(session, model)
    if not release.archived:
        open_rollout = rollouts.open_for(session, model)
        if open_rollout is not None:
            rollouts.close(session, open_rollout, "aborted", reason=f"{actor} archived the model", as_of=as_of)
        release.archived = True
        events.record(session, model=model, kind="archived", actor=actor, as_of=as_of, reason=reason)
    return release


def refuse_automation(release: ReleaseRow) -> None:
    """Raises Refused while a person holds this model back."""
    if release.archived:
        raise Refused(f"{release.model}: is archived")
    if release.frozen:
        raise Refused(
            f"{release.model}: automation is frozen since a rollback by hand", hint=f"slipway resume {release.model}"
        )


def _check_may_be_champion(session: Session, row: VersionRow, *, override: bool, unblock: bool) -> None:
    name = f"{row.model} version {row.version}"
    if not unblock and versions.is_blocked(session, row.model, row.digest):
        raise Refused(
            f"{name}: content {row.digest[:12]} was rolled back before",
            hint="slipway promote ... --unblock, if you know that the rollback was a mistake",
        )
    if row.state == "archived":
        raise Refused(f"{name}: is archived")
    if row.state == "refused" and not override:
        raise Refused(
            f"{name}: the gate refused it", hint=f"slipway promote {row.model} {row.version} --reason TEXT overrides"
        )


def _replace(session: Session, model: str, epoch: int, **columns: Any) -> ReleaseRow:
    """The compare-and-set: one row of this epoch becomes the next one, or somebody else was first."""
    if epoch == 0 and read(session, model) is None:
        session.add(ReleaseRow(model=model, epoch=1, **columns))
        session.flush()
    else:
        result = session.execute(
            update(ReleaseRow)
            .where(ReleaseRow.model == model, ReleaseRow.epoch == epoch)
            .values(epoch=epoch + 1, **columns)
            .returning(ReleaseRow.model)
            .execution_options(synchronize_session=False)
        )
        if result.first() is None:
            _raise_stale(model, epoch, read(session, model))
    return session.get_one(ReleaseRow, model, populate_existing=True)


def _raise_stale(model: str, epoch: int, found: ReleaseRow | None) -> NoReturn:
    now = f"epoch {found.epoch}, champion {found.champion}" if found else "no release yet"
    raise Conflict(f"{model}: epoch {epoch} is not the current one ({now})", hint=f"slipway releases {model}")


def _default_target(session: Session, release: ReleaseRow) -> int | None:
    """`previous`, or an older one where that would bring back the very content that is to go."""
    if release.champion is None or release.previous is None:
        return None
    champion = versions.read(session, release.model, release.champion)
    return _newest_below(session, release.previous + 1, unlike=champion)


def _newest_below(session: Session, number: int, *, unlike: VersionRow) -> int | None:
    """The newest former champion of a lower number, of other content, that was never rolled back."""
    for row in reversed(versions.list_all(session, unlike.model)):
        is_candidate = row.version < number and row.state == "retired" and row.digest != unlike.digest
        if is_candidate and not versions.is_blocked(session, row.model, row.digest):
            return row.version
    return None
