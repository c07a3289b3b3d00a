"""The operator's act: a rollback typed under load, what the clients saw of it, and `slipway resume`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.flight_delay.demo.facts import Act, Fact
from pipelines.flight_delay.demo.load import Load, last_questions
from pipelines.flight_delay.demo.stage import Missed, Stage
from slipway.contract import load_contract
from slipway.ledger import releases
from slipway.ledger.schema import ReleaseRow

LOAD_BEFORE, LOAD_AFTER = 2.0, 3.0
"""Seconds of load on both sides of the command."""


@dataclass
class RollbackDrill:
    """Plays the act once; `requests` and `failed` are what the clients counted."""

    stage: Stage
    requests: int = 0
    failed: int = 0

    def play(self, act: Act) -> None:
        """Raises Missed when a request failed, or the release is not what it should be."""
        stage, model = self.stage, self.stage.model
        before = self._release()
        if before is None or before.champion is None or before.previous is None:
            raise Missed("there is no previous version to go back to")
        with Load(stage.environment, model, last_questions(stage.environment, load_contract(model))) as load:
            stage.wait(_after(LOAD_BEFORE), limit=60, what="load before the rollback")
            typed = time.monotonic()
            told = stage.ask("rollback", model, "--reason", "complaints from the operations desk")
            stage.wait(_after(LOAD_AFTER), limit=60, what="load after the rollback")
        self.requests, self.failed = len(load.answers), len(load.failures)
        first_answer = load.first_answer_by(before.previous, typed)
        after = self._release()
        act.found += _describe_load(load, typed, first_answer, before, told)
        if after is None or after.champion != before.previous or not after.frozen:
            raise Missed("the previous version is not the champion, or automation is not frozen")
        if load.failures:
            raise Missed(f"{self.failed} requests failed, the first with {load.failures[0].failure}")
        if first_answer is None:
            raise Missed("the previous version has not answered")
        stage.run("resume", model)
        resumed = self._release()
        if resumed is None or resumed.frozen:
            raise Missed("automation is still frozen after slipway resume")

    def _release(self) -> ReleaseRow | None:
        with self.stage.ledger.read() as session:
            return releases.read(session, self.stage.model)


def _after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def _describe_load(load: Load, typed: float, first_answer: float | None, before: ReleaseRow, told: Any) -> list[Fact]:
    """What the clients saw, and what the command said of itself."""
    count, failed = len(load.answers), len(load.failures)
    span = max(a.answered for a in load.answers) - min(a.sent for a in load.answers) if load.answers else 0.0
    facts = [
        Fact(name="load", value=f"{count:,} requests in {span:.1f} s, {failed} failed"),
        Fact(name="rolled back", value=f"from version {before.champion} to version {before.previous}"),
    ]
    if first_answer is not None:
        facts.append(
            Fact(
                name="command typed to first answer",
                value=f"{first_answer - typed:.2f} s",
                how="of the previous version, seen by a client; the start of the command line included",
            )
        )
    seconds = told.get("switch_seconds") if isinstance(told, dict) else None
    if isinstance(seconds, int | float):
        facts.append(
            Fact(
                name="the switch itself", value=f"{seconds * 1000:.0f} ms", how="ledger transaction to routes in force"
            )
        )
    return facts
