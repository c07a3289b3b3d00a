"""The resident loop over a real ledger: what is due, in which order, once; what a failure and a restart do."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from monitoring.champion import Champion
from monitoring.examination import LENGTHS, Examiner
from monitoring.finding import Finding
from monitoring.watch import ATTEMPTS, Watch
from monitoring.windows import Window
from slipway.environment import Environment, open_environment
from slipway.ledger import Ledger, alarms, events, monitors, open_ledger, progress, releases, versions

MODEL = "flight_delay"
START = datetime(2013, 3, 7, tzinfo=UTC)
DAY, WEEK = timedelta(days=1), timedelta(days=7)


class Recorder(Examiner):
    """Examines nothing: notes what it was asked and gives the findings that a test names."""

    def __init__(self, environment: Environment, ledger: Ledger) -> None:
        super().__init__(environment, ledger)
        self.asked: list[tuple[str, int, Window]] = []
        self.verdict: Any = "good"
        self.broken: set[str] = set()

    def is_due(self, champion: Champion, kind: str, window: Window, as_of: datetime) -> bool:
        return kind != "performance" or as_of >= window.end + 2 * DAY

    def examine(self, champion: Champion, kind: str, window: Window, as_of: datetime) -> Finding:
        self.asked.append((kind, champion.version, window))
        if kind in self.broken:
            raise OSError("the disk is gone")
        return Finding(self.verdict, f"seen at {as_of}", 0.7, {"rows": 10})


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    return open_environment(str(file))


@pytest.fixture
def ledger(environment: Environment) -> Ledger:
    ledger = open_ledger(environment)
    promote(ledger, 1, epoch=0, as_of=START)
    return ledger


def promote(ledger: Ledger, version: int, *, epoch: int, as_of: datetime) -> None:
    with ledger.transaction() as session:
        gate = {"verdict": "passed", "value": 0.7}
        versions.add(session, MODEL, version, digest=f"{version:064d}", gate=gate, passed=True, as_of=as_of)
        releases.promote(session, MODEL, version, epoch=epoch, actor="test", reason="test", as_of=as_of)


def collect(ledger: Ledger, moment: datetime) -> None:
    with ledger.transaction() as session:
        progress.report(session, "collector", moment)


def reached(ledger: Ledger) -> datetime | None:
    with ledger.read() as session:
        return progress.read(session).get("monitor")


def watch(environment: Environment, ledger: Ledger) -> tuple[Watch, Recorder]:
    examiner = Recorder(environment, ledger)
    return Watch(environment, ledger, examiner), examiner


def test_every_kind_is_examined_once_it_is_due_and_never_twice(environment: Environment, ledger: Ledger) -> None:
    watching, examiner = watch(environment, ledger)
    collect(ledger, START + WEEK)
    watching.turn(START + WEEK)
    week = Window(START, START + WEEK)
    assert {kind for kind, _, window in examiner.asked if window == week} == set(LENGTHS) - {"performance", "freshness"}
    assert [kind for kind, _, _ in examiner.asked].count("freshness") == 7
    examiner.asked.clear()
    collect(ledger, START + WEEK + 2 * DAY)
    watching.turn(START + WEEK + 2 * DAY)
    assert [asked for asked in examiner.asked if asked[2] == week] == [("performance", 1, week)]
    examiner.asked.clear()
    assert watching.turn(START + WEEK + 2 * DAY) == 0
    assert examiner.asked == []


def test_windows_are_examined_in_the_order_in_which_they_end(environment: Environment, ledger: Ledger) -> None:
    watching, examiner = watch(environment, ledger)
    collect(ledger, START + 3 * WEEK)
    watching.turn(START + 3 * WEEK)
    ends = [window.end for _, _, window in examiner.asked]
    assert ends == sorted(ends)


def test_progress_waits_for_the_log(environment: Environment, ledger: Ledger) -> None:
    watching, examiner = watch(environment, ledger)
    collect(ledger, START + DAY - timedelta(seconds=1))
    watching.turn(START + DAY)
    assert examiner.asked == []
    assert reached(ledger) is None
    collect(ledger, START + DAY)
    watching.turn(START + DAY)
    assert len(examiner.asked) == 1
    assert reached(ledger) == START + DAY


def test_without_a_champion_there_is_nothing_to_wait_for(environment: Environment) -> None:
    ledger = open_ledger(environment)
    watching, _ = watch(environment, ledger)
    watching.turn(START)
    assert reached(ledger) == START


def test_a_restart_repeats_nothing(environment: Environment, ledger: Ledger) -> None:
    collect(ledger, START + WEEK)
    watch(environment, ledger)[0].turn(START + WEEK)
    again, examiner = watch(environment, open_ledger(environment))
    again.turn(START + WEEK)
    assert examiner.asked == []


def test_two_processes_leave_one_finding_one_event_and_one_alarm(environment: Environment, ledger: Ledger) -> None:
    collect(ledger, START + DAY)
    first, second = watch(environment, ledger), watch(environment, open_ledger(environment))
    for watching, examiner in (first, second):
        examiner.verdict = "bad"
        watching._seen = None
    # Both have read the ledger before either has stored.
    with ledger.read() as session:
        champion = second[0]._find_champion(session, releases.require(session, MODEL))
    first[0].turn(START + DAY)
    second[1].keep(champion, "freshness", Window(START, START + DAY), Finding("bad", "too"), START + DAY)
    with ledger.read() as session:
        assert len(monitors.recent(session, MODEL)) == 1
        assert len(events.read(session, MODEL, kind="window_examined")) == 1
        assert len(alarms.list_all(session, MODEL)) == 1


def test_a_new_champion_is_watched_from_its_own_tenure_on(environment: Environment, ledger: Ledger) -> None:
    watching, examiner = watch(environment, ledger)
    promote(ledger, 2, epoch=1, as_of=START + WEEK + 3 * DAY)
    collect(ledger, START + 2 * WEEK)
    watching.turn(START + 2 * WEEK)
    assert {version for _, version, _ in examiner.asked} == {2}
    assert min(window.start for kind, _, window in examiner.asked if kind == "drift") == START + WEEK
    with ledger.read() as session:
        assert {row.epoch for row in monitors.recent(session, MODEL)} == {2}


def test_a_window_that_cannot_be_examined_is_inconclusive_in_the_end(environment: Environment, ledger: Ledger) -> None:
    watching, examiner = watch(environment, ledger)
    examiner.broken = {"skew"}
    collect(ledger, START + WEEK)
    for attempt in range(1, ATTEMPTS + 1):
        assert reached(ledger) is None
        watching.turn(START + WEEK)
        assert [kind for kind, _, _ in examiner.asked].count("skew") == attempt
    assert reached(ledger) == START + WEEK
    with ledger.read() as session:
        verdicts = {row.kind: (row.verdict, row.numbers["reason"]) for row in monitors.recent(session, MODEL)}
    assert verdicts["skew"] == ("inconclusive", "the examination failed: OSError: the disk is gone")
    assert verdicts["drift"][0] == "good"


def test_a_turn_with_nothing_due_is_cheap(environment: Environment, ledger: Ledger) -> None:
    watching, _ = watch(environment, ledger)
    as_of = START + 30 * WEEK
    collect(ledger, as_of)
    watching.turn(as_of)
    spent = []
    for minute in range(1, 6):
        collect(ledger, as_of + timedelta(minutes=minute))
        started = time.process_time()
        assert watching.turn(as_of + timedelta(minutes=minute)) == 0
        spent.append(time.process_time() - started)
    assert min(spent) < 0.05
