"""Moves a rollout on by one state, if what the state waits for has come true.

The release changes in the ledger first, by compare-and-set on the epoch that the rollout started from; traffic follows
the release row. Hauling back goes the other way round: traffic first, the ledger after it.
"""

from __future__ import annotations

from slipway.controller.canary import Canary
from slipway.controller.world import World
from slipway.errors import Conflict, Refused
from slipway.failpoints import failpoint
from slipway.ledger import alarms, releases, rollouts
from slipway.ledger.schema import ReleaseRow, RolloutRow
from slipway.logs import get_logger
from slipway.rollout import apply_traffic

MOST_STARTS = 3
"""Failed starts of a challenger's server after which its rollout has failed."""


class Advance:
    """The state machine; holds nothing that the next process could not find again."""

    def __init__(self) -> None:
        self._canary = Canary()

    def move(self, world: World) -> bool:
        """Whether the rollout moved. Nothing happens without one, or while a person has paused it."""
        with world.ledger.read() as session:
            rollout = rollouts.open_for(session, world.model)
            release = releases.read(session, world.model)
        if rollout is None:
            return False
        if _is_overtaken(rollout, release):
            _end(world, rollout, "aborted", "the release was changed by somebody else")
            return True
        if rollout.state == "canary":
            return self._canary.move(world, rollout)
        if rollout.paused:
            return False
        if rollout.state == "pending":
            return _go(world, rollout, "starting", "rollout.pending.after_ledger")
        if rollout.state == "starting":
            return _start(world, rollout)
        return _promote(world, rollout, release)


def _is_overtaken(rollout: RolloutRow, release: ReleaseRow | None) -> bool:
    if release is None or release.champion == rollout.challenger:
        return False
    return release.epoch != rollout.epoch or release.frozen or release.archived


def _start(world: World, rollout: RolloutRow) -> bool:
    if world.revisions.ensure(world.model, rollout.challenger):
        return _go(
            world, rollout, "promoting" if rollout.champion is None else "canary", "rollout.starting.after_ledger"
        )
    failures, error = world.revisions.failures(world.model, rollout.challenger)
    if failures < MOST_STARTS:
        return False
    _end(world, rollout, "failed", f"its server did not become ready {failures} times: {error}")
    return True


def _promote(world: World, rollout: RolloutRow, release: ReleaseRow | None) -> bool:
    if release is None or release.champion != rollout.challenger:
        failpoint("rollout.promoting.before_ledger")
        try:
            with world.ledger.transaction() as session:
                releases.promote(
                    session,
                    world.model,
                    rollout.challenger,
                    epoch=rollout.epoch,
                    actor="controller",
                    reason=rollout.reason,
                    as_of=world.as_of,
                    evidence={"rollout": rollout.id, "looks": rollout.looks},
                )
        except (Conflict, Refused) as error:
            _end(world, rollout, "aborted", error.message)
            return True
        failpoint("rollout.promoting.after_ledger")
        get_logger().info("promoted", model=world.model, version=rollout.challenger)
    if not world.revisions.ensure(world.model, rollout.challenger):
        return False  # its server died meanwhile: the gateway falls back to the previous version until it is there
    apply_traffic(world.environment, world.ledger, world.target, world.model)
    failpoint("rollout.promoting.after_traffic")
    with world.ledger.transaction() as session:
        rollouts.close(session, rollout, "done", reason=rollout.reason, as_of=world.as_of)
    failpoint("rollout.promoting.after_done")
    get_logger().info("rollout done", model=world.model, champion=rollout.challenger)
    return True


def _go(world: World, rollout: RolloutRow, state: str, after: str) -> bool:
    with world.ledger.transaction() as session:
        rollouts.move(session, rollout, state, as_of=world.as_of)
    failpoint(after)
    get_logger().info("rollout moved", model=world.model, challenger=rollout.challenger, state=state)
    return True


def _end(world: World, rollout: RolloutRow, state: str, reason: str) -> None:
    with world.ledger.transaction() as session:
        rollouts.close(session, rollout, state, reason=reason, as_of=world.as_of)
        alarms.raise_alarm(
            session,
            key=f"rollout-{rollout.id}-{state}",
            model=world.model,
            kind=f"rollout_{state}",
            message=f"rollout of version {rollout.challenger} {state}: {reason}",
            as_of=world.as_of,
        )
    get_logger().warning("rollout ended", model=world.model, challenger=rollout.challenger, state=state, reason=reason)
