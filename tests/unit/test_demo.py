"""What the demonstration reads, compares and cleans up."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from rich.console import Console

from pipelines.flight_delay.demo.comparison import logged_features, summarize
from pipelines.flight_delay.demo.evidence import list_numbers, read_champions, read_decisions, read_timeline
from pipelines.flight_delay.demo.findings import count_weeks
from pipelines.flight_delay.demo.plan import ACTS, Plan
from pipelines.flight_delay.demo.screen import Screen
from pipelines.flight_delay.demo.stage import end_processes, prepare_environment
from pipelines.flight_delay.demo.story import EARLY_CONTRACT
from slipway.contract import load_contract, read_contract
from slipway.environment import VARIABLE, Environment
from slipway.ledger import events, open_ledger, releases, versions

MODEL = "flight_delay"
MARCH = datetime(2013, 3, 1, tzinfo=UTC)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv(VARIABLE, "local")  # prepare_environment sets it; this restores it
    return prepare_environment(tmp_path / "run")


def make_scores(days: int = 40, rows: int = 60) -> pd.DataFrame:
    """Scores of flights on consecutive days; `living` knows more than `first`."""
    draw = np.random.default_rng(3)
    truth = draw.normal(size=days * rows)
    moments = pd.to_datetime([MARCH + timedelta(days=i // rows, hours=i % 20) for i in range(days * rows)], utc=True)
    return pd.DataFrame(
        {
            "subject_time": moments,
            "version": 1,
            "label": (truth + draw.normal(size=truth.size) > 0.5).astype(float),
            "living": 1 / (1 + np.exp(-truth)),
            "first": 1 / (1 + np.exp(-(0.3 * truth + draw.normal(size=truth.size)))),
            "recent": 0.5,
        }
    )


def test_the_early_contract_differs_from_the_models_own_in_nothing_but_the_feature_service() -> None:
    early, own = read_contract(EARLY_CONTRACT), load_contract(MODEL)
    assert early.features.service == "flight_delay_early"
    features = early.features.model_copy(update={"service": own.features.service})
    assert early.model_copy(update={"features": features}) == own


def test_days_of_the_plan_follow_one_another_and_leave_room_for_the_last_labels() -> None:
    plan = Plan()
    moments = [plan.history, plan.launch, plan.decay, plan.bad_version, plan.operator, plan.judged, plan.end]
    assert moments == sorted(moments)
    assert plan.end - plan.judged >= load_contract(MODEL).label.longest_delay
    assert len(ACTS) == 5


def test_pooled_difference_counts_only_what_follows_the_first_automatic_promotion() -> None:
    scores = make_scores()
    since = MARCH + timedelta(days=20)
    found = summarize(scores, since=since, until=MARCH + timedelta(days=40), recent_rows=100)
    assert found.flights == int((scores["subject_time"] >= since).sum())
    assert found.days == 20
    assert found.pooled is not None
    assert found.pooled.low > 0.05


def test_months_are_those_of_the_flights_not_of_the_requests() -> None:
    found = summarize(make_scores(), since=MARCH, until=MARCH + timedelta(days=40), recent_rows=100)
    assert [month.month.month for month in found.months] == [3, 4]
    assert sum(month.flights for month in found.months) == 2400


def test_a_month_of_one_class_has_no_numbers() -> None:
    scores = make_scores().assign(label=0.0)
    found = summarize(scores, since=MARCH, until=MARCH + timedelta(days=40), recent_rows=100)
    assert all(month.living is None and month.difference is None for month in found.months)


def test_logged_columns_lose_their_prefixes() -> None:
    rows = pd.DataFrame({"id": ["a"], "in_origin": ["JFK"], "ft_weather__temp": [3.0], "age_weather": [1.0]})
    assert list(logged_features(rows).columns) == ["origin", "weather__temp"]


def test_reigns_end_where_the_next_one_begins(environment: Environment) -> None:
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        for version in (1, 2):
            versions.add(session, MODEL, version, digest=str(version) * 64, gate={}, passed=True, as_of=MARCH)
        releases.promote(session, MODEL, 1, epoch=0, actor="controller", reason="first", as_of=MARCH)
        later = MARCH + timedelta(days=30)
        releases.promote(session, MODEL, 2, epoch=1, actor="controller", reason="better", as_of=later)
        last = MARCH + timedelta(days=60)
        releases.roll_back(session, MODEL, actor="ada", reason="complaints", as_of=last)
    end = MARCH + timedelta(days=90)
    with ledger.read() as session:
        spans = read_champions(events.read(session, MODEL), end)
        timeline = read_timeline(session, MODEL, end)
        decisions = read_decisions(session, MODEL)
    ledger.close()
    assert [(span.version, span.start, span.end) for span in spans] == [
        (1, MARCH, later), (2, later, last), (1, last, end)
    ]  # fmt: skip
    assert [(mark.lane, mark.label, mark.good) for mark in timeline.marks] == [("people", "rollback", False)]
    assert [decision.who for decision in decisions][-1] == "ada"
    assert "complaints" in decisions[-1].because


def test_an_interval_is_one_line_and_nested_numbers_keep_their_path() -> None:
    lines = list_numbers({"gate": {"auc": {"low": 0.7, "estimate": 0.72, "high": 0.74}, "rows": 12345, "none": None}})
    assert [(line.name, line.value) for line in lines] == [("gate.auc", "0.72 (0.7 to 0.74)"), ("gate.rows", "12,345")]


def test_mirrored_copies_are_not_counted_as_traffic() -> None:
    rows = pd.DataFrame(
        {
            "version": [1, 2, 1, 2],
            "delivered": [True, False, True, True],
            "event_time": pd.to_datetime(["2013-03-02", "2013-03-02", "2013-03-20", "2013-03-20"], utc=True),
        }
    )
    weeks = count_weeks(rows, MARCH)
    assert [week.answers for week in weeks] == [{1: 1}, {}, {1: 1, 2: 1}]


def test_only_processes_of_this_run_are_ended(tmp_path: Path) -> None:
    mine, other = tmp_path / "demo.toml", tmp_path / "other.toml"
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    started = [
        subprocess.Popen(sleep, env={**os.environ, VARIABLE: str(file)}) for file in (mine, other)
    ]  # fmt: skip
    try:
        assert end_processes(mine) == 1
        assert not psutil.pid_exists(started[0].pid)
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_run_directory_is_made_new(environment: Environment, tmp_path: Path) -> None:
    left = tmp_path / "run" / "left-over"
    left.write_text("from an earlier run")
    made = prepare_environment(tmp_path / "run")
    assert not left.exists()
    assert made.settings.state_dir == tmp_path / "run" / "state"
    assert os.environ[VARIABLE] == str(made.file)


def test_without_a_terminal_plain_lines_are_printed() -> None:
    out = StringIO()
    screen = Screen(titles=["Launch"], start=MARCH, end=MARCH, console=Console(file=out, width=100))
    with screen.shown():
        screen.begin(0)
        screen.finish(0, False)
    assert "act 1 of 1: Launch" in out.getvalue()
    assert "act 1 DID NOT HAPPEN" in out.getvalue()
    assert "\x1b" not in out.getvalue()
