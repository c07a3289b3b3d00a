"""From monitor findings to one retraining: windows, cool-down, budget, silence, schedule."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from slipway.contract import Contract
from slipway.controller.loop import Loop
from slipway.controller.retraining import RECENT, choose_rises
from slipway.environment import Environment
from slipway.ledger import Ledger, alarms, events, monitors, open_ledger, runs, triggers
from slipway.ledger.schema import MonitorRow, TriggerRow
from slipway.pod import Pod
from tests.control_world import (
    DAY,
    MODEL,
    START,
    AtOnce,
    FileTarget,
    deliver,
    make_contract,
    make_environment,
    release_of,
    set_clock,
)  # fmt: skip

WEEK = 7 * DAY


@dataclass
class World:
    environment: Environment
    ledger: Ledger
    contract: Contract
    loop: Loop

    def find(self, week: int, verdict: str, kind: str = "performance", *, shift: timedelta = 0 * DAY) -> None:
        """Store the finding of the week that ends `week` weeks after START."""
        champion, _, epoch = release_of(self.ledger)
        with self.ledger.transaction() as session:
            monitors.store(
                session, model=MODEL, kind=kind, version=champion, epoch=epoch, verdict=verdict, metric=0.6,
                window_start=START + (week - 1) * WEEK + shift, window_end=START + week * WEEK + shift,
                numbers={"labels": 900}, as_of=START + week * WEEK,
            )  # fmt: skip

    def pass_at(self, moment: datetime) -> list[TriggerRow]:
        set_clock(self.environment, moment)
        self.loop.turn()
        with self.ledger.read() as session:
            return triggers.list_all(session, MODEL)

    def end_run(self, state: str = "refused") -> None:
        with self.ledger.transaction() as session:
            run = runs.list_all(session, MODEL)[-1]
            runs.finish(session, run.id, state, outcome={"message": "because"})

    def alarms(self) -> list[str]:
        with self.ledger.read() as session:
            return [alarm.kind for alarm in reversed(alarms.list_all(session, MODEL))]


@pytest.fixture
def world(tmp_path: Path, place: Pod | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Version 1 is champion; the contract asks for 2 bad of 3, 7 days of cool-down and 3 retrainings in 60 days."""
    environment = make_environment(tmp_path, place)
    ledger = open_ledger(environment)
    target = FileTarget(tmp_path / "target.json")
    loop = Loop(environment, ledger, target, contracts=lambda _: world.contract, executor=AtOnce())
    monkeypatch.setattr(loop._outreach, "mirror", lambda _: None)
    world = World(environment, ledger, make_contract(), loop)
    deliver(ledger, 1)
    loop.turn()
    yield world
    ledger.close()


def test_two_bad_windows_of_three_start_one_run_with_the_windows_as_evidence(world: World) -> None:
    world.find(1, "bad")
    assert world.pass_at(START + WEEK) == []
    world.find(2, "bad")
    (trigger,) = world.pass_at(START + 2 * WEEK)
    assert (trigger.kind, trigger.epoch, trigger.attempt, trigger.state) == ("performance", 1, 1, "open")
    with world.ledger.read() as session:
        run = runs.list_all(session, MODEL)[-1]
        event = events.read(session, MODEL, kind="trigger_fired")[-1]
    assert (run.key, run.trigger, run.state) == ("toy/epoch-1/attempt-1", trigger.id, "waiting")
    assert [window["verdict"] for window in event.evidence["windows"]] == ["bad", "bad"]


def test_inconclusive_windows_count_neither_way(world: World) -> None:
    for week, verdict in enumerate(["bad", "inconclusive", "good", "inconclusive", "bad"], start=1):
        world.find(week, verdict)
    assert len(world.pass_at(START + 5 * WEEK)) == 1


@pytest.mark.parametrize("verdicts", [["bad", "good", "good"], ["bad", "bad", "good", "good"], ["good"], []])
def test_fewer_bad_windows_start_nothing(world: World, verdicts: list[str]) -> None:
    for week, verdict in enumerate(verdicts, start=1):
        world.find(week, verdict)
    assert world.pass_at(START + 5 * WEEK) == []


def test_windows_that_share_their_days_are_one_finding(world: World) -> None:
    world.find(2, "bad")
    world.find(2, "bad", shift=1 * DAY)
    world.find(2, "bad", shift=2 * DAY)
    assert world.pass_at(START + 3 * WEEK) == []


def test_windows_of_an_earlier_champion_do_not_count(world: World) -> None:
    world.find(1, "bad")
    deliver(world.ledger, 2)
    from slipway.ledger import releases

    with world.ledger.transaction() as session:
        releases.promote(session, MODEL, 2, epoch=1, actor="ann", reason="x", as_of=START, override=True)
    world.find(2, "bad")
    assert world.pass_at(START + 2 * WEEK) == []


def test_windows_older_than_the_age_limit_do_not_count(world: World) -> None:
    world.find(1, "bad")
    world.find(2, "bad")
    assert world.pass_at(START + 2 * WEEK + 60 * DAY) == []


def test_a_refused_run_closes_the_trigger_and_the_next_attempt_waits_for_the_cool_down_and_new_windows(
    world: World,
) -> None:
    world.find(1, "bad")
    world.find(2, "bad")
    world.pass_at(START + 2 * WEEK)
    world.end_run("refused")
    (trigger,) = world.pass_at(START + 2 * WEEK + DAY)
    assert trigger.state == "done"
    assert len(world.pass_at(START + 3.5 * WEEK)) == 1  # the cool-down is over, but no new window was bad
    world.find(4, "bad")
    world.find(5, "bad")
    _, second = world.pass_at(START + 5 * WEEK)
    assert (second.attempt, second.state) == (2, "open")


def test_a_trigger_within_the_cool_down_is_not_pulled(world: World) -> None:
    world.contract = make_contract(retraining={"cooldown": "60d"})
    for week in (1, 2):
        world.find(week, "bad")
    world.pass_at(START + 2 * WEEK)
    world.end_run()
    for week in (3, 4, 5):
        world.find(week, "bad")
    assert len(world.pass_at(START + 5 * WEEK)) == 1


def test_a_spent_budget_starts_nothing_and_tells_a_person_once(world: World) -> None:
    world.contract = make_contract(retraining={"cooldown": "1d", "budget": "1 per 90d"})
    for week in (1, 2):
        world.find(week, "bad")
    world.pass_at(START + 2 * WEEK)
    world.end_run()
    for week in (3, 4):
        world.find(week, "bad")
    for hours in range(3):
        assert len(world.pass_at(START + 4 * WEEK + timedelta(hours=hours))) == 1
    assert world.alarms() == ["retraining_over_budget"]


def test_nothing_is_pulled_while_a_run_or_a_rollout_is_in_progress(world: World) -> None:
    with world.ledger.transaction() as session:
        runs.submit(session, key="by-hand", model=MODEL, reason="test", as_of=START)
    world.find(1, "bad")
    world.find(2, "bad")
    assert world.pass_at(START + 2 * WEEK) == []
    world.end_run()
    assert len(world.pass_at(START + 2 * WEEK)) == 1


def test_a_frozen_model_is_not_retrained(world: World) -> None:
    with world.ledger.transaction() as session:
        from slipway.ledger import releases

        releases.require(session, MODEL).frozen = True
    world.find(1, "bad")
    world.find(2, "bad")
    assert world.pass_at(START + 2 * WEEK) == []


def test_drift_warns_and_does_not_retrain_by_default(world: World) -> None:
    for week in (1, 2, 3):
        world.find(week, "warn", "drift")
        assert world.pass_at(START + week * WEEK) == []
    assert world.alarms() == ["drift_warn"]


def test_a_season_of_warnings_is_one_alarm_until_it_is_over_or_gets_worse(world: World) -> None:
    for week, verdict in enumerate(("warn", "inconclusive", "warn", "good", "warn", "bad"), start=1):
        world.find(week, verdict, "skew")
        world.pass_at(START + week * WEEK)
    assert sorted(world.alarms()) == ["skew_bad", "skew_warn", "skew_warn"]


def test_a_cut_list_of_findings_starts_no_alarm_of_its_own(world: World) -> None:
    rows = [MonitorRow(kind="drift", verdict="warn") for _ in range(RECENT)]
    assert choose_rises(rows) == []
    assert len(choose_rises(rows[:-1])) == 1


def test_drift_retrains_where_the_contract_says_so(world: World) -> None:
    world.contract = make_contract(retraining={"on": ["performance", "drift"]})
    for week in (1, 2):
        world.find(week, "warn", "drift")
    (trigger,) = world.pass_at(START + 2 * WEEK)
    assert trigger.kind == "drift"


def test_a_silence_of_the_monitor_is_one_alarm_however_long(world: World) -> None:
    for week in range(1, 7):
        world.find(week, "inconclusive")
        world.pass_at(START + week * WEEK)
    assert world.alarms() == ["monitor_inconclusive"]


def test_a_schedule_retrains_without_bad_windows_and_counts_from_the_last_training(world: World) -> None:
    world.contract = make_contract(retraining={"schedule": "30d"})
    assert world.pass_at(START + 29 * DAY) == []
    (trigger,) = world.pass_at(START + 30 * DAY)
    assert trigger.kind == "schedule"
    world.end_run()
    assert len(world.pass_at(START + 45 * DAY)) == 1


def test_ten_identical_triggers_at_once_are_one_run(world: World) -> None:
    ready, fired = threading.Barrier(10), list[int]()

    def fire() -> None:
        own = Ledger(world.ledger.url)
        ready.wait()
        with own.transaction() as session:
            trigger = triggers.fire(
                session, MODEL, epoch=1, kind="performance", evidence={}, as_of=START + WEEK,
                retraining=world.contract.retraining,
            )  # fmt: skip
        if trigger is not None:
            fired.append(trigger.id)
        own.close()

    threads = [threading.Thread(target=fire) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fired) == 1
    with world.ledger.read() as session:
        assert len([run for run in runs.list_all(session, MODEL) if run.trigger]) == 1


def test_an_open_trigger_keeps_others_back_even_after_the_cool_down(world: World) -> None:
    fired = []
    for days in (7, 50):
        with world.ledger.transaction() as session:
            trigger = triggers.fire(
                session, MODEL, epoch=1, kind="performance", evidence={}, as_of=START + days * DAY,
                retraining=world.contract.retraining,
            )  # fmt: skip
            fired.append(trigger is not None)
    assert fired == [True, False]


def test_a_trigger_for_a_stale_epoch_is_not_pulled(world: World) -> None:
    with world.ledger.transaction() as session:
        assert (
            triggers.fire(
                session, MODEL, epoch=0, kind="performance", evidence={}, as_of=START,
                retraining=world.contract.retraining,
            )
            is None
        )  # fmt: skip


def test_a_failed_run_is_an_alarm(world: World) -> None:
    with world.ledger.transaction() as session:
        runs.submit(session, key="by-hand", model=MODEL, reason="test", as_of=START)
    world.end_run("failed")
    world.pass_at(START + DAY)
    world.pass_at(START + 2 * DAY)
    assert world.alarms() == ["run_failed"]


@respx.mock
def test_alarms_reach_the_webhook_once_and_are_tried_again_when_it_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = world.environment.settings.model_copy(
        update={"alerts": world.environment.settings.alerts.model_copy(update={"webhook": "http://hook.test/"})}
    )
    monkeypatch.setattr(world.loop._outreach, "_environment", Environment(world.environment.file, settings))
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    answers: list[Any] = [httpx.Response(500), httpx.ConnectError("refused"), httpx.Response(503)]
    route = respx.post("http://hook.test/").mock(side_effect=[*answers, httpx.Response(204)])
    with world.ledger.transaction() as session:
        for _ in range(2):
            alarms.raise_alarm(session, key="one", model=MODEL, kind="test", message="look", as_of=START)
    for _ in range(3):
        for failure in world.loop._background._failures.values():
            failure.until = 0.0
        world.loop.turn()
    assert route.call_count == 4
    with world.ledger.read() as session:
        assert alarms.unsent(session) == []
    assert route.calls[-1].request.headers["Idempotency-Key"] == "one"
