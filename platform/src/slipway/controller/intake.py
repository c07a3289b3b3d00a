"""Opens a rollout for what the pipeline has delivered: the newest candidate that nobody has rolled out."""

from __future__ import annotations

from slipway.controller.world import World
from slipway.failpoints import failpoint
from slipway.ledger import alarms, progress, releases, rollouts, runs
from slipway.logs import get_logger


def open_rollout(world: World) -> bool:
    """Whether a rollout was opened. A model that is frozen, archived or busy keeps its candidates waiting."""
    with world.ledger.read() as session:
        release = releases.read(session, world.model)
        if release is not None and (release.frozen or release.archived):
            return False
        candidates = [version for model, version in progress.unopened(session) if model == world.model]
        if not candidates or rollouts.open_for(session, world.model) is not None:
            return False
    newest, plan = candidates[-1], world.contract.rollout
    skipped = f"; passes over {', '.join(map(str, candidates[:-1]))}" if len(candidates) > 1 else ""
    failpoint("intake.before_ledger")
    with world.ledger.transaction() as session:
        rollouts.begin(
            session,
            world.model,
            newest,
            plan=plan,
            reason=f"version {newest} passed the gate{skipped}",
            as_of=world.as_of,
        )
    failpoint("intake.after_ledger")
    get_logger().info("rollout opened", model=world.model, challenger=newest)
    return True


def report_failed_runs(world: World) -> bool:
    """Raise an alarm for each run that failed; whether there was a new one."""
    with world.ledger.read() as session:
        known = {alarm.key for alarm in alarms.list_all(session, world.model, limit=500)}
        failed = [run for run in runs.list_all(session, world.model) if run.state == "failed"]
    new = [run for run in failed if f"run-{run.id}-failed" not in known]
    for run in new:
        found = run.outcome.get("message", "no message")
        with world.ledger.transaction() as session:
            alarms.raise_alarm(
                session,
                key=f"run-{run.id}-failed",
                model=world.model,
                kind="run_failed",
                message=f"run {run.id} failed at step {run.step or 'start'}: {found}",
                as_of=world.as_of,
            )
    return bool(new)
