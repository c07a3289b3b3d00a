"""A short run of the whole loop: the demonstration's five acts with real processes, on seven weeks of real flights."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.flight_delay.demo.demonstration import STORY, perform
from pipelines.flight_delay.demo.facts import Story
from pipelines.flight_delay.demo.memory import find_processes
from pipelines.flight_delay.demo.plan import Plan
from slipway.environment import VARIABLE, open_environment
from slipway.ledger import events, open_ledger, releases, versions
from slipway.ledger.schema import ReleaseRow

pytestmark = pytest.mark.e2e

MODEL = "flight_delay"
SHORT = Plan(
    watched=datetime(2013, 7, 11, tzinfo=UTC),
    decay=datetime(2013, 8, 15, tzinfo=UTC),
    bad_version=datetime(2013, 8, 27, tzinfo=UTC),
    operator=datetime(2013, 8, 28, tzinfo=UTC),
    judged=datetime(2013, 8, 29, tzinfo=UTC),
    end=datetime(2013, 8, 31, tzinfo=UTC),
)
"""The model of January and February meets the July that it has never seen; the months between are published at once."""


def test_the_loop_closes_by_itself_and_leaves_nothing_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "local")  # the demonstration sets it; this restores it
    result = perform(tmp_path, SHORT)
    story = Story.model_validate_json((tmp_path / "run" / STORY).read_text())
    missed = [f"{act.title}: {[fact.value for fact in act.found]}" for act in story.acts if not act.happened]
    assert not missed
    assert result.happened
    assert "The loop closed by itself" in (tmp_path / "report.html").read_text()
    file = tmp_path / "run" / "demo.toml"
    assert find_processes(file) == []
    ledger = open_ledger(open_environment(str(file)))
    with ledger.read() as session:
        assert events.verify(session) == []
        release: ReleaseRow = releases.require(session, MODEL)
        assert [row.state for row in versions.list_all(session, MODEL)].count("champion") == 1
        assert not release.frozen
    ledger.close()
