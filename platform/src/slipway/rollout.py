"""What the ledger says about traffic, made true: used by the controller, and by a person's command that cannot wait.

Traffic and servers are derived from the release row and the open rollout, never remembered elsewhere. Whoever routes
reads the ledger while holding the model's lock, so that the last to route never routes by an older state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout
from sqlalchemy.orm import Session

from slipway.environment import Environment
from slipway.errors import NotReady, Refused
from slipway.failpoints import failpoint
from slipway.ledger import Ledger, releases, rollouts, versions
from slipway.ledger.schema import ReleaseRow, VersionRow
from slipway.targets import Target, Traffic

LOCK_SECONDS = 15
"""Longest wait for another process that is routing the same model."""
CLAIM_SECONDS = 60
"""Longest wait for a server of the same version that is being stopped."""


@dataclass(frozen=True)
class Switch:
    """A change of the champion by a person, and how long it took."""

    release: ReleaseRow
    seconds: float
    """From the ledger's transaction to the moment at which the gateway had taken the routes."""


def wanted_traffic(session: Session, model: str) -> Traffic | None:
    """Who should answer now; None when nobody should: no release yet, or an archived model."""
    release = releases.read(session, model)
    if release is None or release.champion is None or release.archived:
        return None
    rollout = rollouts.open_for(session, model)
    if rollout is None or rollout.challenger == release.champion or rollout.state not in ("canary", "promoting"):
        return Traffic(champion=release.champion, previous=release.previous)
    return Traffic(
        champion=release.champion,
        challenger=rollout.challenger,
        percent=rollouts.percent_of(rollout),
        previous=release.previous,
    )


def wanted_revisions(session: Session, model: str) -> list[int]:
    """Versions whose server should run, the most important first; previous is kept warm."""
    release = releases.read(session, model)
    rollout = rollouts.open_for(session, model)
    if release is not None and release.archived:
        return []
    wanted = [release.champion, release.previous] if release else []
    if rollout is not None and rollout.state != "pending":
        wanted.append(rollout.challenger)
    return list(dict.fromkeys(version for version in wanted if version is not None))


@contextmanager
def traffic_lock(environment: Environment, model: str) -> Iterator[None]:
    """One router at a time for each model; released by the kernel when its holder dies. Raises NotReady."""
    environment.state.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(environment.state.run / f"traffic-{model}.lock", timeout=LOCK_SECONDS, mode=0o600)
    try:
        with lock:
            yield
    except Timeout as error:
        raise NotReady(f"{model}: another process has been routing for more than {LOCK_SECONDS} s") from error


@contextmanager
def claim_revision(environment: Environment, model: str, version: int, *, timeout: float) -> Iterator[None]:
    """Whoever starts a server that the ledger does not ask for yet, and whoever stops one, holds this.

    Without it the controller would remove the server that a person is just about to promote. Released by the kernel
    when its holder dies. Raises NotReady when it is not free within `timeout` seconds; 0: at once.
    """
    environment.state.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(environment.state.run / f"revision-{model}-{version}.lock", timeout=timeout, mode=0o600)
    try:
        with lock:
            yield
    except Timeout as error:
        raise NotReady(f"{model} version {version}: its server is being started or stopped by somebody else") from error


def apply_traffic(environment: Environment, ledger: Ledger, target: Target, model: str) -> bool:
    """Route as the ledger says; whether anything had to be changed. Nothing is routed to a server that is not ready."""
    with traffic_lock(environment, model):
        with ledger.read() as session:
            wanted = wanted_traffic(session, model)
        if wanted is None or target.read_traffic(model) == wanted:
            return False
        failpoint("traffic.before_gateway")
        ledger.guard()
        target.set_traffic(model, wanted)
        failpoint("traffic.after_gateway")
        return True


def roll_back(
    environment: Environment,
    ledger: Ledger,
    target: Target,
    model: str,
    *,
    to: int | None = None,
    actor: str,
    reason: str,
) -> Switch:
    """Put an older version back now: its server first if it is not running, then the ledger, then the traffic.

    The controller does the rest and would do the same, should this process die in between. Raises what
    `releases.roll_back` raises, and NotReady when the older version does not start.
    """
    as_of = environment.clock.as_of()
    with ledger.read() as session:
        release = releases.require(session, model)
        wanted = releases.find_target(session, release, to)
    with claim_revision(environment, model, wanted, timeout=CLAIM_SECONDS):
        if not target.list_revisions(model).get(wanted):
            target.apply_revision(model, wanted)
        started = time.monotonic()
        with ledger.transaction() as session:
            release = releases.roll_back(
                session, model, to=wanted, epoch=release.epoch, actor=actor, reason=reason, as_of=as_of
            )
        apply_traffic(environment, ledger, target, model)
    return Switch(release, time.monotonic() - started)


def promote(
    environment: Environment,
    ledger: Ledger,
    target: Target,
    model: str,
    version: int,
    *,
    actor: str,
    reason: str,
    unblock: bool = False,
) -> Switch:
    """A person's recorded override: make `version` champion without gate and canary, never an unverified bundle.

    Its bundle is verified and its server answers its golden requests before the ledger is asked. Raises Unknown,
    Refused (bundle, blocked content), Conflict, NotReady.
    """
    as_of = environment.clock.as_of()
    with ledger.read() as session:
        row = versions.read(session, model, version)
        release = releases.read(session, model)
    _verify(environment, row)
    with claim_revision(environment, model, version, timeout=CLAIM_SECONDS):
        target.apply_revision(model, version)
        started = time.monotonic()
        with ledger.transaction() as session:
            promoted = releases.promote(
                session,
                model,
                version,
                epoch=release.epoch if release else 0,
                actor=actor,
                reason=reason,
                as_of=as_of,
                override=True,
                unblock=unblock,
            )
        apply_traffic(environment, ledger, target, model)
    return Switch(promoted, time.monotonic() - started)


def _verify(environment: Environment, row: VersionRow) -> None:
    """The bundle is signed, whole, and the one that the ledger knows. Raises Refused."""
    from slipway.bundle import fetch_bundle, verify_bundle
    from slipway.signing import public_key_of

    folder = fetch_bundle(environment, row.model, row.version)
    manifest = verify_bundle(folder, model=row.model, version=row.version, public_key=public_key_of(environment))
    if manifest.content_digest != row.digest:
        raise Refused(f"{row.model} version {row.version}: the bundle is not the one that the ledger knows")
