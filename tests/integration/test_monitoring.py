"""The resident monitor process over a real log, with Evidently's own pages reading what it wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitoring.champion import read_champion
from monitoring.examination import Examiner
from monitoring.finding import Finding
from monitoring.reports import measure
from monitoring.windows import Window
from slipway.contract import Retention
from slipway.environment import Environment
from slipway.ledger import alarms, events, monitors, open_ledger, progress, releases
from slipway.ledger.schema import MonitorRow
from slipway.settings import REPOSITORY
from slipway.unix_sockets import client
from tests.integration.monitored_champion import END, FIRST, MODEL, SECOND, make_champion, move_clock

pytestmark = pytest.mark.integration
LIMIT = 120
"""Seconds for one wait: Evidently and Feast alone take 20 to import on a busy machine."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_champion(tmp_path_factory.mktemp("monitored"))


@contextmanager
def running(environment: Environment, module: str) -> Iterator[subprocess.Popen[bytes]]:
    log = environment.state.logs / f"{module}.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=REPOSITORY,
            env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
            stderr=stream,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=30)


def wait_for(condition: Any, process: subprocess.Popen[bytes], environment: Environment) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        logged = "".join(file.read_text()[-3000:] for file in environment.state.logs.glob("*.log"))
        assert process.poll() is None, logged
        assert time.monotonic() < deadline, logged
        time.sleep(0.2)


def stored(environment: Environment) -> list[MonitorRow]:
    with open_ledger(environment).read() as session:
        return monitors.recent(session, MODEL, limit=1000)


def has_reached(environment: Environment, moment: Any) -> bool:
    with open_ledger(environment).read() as session:
        return progress.read(session).get("monitor", FIRST) >= moment


def by_window(environment: Environment, kind: str) -> dict[Any, MonitorRow]:
    return {row.window_start: row for row in stored(environment) if row.kind == kind}


def test_a_killed_monitor_goes_on_and_examines_each_window_once(environment: Environment) -> None:
    with running(environment, "monitoring") as process:
        wait_for(lambda: len(stored(environment)) >= 3, process, environment)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    first = {(row.kind, row.window_start): row.id for row in stored(environment)}
    with running(environment, "monitoring") as process:
        wait_for(lambda: has_reached(environment, END), process, environment)
        move_clock(environment, END + timedelta(days=3))
        wait_for(lambda: has_reached(environment, END + timedelta(days=3)), process, environment)
    rows = stored(environment)
    found = {(row.kind, row.window_start): row.id for row in rows}
    assert len(found) == len(rows)
    assert first.items() <= found.items()
    with open_ledger(environment).read() as session:
        told = events.read(session, MODEL, kind="window_examined")
    assert len(told) == len(rows)
    assert {row.window_start for row in rows if row.kind == "drift"} == {FIRST, SECOND}
    assert sum(row.kind == "freshness" for row in rows) == (END - FIRST).days + 3


def test_decay_is_bad_and_alarms(environment: Environment) -> None:
    weeks = by_window(environment, "performance")
    assert set(weeks) == {FIRST, SECOND}
    assert weeks[FIRST].verdict == "good", weeks[FIRST].numbers
    assert weeks[SECOND].verdict == "bad", weeks[SECOND].numbers
    assert weeks[SECOND].numbers["missing_labels"] == 0
    with open_ledger(environment).read() as session:
        assert [alarm.kind for alarm in alarms.list_all(session, MODEL)].count("performance_bad") == 1


def test_a_performance_window_waits_for_its_last_cohort(environment: Environment) -> None:
    week = by_window(environment, "performance")[FIRST]
    # Its last flights leave in the first hour of the next day; that day's labels are due 36 h after its end.
    assert week.as_of >= SECOND + timedelta(days=1, hours=36)


def test_features_of_the_same_kind_do_not_drift_and_equal_the_offline_join(environment: Environment) -> None:
    for week in (FIRST, SECOND):
        drift = by_window(environment, "drift")[week]
        assert drift.verdict == "good", drift.numbers
        assert len(drift.numbers["columns"]) > 40
        skew = by_window(environment, "skew")[week]
        assert (skew.verdict, skew.metric) == ("good", 1.0), skew.numbers
        assert skew.numbers["rows"] == 1000
        assert by_window(environment, "quality")[week].verdict == "good", by_window(environment, "quality")[
            week
        ].numbers


def test_evidently_pages_show_what_comes_while_they_run(environment: Environment) -> None:
    with running(environment, "slipway.reports_server") as process:
        socket = environment.state.sockets / "reports.sock"
        wait_for(socket.exists, process, environment)
        with client(socket, timeout=30) as asking:
            projects = asking.get("/api/projects").json()
            assert [project["name"] for project in projects] == [MODEL]
            address = f"/api/projects/{projects[0]['id']}/reports"
            shown = {report["id"] for report in asking.get(address).json()}
            assert shown == {row.report for row in stored(environment) if row.report}
            drafts = list((environment.state.reports / ".drafts").rglob("*.json"))
            assert drafts == []


def ask(environment: Environment, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from slipway.cli import main; main()", "monitor", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_a_span_that_a_person_names_is_shown_and_never_stored(environment: Environment) -> None:
    before = len(stored(environment))
    span = f"{SECOND:%Y-%m-%d}/{SECOND + timedelta(days=3):%Y-%m-%d}"
    done = ask(environment, MODEL, "--window", span, "--kind", "performance", "--json")
    assert done.returncode == 0, done.stderr
    (finding,) = json.loads(done.stdout)
    assert (finding["verdict"], finding["stored"]) == ("bad", False)
    assert len(stored(environment)) == before


@pytest.mark.filterwarnings("ignore")  # what Evidently imports warns
def test_a_report_is_kept_as_long_as_the_contract_says_and_its_finding_for_ever(environment: Environment) -> None:
    from evidently.metrics import RowCount

    with open_ledger(environment).read() as session:
        release = releases.read(session, MODEL)
        assert release is not None
        champion = read_champion(session, environment, release)
    kept = Retention(reports=timedelta(days=8))
    champion = replace(champion, contract=champion.contract.model_copy(update={"retention": kept}))
    run, _ = measure([RowCount()], pd.DataFrame({"distance": [1.0]}), None, numerical=["distance"])
    window = Window(END + timedelta(days=2), END + timedelta(days=9))
    before, ledger = stored(environment), open_ledger(environment)
    assert any(row.report for row in before)
    row = Examiner(environment, ledger).keep(champion, "quality", window, Finding("good", "", run=run), window.end)
    assert [file.stem for file in environment.state.reports.glob("*/snapshots/*.json")] == [row.report]
    after = {each.id: each.report for each in stored(environment)}
    assert after == {each.id: "" for each in before} | {row.id: row.report}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "'nobody' does not exist"),
        ((MODEL, "--kind", "mood"), "'mood' does not exist"),
        ((MODEL, "--window", "yesterday"), "START/END"),
    ],
)
def test_wrong_use_exits_2_with_a_hint(environment: Environment, arguments: tuple[str, ...], said: str) -> None:
    done = ask(environment, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_skew_that_was_made_is_found(environment: Environment, tmp_path: Path) -> None:
    """The last day's weather was other online than what the offline store says now."""
    import duckdb

    day = END - timedelta(days=1)
    file = environment.state.inference_log / f"model={MODEL}" / f"date={day:%Y-%m-%d}" / "rows.parquet"
    changed = tmp_path / "changed.parquet"
    kept = file.read_bytes()
    query = f"select * replace (ft_weather__temp + 1 as ft_weather__temp) from '{file}'"  # noqa: S608
    duckdb.sql(query).write_parquet(str(changed))
    try:
        file.write_bytes(changed.read_bytes())
        span = f"{day:%Y-%m-%d}/{END:%Y-%m-%d}"
        done = ask(environment, MODEL, "--window", span, "--kind", "skew", "--json")
    finally:
        file.write_bytes(kept)
    (finding,) = json.loads(done.stdout)
    assert finding["verdict"] == "warn"
    assert finding["numbers"]["columns"] == {"weather__temp": 1.0}
