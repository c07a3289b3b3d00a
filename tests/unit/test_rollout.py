"""A rollout from the pipeline's delivery to its end, by the real controller on a real ledger; the target is a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from slipway import analysis
from slipway.contract import Contract
from slipway.controller.loop import Loop
from slipway.environment import Environment
from slipway.ledger import Ledger, alarms, events, open_ledger, progress, releases, rollouts, versions
from slipway.ledger.schema import RolloutRow
from slipway.pod import Pod
from slipway.rollout import claim_revision
from slipway.targets import Traffic
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
)


@dataclass
class World:
    environment: Environment
    ledger: Ledger
    target: FileTarget
    contract: Contract
    pairs: pd.DataFrame
    loop: Loop

    def pass_at(self, moment: datetime) -> None:
        set_clock(self.environment, moment)
        self.turn()

    def turn(self) -> None:
        # Readings of the counters are a second of wall clock apart; a new look takes one at once.
        self.loop._advance._canary._sampled.clear()
        self.loop.turn()

    def rollout(self) -> RolloutRow:
        with self.ledger.read() as session:
            return rollouts.list_all(session, MODEL)[-1]

    def restart(self) -> None:
        self.loop = Loop(
            self.environment, self.ledger, self.target, contracts=lambda _: self.contract, executor=AtOnce()
        )


def make_pairs(
    difference: float, *, rows: int = 3000, days: int = 6, labelled: float = 1.0, alike: bool = True
) -> pd.DataFrame:
    """Scores of two versions whose separation of the classes differs; unless alike, they err on different rows."""
    draw = np.random.default_rng(7)
    label = draw.integers(0, 2, rows).astype(float)
    noise = draw.normal(size=rows)
    pairs = pd.DataFrame(
        {
            "day": pd.Timestamp(START) + pd.to_timedelta(np.arange(rows) % days, unit="D"),
            "champion": noise + label * 1.0,
            "challenger": (noise if alike else draw.normal(size=rows)) + label * (1.0 + difference),
            "label": label,
        }
    )
    pairs.loc[draw.random(rows) >= labelled, "label"] = np.nan
    return pairs


@pytest.fixture
def world(tmp_path: Path, place: Pod | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    environment = make_environment(tmp_path, place)
    ledger = open_ledger(environment)
    target = FileTarget(tmp_path / "target.json")
    loop = Loop(environment, ledger, target, contracts=lambda _: world.contract, executor=AtOnce())
    world = World(environment, ledger, target, make_contract(), make_pairs(0.2), loop)
    monkeypatch.setattr(analysis, "read_pairs", lambda *_, **__: world.pairs)
    # The registry's mirror is best effort and not part of these tests.
    monkeypatch.setattr(loop._outreach, "mirror", lambda _: None)
    yield world
    assert target.violations == []
    ledger.close()


@pytest.fixture
def launched(world: World) -> World:
    """Version 1 is champion, version 2 has begun its canary with a tenth of the traffic."""
    deliver(world.ledger, 1)
    world.turn()
    deliver(world.ledger, 2)
    world.turn()
    return world


def test_the_first_version_is_launched_when_its_server_is_ready(world: World) -> None:
    deliver(world.ledger, 1)
    world.turn()
    assert release_of(world.ledger) == (1, None, 1)
    assert world.target.read_traffic(MODEL) == Traffic(champion=1)
    assert world.rollout().state == "done"


def test_a_first_version_that_does_not_start_is_not_launched(world: World) -> None:
    world.target.set(broken=[1])
    deliver(world.ledger, 1)
    for _ in range(3):
        world.loop._background._failures.clear()
        world.turn()
    assert release_of(world.ledger) == (None, None, 0)
    assert world.target.read_traffic(MODEL) is None


def test_a_challenger_that_never_becomes_ready_fails_its_rollout_and_the_champion_stays(world: World) -> None:
    deliver(world.ledger, 1)
    world.turn()
    world.target.set(broken=[2])
    deliver(world.ledger, 2)
    for _ in range(4):
        for failure in world.loop._background._failures.values():
            failure.until = 0.0
        world.turn()
    assert world.rollout().state == "failed"
    assert "does not start" in world.rollout().reason
    assert release_of(world.ledger)[0] == 1
    assert world.target.history == [[1, None, 0]]


def test_a_challenger_gets_its_share_step_by_step_and_is_promoted(launched: World) -> None:
    world = launched
    assert world.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10)
    world.target.answer(1, 900)
    world.target.answer(2, 100)
    world.pass_at(START + 1.5 * DAY)
    assert world.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=50)
    world.target.answer(1, 500)
    world.target.answer(2, 500)
    world.pass_at(START + 2.2 * DAY)
    assert world.rollout().step == 1  # the hold of the second step is not over
    world.pass_at(START + 3 * DAY)
    assert release_of(world.ledger) == (2, 1, 2)
    assert world.target.read_traffic(MODEL) == Traffic(champion=2, previous=1)
    assert world.target.list_revisions(MODEL) == {1: True, 2: True}  # previous is kept warm
    assert [look["decision"] for look in world.rollout().looks.values()] == ["next step", "promote"]
    with world.ledger.read() as session:
        assert events.verify(session) == []
        promoted = events.read(session, MODEL, kind="promoted")[-1]
    assert promoted.evidence["looks"]["1"]["findings"], "the event carries the numbers"


def test_nothing_is_judged_before_the_hold_is_over(launched: World) -> None:
    launched.target.answer(1, 900)
    launched.target.answer(2, 100)
    launched.pass_at(START + 0.9 * DAY)
    assert (launched.rollout().state, launched.rollout().step, launched.rollout().looks) == ("canary", 0, {})


def test_failing_answers_roll_back_at_once_without_waiting_for_labels(launched: World) -> None:
    launched.target.answer(1, 450)
    launched.target.answer(2, 50, errors=20)
    launched.turn()
    assert launched.rollout().state == "aborted"
    assert launched.rollout().reason.startswith("health: errors: 20 errors in 50 answers")
    assert launched.target.read_traffic(MODEL) == Traffic(champion=1)
    assert launched.target.list_revisions(MODEL) == {1: True}
    with launched.ledger.read() as session:
        assert versions.read(session, MODEL, 2).state == "rolled_back"
        assert [alarm.kind for alarm in alarms.list_all(session, MODEL)] == ["rollout_aborted"]


def test_traffic_is_taken_back_before_the_ledger_is_told(launched: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_set, real_close = launched.target.set_traffic, rollouts.close
    monkeypatch.setattr(launched.target, "set_traffic", lambda *a: (order.append("traffic"), real_set(*a))[1])
    monkeypatch.setattr(rollouts, "close", lambda *a, **k: (order.append("ledger"), real_close(*a, **k))[1])
    launched.target.answer(1, 450)
    launched.target.answer(2, 50, errors=20)
    launched.turn()
    assert order == ["traffic", "ledger"]


def test_what_failed_online_is_hauled_back_at_its_look(launched: World) -> None:
    launched.pairs = make_pairs(-0.6)
    launched.target.answer(1, 900)
    launched.target.answer(2, 100)
    launched.pass_at(START + 1.5 * DAY)
    assert launched.rollout().state == "aborted"
    assert "quality" in launched.rollout().reason
    look = launched.rollout().looks["0"]
    assert look["findings"][-1]["numbers"]["high"] < 0


def _doubt_labels(world: World) -> None:
    world.pairs = make_pairs(0.2, labelled=0.0)


def _doubt_answers(world: World) -> None:
    world.target.set(answers={"1": (250, 0, 0.01), "2": (25, 0, 0.01)})


def _doubt_metrics(world: World) -> None:
    world.target.set(metrics_gone=True)


def _doubt_latency(world: World) -> None:
    world.target.set(answers={"1": (900, 0, None), "2": (100, 0, None)})


def _doubt_log(world: World) -> None:
    world.pairs = make_pairs(0.2).iloc[:0]


@pytest.mark.parametrize("doubt", [_doubt_labels, _doubt_answers, _doubt_metrics, _doubt_latency, _doubt_log])
def test_a_metric_that_is_missing_holds_and_then_rolls_back_and_never_promotes(
    launched: World, doubt: Callable[[World], None]
) -> None:
    launched.target.set(answers={"1": (900, 0, 0.01), "2": (100, 0, 0.01)})
    doubt(launched)
    for days in (1.5, 2.5, 3.5, 4.5):
        launched.pass_at(START + days * DAY)
        assert (launched.rollout().state, launched.rollout().step) == ("canary", 0)
    launched.pass_at(START + 6 * DAY)
    assert launched.rollout().state == "aborted"
    assert "longest hold" in launched.rollout().reason
    assert release_of(launched.ledger)[0] == 1


def test_a_look_that_cannot_tell_is_taken_once_and_again_only_at_the_longest_hold(
    launched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[datetime] = []
    launched.pairs = make_pairs(0.0, rows=300, alike=False)  # an interval on both sides of the limit
    monkeypatch.setattr(analysis, "read_pairs", lambda *_, as_of, **__: (reads.append(as_of), launched.pairs)[1])
    launched.target.answer(1, 900)
    launched.target.answer(2, 100)
    for days in (1.5, 2.5, 3.5, 4.5):
        launched.pass_at(START + days * DAY)
    assert reads == [START + 1.5 * DAY]
    assert launched.rollout().looks["0"]["decision"] == "hold"
    launched.pairs = make_pairs(0.2)
    launched.pass_at(START + 6 * DAY)
    assert (launched.rollout().state, launched.rollout().step) == ("canary", 1)


def test_the_longest_hold_waits_for_a_log_that_is_behind_but_not_for_ever(launched: World) -> None:
    launched.pairs = launched.pairs.iloc[:0]
    with launched.ledger.transaction() as session:
        progress.report(session, "collector", START + 4 * DAY)
    launched.pass_at(START + 5.5 * DAY)
    assert launched.rollout().state == "canary"
    launched.pass_at(START + 6.5 * DAY)
    assert launched.rollout().state == "aborted"


def test_a_paused_rollout_stays_where_it_is_but_failing_health_still_rolls_back(launched: World) -> None:
    with launched.ledger.transaction() as session:
        rollouts.set_paused(session, MODEL, True, actor="ann", as_of=START)
    launched.target.answer(1, 900)
    launched.target.answer(2, 100)
    launched.pass_at(START + 30 * DAY)
    assert (launched.rollout().state, launched.rollout().step) == ("canary", 0)
    launched.target.answer(2, 100, errors=50)
    launched.turn()
    assert launched.rollout().state == "aborted"


def test_a_step_begins_anew_after_a_pause(launched: World) -> None:
    with launched.ledger.transaction() as session:
        rollouts.set_paused(session, MODEL, True, actor="ann", as_of=START)
    set_clock(launched.environment, START + 30 * DAY)
    with launched.ledger.transaction() as session:
        row = rollouts.set_paused(session, MODEL, False, actor="ann", as_of=START + 30 * DAY)
    assert row.step_since == START + 30 * DAY
    launched.turn()
    assert launched.rollout().state == "canary"  # and is not over its longest hold


def test_an_edited_contract_does_not_change_the_rules_of_a_rollout_in_progress(launched: World) -> None:
    launched.contract = make_contract(rollout={"steps": [90], "hold": "1d", "max_hold": "5d"})
    launched.turn()
    assert launched.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10)


def test_answers_are_counted_across_a_restart_of_the_gateway(launched: World) -> None:
    launched.target.answer(1, 200)
    launched.target.answer(2, 30)
    launched.turn()
    launched.target.set(answers={"1": (50, 0, 0.01), "2": (5, 0, 0.01)})  # it counts from zero again
    launched.turn()
    counts = launched.rollout().counts
    assert (counts["1"]["answers"], counts["2"]["answers"]) == (250, 35)


def test_answers_from_before_the_challenger_had_its_share_are_not_counted(world: World) -> None:
    deliver(world.ledger, 1)
    world.turn()
    deliver(world.ledger, 2)
    world.target.set(gateway_down=True)
    world.turn()
    world.target.answer(1, 400)
    world.turn()
    assert (world.rollout().state, world.rollout().counts) == ("canary", {})
    # A controller set the traffic and died; the next one reads the counters when much was answered already.
    world.target.set(gateway_down=False, traffic=asdict(Traffic(champion=1, challenger=2, percent=10)))
    world.target.answer(1, 400)
    world.target.answer(2, 45)
    world.restart()
    world.turn()
    world.target.answer(1, 300)
    world.target.answer(2, 30)
    world.turn()
    rollout = world.rollout()
    assert rollout.state == "canary", rollout.reason
    assert {version: entry["answers"] for version, entry in rollout.counts.items()} == {"1": 300, "2": 30}


def test_answers_at_the_share_of_the_step_before_are_not_counted(launched: World) -> None:
    set_clock(launched.environment, START + 2 * DAY)
    for version, count in ((1, 500), (2, 60)):
        launched.target.answer(version, count)
    launched.target.set(gateway_down=True)
    launched.turn()
    assert launched.rollout().step == 1
    for version, count in ((1, 900), (2, 100)):
        launched.target.answer(version, count)
    launched.turn()
    assert launched.rollout().counts == {}
    launched.target.set(gateway_down=False)
    launched.turn()
    assert launched.rollout().state == "canary", launched.rollout().reason


def test_lost_traffic_and_lost_servers_are_put_back(launched: World) -> None:
    launched.target.set(traffic=None, revisions={})
    launched.turn()
    launched.turn()
    assert launched.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10)
    assert launched.target.list_revisions(MODEL) == {1: True, 2: True}


def test_servers_that_nobody_wants_are_removed(launched: World) -> None:
    launched.target.set(revisions={"1": True, "2": True, "7": True})
    launched.turn()
    assert launched.target.list_revisions(MODEL) == {1: True, 2: True}


def test_a_server_that_a_person_is_about_to_promote_is_left_alone(launched: World) -> None:
    with claim_revision(launched.environment, MODEL, 9, timeout=0):
        launched.target.apply_revision(MODEL, 9)
        launched.turn()
        assert launched.target.list_revisions(MODEL)[9]
    launched.turn()
    assert 9 not in launched.target.list_revisions(MODEL)


def test_a_gateway_that_is_away_does_not_undo_the_decision_to_haul_back(launched: World) -> None:
    launched.target.answer(1, 450)
    launched.target.answer(2, 50, errors=20)
    launched.target.set(gateway_down=True)
    launched.turn()
    assert launched.rollout().state == "aborted"
    launched.target.set(gateway_down=False)
    launched.turn()
    assert launched.target.read_traffic(MODEL) == Traffic(champion=1)


def test_rolled_back_content_is_refused_under_a_new_number_too(launched: World) -> None:
    launched.target.answer(1, 450)
    launched.target.answer(2, 50, errors=20)
    launched.turn()
    run = deliver(launched.ledger, 3, digest=f"{2:064d}")
    launched.turn()
    assert run.state == "refused"
    assert launched.rollout().challenger == 2
    with launched.ledger.read() as session:
        assert versions.read(session, MODEL, 3).state == "refused"


def test_a_frozen_model_keeps_its_candidates_waiting_until_resume(launched: World) -> None:
    world = launched
    with world.ledger.transaction() as session:
        rollouts.close(session, rollouts.require_open(session, MODEL), "aborted", reason="test", as_of=START)
        releases.promote(session, MODEL, 2, epoch=1, actor="ann", reason="x", as_of=START, override=True)
        releases.roll_back(session, MODEL, actor="ann", reason="odd", as_of=START)
    deliver(world.ledger, 3)
    world.turn()
    assert world.rollout().challenger == 2
    with world.ledger.read() as session:
        assert progress.outstanding(session) == []
    with world.ledger.transaction() as session:
        releases.resume(session, MODEL, actor="ann", as_of=START)
    world.turn()
    assert (world.rollout().challenger, world.rollout().state) == (3, "canary")


def test_a_human_rollback_ends_the_rollout_and_the_traffic_follows(launched: World) -> None:
    world = launched
    world.target.answer(1, 900)
    world.target.answer(2, 100)
    world.pass_at(START + 1.5 * DAY)
    world.target.answer(1, 500)
    world.target.answer(2, 500)
    world.pass_at(START + 3 * DAY)
    deliver(world.ledger, 3)
    world.turn()
    assert world.target.read_traffic(MODEL) == Traffic(champion=2, challenger=3, percent=10, previous=1)
    with world.ledger.transaction() as session:
        releases.roll_back(session, MODEL, actor="ann", reason="odd", as_of=START)
    world.turn()
    assert world.rollout().state == "aborted"
    assert world.target.read_traffic(MODEL) == Traffic(champion=1)
    assert world.target.list_revisions(MODEL) == {1: True}


def test_progress_waits_for_what_the_monitor_and_the_collector_have_reached(launched: World) -> None:
    with launched.ledger.transaction() as session:
        progress.report(session, "monitor", START + 2 * DAY)
        progress.report(session, "collector", START + 3 * DAY)
    launched.pass_at(START + 4 * DAY)
    with launched.ledger.read() as session:
        assert progress.read(session)["controller"] == START + 2 * DAY


def test_a_broken_contract_stops_automation_and_progress_but_not_traffic(
    launched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slipway.errors import Unknown

    def broken(_: str) -> Contract:
        raise Unknown("model", MODEL)

    monkeypatch.setattr(launched.loop, "_contracts", broken)
    launched.target.set(traffic=None)
    launched.pass_at(START + 2 * DAY)
    assert launched.target.read_traffic(MODEL) == Traffic(champion=1, challenger=2, percent=10)
    with launched.ledger.read() as session:
        assert progress.read(session)["controller"] == START


def test_outstanding_names_what_ends_without_the_clock(world: World) -> None:
    from slipway.ledger import runs

    with world.ledger.transaction() as session:
        run = runs.submit(session, key="a", model=MODEL, reason="test", as_of=START)
    with world.ledger.read() as session:
        assert progress.outstanding(session) == [f"run {run.id} of toy is waiting"]
    deliver(world.ledger, 1)
    with world.ledger.transaction() as session:
        runs.finish(session, run.id, "failed")
        assert progress.outstanding(session) == ["toy version 1 waits for its rollout"]
    world.turn()
    with world.ledger.read() as session:
        assert progress.outstanding(session) == []


def test_the_newest_candidate_is_rolled_out_and_the_older_one_is_passed_over(world: World) -> None:
    deliver(world.ledger, 1)
    world.turn()
    deliver(world.ledger, 2)
    deliver(world.ledger, 3)
    world.turn()
    assert world.rollout().challenger == 3
    assert "passes over 2" in world.rollout().reason


def test_a_pass_that_finds_nothing_to_do_writes_nothing(launched: World) -> None:
    launched.turn()
    launched.turn()

    def count() -> Any:
        with launched.ledger.read() as session:
            return events.count(session), launched.ledger.count_changes()

    before = count()
    launched.turn()
    assert count() == before
