"""Makes servers and traffic follow the ledger: whatever was lost, restarted or left over is put right here."""

from __future__ import annotations

from slipway.controller.world import World
from slipway.ledger import alarms
from slipway.logs import get_logger
from slipway.rollout import apply_traffic, wanted_revisions, wanted_traffic
from slipway.targets import Traffic

ALARM_AFTER = 3
"""Failed starts in a row of a server that should run, after which a person is told."""


def reconcile(world: World) -> bool:
    """Whether anything had to be changed.

    Wanted servers are started in the background, traffic is set as soon as the champion is ready, and what nothing
    points at any more is removed last.
    """
    with world.ledger.read() as session:
        wanted = wanted_revisions(session, world.model)
        traffic = wanted_traffic(session, world.model)
    ready = [version for version in wanted if world.revisions.ensure(world.model, version)]
    for version in wanted:
        _tell_of_failures(world, version)
    changed = False
    routed = world.target.read_traffic(world.model)
    if traffic is not None and _can_be_routed(traffic, routed, ready):
        changed = apply_traffic(world.environment, world.ledger, world.target, world.model)
        if changed:
            get_logger().info("traffic set", model=world.model, **vars(traffic))
        routed = world.target.read_traffic(world.model)
    pointed_at = [routed.champion, routed.challenger, routed.previous] if routed and traffic else []
    removed = world.revisions.remove_others(
        world.model, [*wanted, *(version for version in pointed_at if version is not None)]
    )
    return changed or removed


def _can_be_routed(traffic: Traffic, routed: Traffic | None, ready: list[int]) -> bool:
    """New routes wait for ready servers; taking a challenger off a champion that answers already waits for nothing."""
    champion = traffic.champion in ready or (routed is not None and routed.champion == traffic.champion)
    return champion and (traffic.challenger is None or traffic.challenger in ready)


def _tell_of_failures(world: World, version: int) -> None:
    failures, error = world.revisions.failures(world.model, version)
    if failures != ALARM_AFTER:
        return
    with world.ledger.transaction() as session:
        alarms.raise_alarm(
            session,
            key=f"{world.model}-{version}-does-not-start-{world.as_of.isoformat()}",
            model=world.model,
            kind="revision_not_ready",
            message=f"the server of version {version} did not become ready {failures} times: {error}",
            as_of=world.as_of,
        )
