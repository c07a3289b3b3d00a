"""The story in five acts. Each act asks for something to happen, looks into the ledger whether it did, and says so.

An act that misses what it asks for raises Missed and the story goes on; anything else that fails ends it. The story
decides nothing for the platform: it lets event time pass, asks for runs, breaks things, and types what operators type.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pipelines.flight_delay.demo.crash import CrashWatch
from pipelines.flight_delay.demo.drill import RollbackDrill
from pipelines.flight_delay.demo.evidence import shorten
from pipelines.flight_delay.demo.facts import Act, Fact, Mark
from pipelines.flight_delay.demo.plan import ACTS, Plan
from pipelines.flight_delay.demo.stage import Missed, Stage
from slipway.contract import read_contract
from slipway.errors import SlipwayError
from slipway.ledger import releases, rollouts, runs, versions
from slipway.ledger.schema import MonitorRow, ReleaseRow, RolloutRow, RunRow, TriggerRow

EARLY_CONTRACT = Path(__file__).with_name("early.yaml")
RUN_LIMIT = 900.0
"""Seconds for one pipeline run, its wait in the queue included."""
METRES = {"distance": 1609.344}
"""The broken snapshot: a source that has begun to send metres where miles were agreed."""
WEEK = timedelta(days=7)


@dataclass
class Storyteller:
    """Plays the acts on a stage; `acts` and `faults` are what it found."""

    stage: Stage
    plan: Plan
    acts: list[Act] = field(default_factory=lambda: [act.model_copy(deep=True) for act in ACTS])
    faults: list[Mark] = field(default_factory=list)
    first_version: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    """What the replay, the client of this story, counted since the launch: questions, answers, failures, labels."""
    loaded: tuple[int, int] = (0, 0)
    """Requests of the operator's load, and how many of them failed."""

    def __post_init__(self) -> None:
        self._lived_until = self.plan.decay

    def play(self) -> None:
        """All acts, in the order of event time; the crash lies within the second. Raises what ended it early."""
        launch, decay, crash, bad_version, operator = range(len(ACTS))
        self._act(launch, self._launch)
        watch = CrashWatch(self.stage, self.acts[crash], faults=self.faults)
        self.stage.watchers.append(watch.look)
        self._act(decay, self._decay)
        self.stage.watchers.remove(watch.look)
        self._act(crash, watch.judge)
        self._act(bad_version, self._bad_version)
        self._act(operator, self._operator)

    def _act(self, number: int, play: Callable[[Act], None]) -> None:
        act, screen = self.acts[number], self.stage.screen
        screen.begin(number)
        begun, act.start = time.monotonic(), act.start or self.stage.now()
        act.begun = act.begun or begun - screen.begun
        try:
            play(act)
            act.happened = True
        except Missed as missed:
            act.found.append(Fact(name="did not happen", value=missed.message))
            screen.say(missed.message, style="red")
        finally:
            act.seconds = act.seconds or time.monotonic() - begun
            act.start, act.end = act.start or self.stage.now(), act.end or self.stage.now()
            screen.finish(number, act.happened)

    # --- act 1 --------------------------------------------------------------------------------------------------------

    def _launch(self, act: Act) -> None:
        self.stage.run("up")
        self._replay(self.plan.history, self.plan.launch, sample=0.0)
        broken = self._submit("broken-snapshot", "a snapshot in metres", {"corrupt": METRES})
        act.found.append(Fact(name="broken snapshot", value=self._tell(broken)))
        if broken.state != "refused" or "distance" not in str(broken.outcome):
            raise Missed(f"validation did not stop the broken snapshot: {broken.state} at {broken.step}")
        first = self._submit("first", "first training", {})
        act.found.append(Fact(name=f"version {first.version}", value=self._tell(first)))
        if first.state != "succeeded" or first.version is None:
            raise Missed(f"the first version did not pass: {first.state} at {first.step}")
        self.first_version = first.version
        self.stage.wait(
            lambda: (row := self._release()) is not None and row.champion == first.version,
            limit=180, what="the launch of the first version",
        )  # fmt: skip
        worthless = self._submit("worthless", "trained on shuffled labels", {"shuffle_labels": True})
        act.found.append(Fact(name="version from shuffled labels", value=self._tell(worthless)))
        if worthless.state != "refused" or self._verdict_of_gate(worthless) != "refused":
            raise Missed(f"the gate did not refuse the worthless version: {worthless.state} at {worthless.step}")

    # --- act 2 --------------------------------------------------------------------------------------------------------

    def _decay(self, act: Act) -> None:
        self._replay(self.plan.watched, self.plan.decay)
        while not (promoted := self._promoted()) and self._lived_until < self.plan.bad_version - 2 * WEEK:
            self._lived_until += WEEK
            self._replay(self._lived_until - WEEK, self._lived_until)
        if not promoted:
            raise Missed("no retrained version was promoted by itself")
        with self.stage.ledger.read() as session:
            first = promoted[0]
            run = session.scalars(
                select(RunRow).where(RunRow.version == first.challenger, RunRow.model == self.stage.model)
            ).one()
            trigger = session.get_one(TriggerRow, run.trigger)
            bad = session.scalars(
                select(MonitorRow).where(
                    MonitorRow.model == self.stage.model, MonitorRow.kind == "performance",
                    MonitorRow.verdict == "bad", MonitorRow.window_end <= trigger.as_of,
                )
            ).all()  # fmt: skip
        spelled = ", ".join(f"{row.window_end:%d %b} {row.metric:.3f}" for row in bad if row.metric is not None)
        act.found += [
            Fact(name="bad windows before the trigger", value=spelled or "none"),
            Fact(name="trigger", value=f"{trigger.as_of:%d %b %H:%M}, {trigger.kind}, attempt {trigger.attempt}"),
            Fact(name=f"gate of version {first.challenger}", value=self._tell(run)),
            Fact(name="canary", value=_last_look(first)),
            Fact(name="promotions by itself in this act", value=str(len(promoted))),
        ]

    # --- act 4 --------------------------------------------------------------------------------------------------------

    def _bad_version(self, act: Act) -> None:
        asked: list[int] = []

        def ask_when_idle() -> None:
            """Once event time moves on and no run or rollout is in progress, a team hands in its wonderful model."""
            if not asked and self._is_idle():
                asked.append(self._ask("early", "a feature that knows more", {"contract": str(EARLY_CONTRACT)}))

        self.stage.watchers.append(ask_when_idle)
        try:
            self._replay(self._lived_until, self.plan.bad_version)
        finally:
            self.stage.watchers.remove(ask_when_idle)
        if not asked:
            raise Missed("there was always a run or a rollout in progress")
        with self.stage.ledger.read() as session:
            run = runs.read(session, asked[0])
            rollout = next(
                (row for row in rollouts.list_all(session, self.stage.model) if row.challenger == run.version), None
            )
            state = versions.read(session, self.stage.model, run.version).state if run.version else "never registered"
        act.found.append(Fact(name="gate, fed false times", value=self._tell(run)))
        act.found.append(
            Fact(name="leak test of its features", value=_test_leaks(self.plan.decay), how="the gate does not ask it")
        )
        if warned := _find_warning(run.outcome):
            act.found.append(Fact(name="warning of the validation", value=warned))
        if rollout is None or rollout.state != "aborted" or state != "rolled_back":
            found = f"rollout {rollout.state}" if rollout else "it never reached the canary"
            raise Missed(f"the canary did not haul the bad version back: {found}, version is {state}")
        act.found += [
            Fact(name="canary", value=_last_look(rollout)),
            Fact(name=f"version {run.version}", value=f"{state}: this content is never promoted again by itself"),
        ]

    # --- act 5 --------------------------------------------------------------------------------------------------------

    def _operator(self, act: Act) -> None:
        self._replay(self.plan.bad_version, self.plan.operator)
        drill = RollbackDrill(self.stage)
        try:
            drill.play(act)
        finally:
            self.loaded = drill.requests, drill.failed
        self._replay(self.plan.operator, self.plan.end)
        since = [row for row in self._automatic_rollouts() if row.as_of >= self.plan.operator]
        value = (
            f"{len(since)} rollouts opened by itself by {self.plan.end:%d %b}" if since else "no further rollout yet"
        )
        act.found.append(Fact(name="after slipway resume", value=value))

    # --- what every act needs -----------------------------------------------------------------------------------------

    def _replay(self, start: datetime, end: datetime, sample: float | None = None) -> None:
        share = self.plan.sample if sample is None else sample
        days = ("--from", f"{start:%Y-%m-%d}", "--to", f"{end:%Y-%m-%d}")
        out = self.stage.run("replay", self.stage.model, *days, "--sample", str(share))
        if share:
            self.asked = json.loads(out.strip().splitlines()[-1])

    def _ask(self, name: str, reason: str, options: dict[str, Any]) -> int:
        now = self.stage.environment.clock.as_of()
        with self.stage.ledger.transaction() as session:
            key = f"demo/{name}/{now.date()}"
            return runs.submit(
                session, key=key, model=self.stage.model, reason=reason, as_of=now, options=options, actor="demo"
            ).id

    def _submit(self, name: str, reason: str, options: dict[str, Any]) -> RunRow:
        """Ask for a run and wait for its end, whatever it is."""
        number = self._ask(name, reason, options)

        def ended() -> RunRow | None:
            with self.stage.ledger.read() as session:
                run = runs.read(session, number)
            return run if run.state in runs.ENDS else None

        found = self.stage.wait(ended, limit=RUN_LIMIT, what=f"the end of the run: {reason}")
        if found is None:
            raise Missed(f"{reason}: the run did not end")
        if found.state == "failed":
            raise SlipwayError(f"{reason}: the run failed at {found.step}: {found.outcome.get('message', '')}")
        return found

    def _tell(self, run: RunRow) -> str:
        """How a run ended: what the gate found of its version, or why there is none."""
        why = shorten(str(run.outcome.get("message", "")))
        if run.version is None:
            return f"{run.state} at {run.step}. {why}"
        with self.stage.ledger.read() as session:
            gate = versions.read(session, self.stage.model, run.version).gate
        numbers = (
            f"{gate.get('verdict')}: AUC {gate['value']:.3f} ({gate['interval'][0]:.3f} to {gate['interval'][1]:.3f})"
        )
        if rival := gate.get("difference"):
            name = f"version {gate['champion']}" if gate.get("champion") else "the simple baseline"
            numbers += f", {rival['estimate']:+.3f} ({rival['low']:+.3f} to {rival['high']:+.3f}) against {name}"
        return f"{numbers}. {why}".removesuffix(" ")

    def _verdict_of_gate(self, run: RunRow) -> str:
        if run.version is None:
            return ""
        with self.stage.ledger.read() as session:
            return str(versions.read(session, self.stage.model, run.version).gate.get("verdict"))

    def _release(self) -> ReleaseRow | None:
        with self.stage.ledger.read() as session:
            return releases.read(session, self.stage.model)

    def _is_idle(self) -> bool:
        with self.stage.ledger.read() as session:
            busy = [run for run in runs.list_all(session, self.stage.model) if run.state not in runs.ENDS]
            return not busy and rollouts.open_for(session, self.stage.model) is None

    def _promoted(self) -> list[RolloutRow]:
        return [rollout for rollout in self._automatic_rollouts() if rollout.state == "done"]

    def _automatic_rollouts(self) -> list[RolloutRow]:
        """Rollouts whose challenger came from a run that a trigger asked for."""
        with self.stage.ledger.read() as session:
            triggered = {run.version for run in runs.list_all(session, self.stage.model) if run.trigger is not None}
            return [row for row in rollouts.list_all(session, self.stage.model) if row.challenger in triggered]


def _last_look(rollout: RolloutRow) -> str:
    """The numbers of the analysis that ended the rollout, on one line."""
    if not rollout.looks:
        return f"{rollout.state}: {rollout.reason}"
    look = rollout.looks[max(rollout.looks, key=int)]
    findings = look.get("findings", []) if isinstance(look, dict) else []
    spelled = "; ".join(f"{f.get('check')} {f.get('verdict')}: {f.get('because')}" for f in findings)
    return f"{rollout.state}: {spelled or rollout.reason}"


def _test_leaks(moment: datetime) -> str:
    """Which features of the early service change when only what is published after `moment` is changed."""
    from pipelines.flight_delay.leaks import find_leaks
    from pipelines.flight_delay.source import read_flights, read_weather

    service = read_contract(EARLY_CONTRACT).features.service
    names = find_leaks(service, read_flights(), read_weather(), [moment + timedelta(hours=20)])
    if not names:
        raise Missed("the leak test found nothing in a feature that knows the future")
    return f"flagged: {', '.join(names)} changes with what is published later"


def _find_warning(outcome: dict[str, Any]) -> str:
    """What validation warned of: a single feature that separates too well."""
    warnings = outcome.get("warnings", [])
    return "; ".join(shorten(str(warning)) for warning in warnings if "leak" in str(warning))
