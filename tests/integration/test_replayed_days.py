"""Days played against the real store, ledger and clock; the gateway is a function that answers like one."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from pipelines.flight_delay import dataset
from pipelines.flight_delay.replay.barrier import PROCESSES
from pipelines.flight_delay.replay.player import Plan, Player
from slipway import endpoints, tokens
from slipway.clock import ReplayClock
from slipway.environment import Environment, open_environment
from slipway.errors import NotReady, SlipwayError
from slipway.ledger import Ledger, open_ledger, progress
from slipway.ledger.schema import ReleaseRow

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]
START = datetime(2013, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)


class Platform(threading.Thread):
    """Keeps up with event time as collector, monitor and controller would."""

    def __init__(self, environment: Environment, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._environment, self._ledger, self._ended = environment, ledger, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            if self._environment.state.clock_file.exists():
                with self._ledger.transaction() as session:
                    for process in PROCESSES:
                        progress.report(session, process, self._environment.clock.as_of())

    def stop(self) -> None:
        self._ended.set()
        self.join(timeout=10)


class Gateway:
    """Takes predictions and labels, and remembers what event time it was."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.asked: dict[str, datetime] = {}
        self.labels: dict[str, dict[str, object]] = {}
        self.break_after: int | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body, now = json.loads(request.content), self._environment.clock.as_of()
        if request.url.path == "/api/labels":
            assert all(datetime.fromisoformat(str(label["known_at"])) <= now for label in body["labels"])
            self.labels |= {label["prediction_id"]: label for label in body["labels"]}
            return httpx.Response(200, json={"accepted": len(body["labels"]), "refused": 0})
        if self.break_after is not None and len(self.asked) >= self.break_after:
            return httpx.Response(403, text="killed here")
        for instance, id_ in zip(body["instances"], body["prediction_ids"], strict=True):
            departure = datetime.fromisoformat(instance["scheduled_departure"].replace("Z", "+00:00"))
            ahead = departure - timedelta(hours=1) - now
            assert timedelta(0) <= ahead < timedelta(minutes=30) or (self.break_after is None and id_ in self.asked)
            self.asked[id_] = now
        return httpx.Response(200, json={"predictions": []}, headers={"x-model-version": "1"})


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    environment = open_environment(str(file))
    tokens.prepare(environment)
    monkeypatch.setattr(endpoints, "gateway_url", lambda environment: "http://gateway")
    return environment


@pytest.fixture
def platform(environment: Environment) -> Iterator[Platform]:
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        session.add(ReleaseRow(model="flight_delay", champion=1, epoch=1))
    thread = Platform(environment, ledger)
    thread.start()
    yield thread
    thread.stop()


def _play(environment: Environment, gateway: Gateway, plan: Plan) -> dict[str, object]:
    player = Player(environment, plan, lambda moment, text: None, transport=httpx.MockTransport(gateway))
    return asyncio.run(player.play())


def test_a_killed_replay_goes_on_where_it_stopped_and_nothing_is_twice_or_lost(
    environment: Environment, platform: Platform
) -> None:
    gateway = Gateway(environment)
    plan = Plan(START, START + 3 * DAY, sample=0.5)
    gateway.break_after = 600  # in the second day
    with pytest.raises(SlipwayError, match="killed here"):
        _play(environment, gateway, plan)
    stopped = environment.clock.as_of()
    assert START + DAY < stopped < START + 2 * DAY
    gateway.break_after = None
    counts = _play(environment, gateway, plan)
    assert environment.clock.as_of() == START + 3 * DAY
    assert counts["failed"] == 0
    assert counts["asked"] == len(gateway.asked) > 1200
    rows = dataset.entities(environment, start=START, end=START + 4 * DAY, as_of=START + 3 * DAY)
    whole = rows[rows["event_timestamp"] >= START]
    assert abs(len(gateway.asked) / len(whole) - 0.5) < 0.05
    assert counts["labels_delivered"] == len(gateway.labels) > 1000
    offline = environment.state.features / "offline" / "origin_traffic"
    published = pd.concat(pd.read_parquet(file) for file in sorted(offline.glob("*.parquet")))
    assert not published.duplicated(["origin", "event_timestamp"]).any()
    assert published["event_timestamp"].max() < START + 3 * DAY
    told = json.loads((environment.state.run / "replay.json").read_text())
    assert told["answered_by_version"] == {"1": len(gateway.asked)}
    assert _play(environment, gateway, plan) == counts  # a third time nothing is left to do


def test_without_a_sample_everything_is_published_at_once_and_nobody_is_asked(environment: Environment) -> None:
    gateway = Gateway(environment)
    counts = _play(environment, gateway, Plan(datetime(2013, 1, 1, tzinfo=UTC), START, sample=0.0))
    assert (counts["asked"], gateway.asked) == (0, {})
    assert environment.clock.as_of() == START
    rows = dataset.entities(environment, start=datetime(1970, 1, 1, tzinfo=UTC), end=START, as_of=START)
    assert len(rows) > 7000
    assert rows["label"].notna().mean() > 0.95


def test_nobody_is_asked_before_there_is_a_champion(environment: Environment) -> None:
    with pytest.raises(NotReady, match="no champion"):
        _play(environment, Gateway(environment), Plan(START, START + DAY))


def test_event_time_never_goes_back(environment: Environment, platform: Platform) -> None:
    clock = environment.clock
    assert isinstance(clock, ReplayClock)
    _play(environment, Gateway(environment), Plan(START, START + DAY, sample=0.01))
    _play(environment, Gateway(environment), Plan(START - 3 * DAY, START, sample=0.01))
    assert clock.as_of() == START + DAY
