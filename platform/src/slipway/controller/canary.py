"""One step of a canary: count answers, glance at health on every pass, look once when the step is due.

A step is due when its hold is over and the least answers and labels are there. A look that passes moves on, one that
fails hauls back, and one that cannot tell holds until the longest hold is over; then there is one last look, and
whatever does not pass it is hauled back. So a step is looked at twice at most, each time with a 95 % interval.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, date, timedelta

from slipway import analysis
from slipway.analysis import Counts, Finding
from slipway.contract import RolloutPlan
from slipway.controller.world import World
from slipway.errors import NotReady, SlipwayError
from slipway.failpoints import failpoint
from slipway.ledger import alarms, events, rollouts
from slipway.ledger.schema import RolloutRow
from slipway.logs import get_logger
from slipway.rollout import traffic_lock
from slipway.targets import Traffic

SAMPLE_SECONDS = 1.0
"""Wall clock between two readings of the gateway's counters; what a restart of the gateway can lose lies between."""


class Canary:
    """Remembers only what saves work: when it last counted, and which cohorts it has already found too few."""

    def __init__(self) -> None:
        self._sampled: dict[int, float] = {}
        self._read: dict[int, tuple[int, date]] = {}

    def move(self, world: World, rollout: RolloutRow) -> bool:
        """Whether the rollout moved: on to the next step or the promotion, or back."""
        plan = rollouts.plan_of(rollout)
        rollout = self._count(world, rollout)
        findings = self._health(rollout, plan, early=True)
        if analysis.combine(findings) == "fail":
            _haul_back(world, rollout, findings, "health")
            return True
        if rollout.paused or world.as_of < rollout.step_since + plan.hold:
            return False
        last = _is_over(world, rollout, plan)
        looked = rollout.looks.get(str(rollout.step))
        if looked is not None and not last:
            return False
        return self._look(world, rollout, plan, last=last)

    def _look(self, world: World, rollout: RolloutRow, plan: RolloutPlan, *, last: bool) -> bool:
        rollout = self._count(world, rollout, now=True)
        answers = _judge_answers(rollout, plan)
        if not last and (answers.verdict != "pass" or not self._is_worth_reading(world, rollout)):
            return False
        quality = self._quality(world, rollout, plan)
        if not last and not analysis.is_judged(quality):
            return False  # nothing was looked at yet: too few labels
        findings = [answers, *self._health(rollout, plan, early=False), quality]
        verdict = analysis.combine(findings)
        if verdict == "fail":
            _haul_back(world, rollout, findings, "analysis")
            return True
        if verdict == "pass":
            _go_on(world, rollout, plan, findings)
            return True
        if last:
            _haul_back(world, rollout, findings, "still inconclusive after the longest hold")
            return True
        failpoint("rollout.look.before_ledger")
        with world.ledger.transaction() as session:
            rollouts.note(session, rollout, look=_look_of(findings, world, "hold"), as_of=world.as_of)
        failpoint("rollout.look.after_ledger")
        return True

    def _count(self, world: World, rollout: RolloutRow, *, now: bool = False) -> RolloutRow:
        """The rollout with what was answered since the last reading; a gateway that does not say changes nothing."""
        moment = time.monotonic()
        if not now and rollout.counts and moment - self._sampled.get(rollout.id, -SAMPLE_SECONDS) < SAMPLE_SECONDS:
            return rollout
        self._sampled[rollout.id] = moment
        if not _has_its_share(world, rollout):
            return rollout
        try:
            counts: Counts = analysis.add_counts(rollout.counts, world.target.count_answers(world.model))
        except NotReady as error:
            get_logger().warning("answers not counted", model=world.model, error=error.message)
            return rollout
        if events.to_plain(counts) == rollout.counts:
            return rollout
        with world.ledger.transaction() as session:
            return rollouts.note(session, rollout, counts=counts, as_of=world.as_of)

    def _health(self, rollout: RolloutRow, plan: RolloutPlan, *, early: bool) -> list[Finding]:
        return analysis.judge_health(
            rollout.counts,
            champion=rollout.champion or 0,
            challenger=rollout.challenger,
            percent=rollouts.percent_of(rollout),
            plan=plan,
            early=early,
        )

    def _quality(self, world: World, rollout: RolloutRow, plan: RolloutPlan) -> Finding:
        """Judged on all rows of the canary so far; a log that cannot be read is a doubt, never a pass."""
        try:
            pairs = analysis.read_pairs(
                world.environment,
                world.contract,
                champion=rollout.champion or 0,
                challenger=rollout.challenger,
                start=rollout.canary_since or rollout.step_since,
                as_of=world.settled,
            )
        except (SlipwayError, OSError) as error:
            return Finding("quality", "inconclusive", f"the inference log cannot be read: {error}")
        return analysis.judge_quality(pairs, plan=plan)

    def _is_worth_reading(self, world: World, rollout: RolloutRow) -> bool:
        """Cohorts become due once a day: reading the log again before that finds the same rows."""
        cohort = (world.settled - world.contract.label.longest_delay).astimezone(UTC).date()
        if self._read.get(rollout.id) == (rollout.step, cohort):
            return False
        self._read[rollout.id] = (rollout.step, cohort)
        return True


def _has_its_share(world: World, rollout: RolloutRow) -> bool:
    """Whether the gateway does by now what the ledger says. Answers from before, when a controller has died between the
    two, would be the champion's alone: the challenger would look starved."""
    routed = world.target.read_traffic(world.model)
    wanted = (rollout.challenger, rollouts.percent_of(rollout))
    return routed is not None and (routed.challenger, routed.percent) == wanted


def _judge_answers(rollout: RolloutRow, plan: RolloutPlan) -> Finding:
    """Whether both versions together have answered enough on this step to see the challenger's share."""
    answers = analysis.count_answers(rollout.counts, rollout.challenger, rollout.champion or 0)
    share = analysis.LEAST_CHALLENGER_ANSWERS * 100 / rollouts.percent_of(rollout)
    least = max(plan.min_answers, math.ceil(share))
    numbers = {"answers": answers, "least": least}
    if answers < least:
        return Finding("answers", "inconclusive", f"{answers} answers on this step, needed are {least}", numbers)
    return Finding("answers", "pass", f"{answers} answers on this step", numbers)


def _is_over(world: World, rollout: RolloutRow, plan: RolloutPlan) -> bool:
    """The longest hold has passed and the log is complete up to then; a log that stays behind buys one more hold."""
    end = rollout.step_since + plan.max_hold
    return world.as_of >= end and (world.settled >= end or world.as_of >= end + max(plan.hold, timedelta(days=1)))


def _look_of(findings: list[Finding], world: World, decision: str) -> dict[str, object]:
    return {
        "decision": decision,
        "verdict": analysis.combine(findings),
        "as_of": world.as_of,
        "findings": [finding.as_evidence() for finding in findings],
    }


def _go_on(world: World, rollout: RolloutRow, plan: RolloutPlan, findings: list[Finding]) -> None:
    is_last = rollout.step + 1 >= len(plan.steps)
    failpoint("rollout.look.before_ledger")
    with world.ledger.transaction() as session:
        rollouts.move(
            session,
            rollout,
            "promoting" if is_last else "canary",
            step=None if is_last else rollout.step + 1,
            look=_look_of(findings, world, "promote" if is_last else "next step"),
            as_of=world.as_of,
        )
    failpoint("rollout.look.after_ledger")
    get_logger().info("canary step passed", model=world.model, challenger=rollout.challenger, step=rollout.step)


def _haul_back(world: World, rollout: RolloutRow, findings: list[Finding], why: str) -> None:
    """Traffic back to the champion at once, then the ledger: the challenger's content is blocked."""
    told = [finding for finding in findings if finding.verdict == "fail"] or [
        finding for finding in findings if finding.verdict == "inconclusive"
    ]
    reason = f"{why}: " + "; ".join(f"{finding.check}: {finding.because}" for finding in told)
    failpoint("rollout.abort.before_traffic")
    with traffic_lock(world.environment, world.model):
        with world.ledger.read() as session:
            still = rollouts.open_for(session, world.model)
        if still is None or still.id != rollout.id or rollout.champion is None:
            return
        routed = world.target.read_traffic(world.model)
        previous = routed.previous if routed else None
        try:
            world.target.set_traffic(world.model, Traffic(champion=rollout.champion, previous=previous))
        except SlipwayError as error:
            # The decision must stand even while the gateway is away; reconciling takes the traffic back when it is.
            get_logger().error("traffic not taken back yet", model=world.model, error=error.message)
        failpoint("rollout.abort.after_traffic")
        with world.ledger.transaction() as session:
            rollouts.close(
                session,
                rollout,
                "aborted",
                reason=reason,
                block=True,
                look=_look_of(findings, world, "roll back"),
                as_of=world.as_of,
            )
            alarms.raise_alarm(
                session,
                key=f"rollout-{rollout.id}-aborted",
                model=world.model,
                kind="rollout_aborted",
                message=f"version {rollout.challenger} was rolled back from the canary: {reason}",
                as_of=world.as_of,
            )
    failpoint("rollout.abort.after_ledger")
    get_logger().warning("rolled back", model=world.model, challenger=rollout.challenger, reason=reason)
