"""The real store: Feast with its SQL registry, both guarded online stores (SQLite, Valkey) and the offline files."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import redis

from feature_repo.flights.publications import compute
from feature_repo.flights.services import SERVICES
from feature_repo.flights.views import ORIGIN_TRAFFIC, TICK, WEATHER
from feature_repo.store import ONLINE
from pipelines.flight_delay.events import ASKED_AHEAD
from pipelines.flight_delay.leaks import join_frames
from pipelines.flight_delay.source import read_flights, read_weather
from slipway import pod
from slipway.environment import Environment, open_environment
from slipway.errors import NotReady
from tests.integration.valkey_server import connect, valkey_server
from tests.s3_server import S3Server, credentials, s3_server

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # Feast, ibis and pyarrow warn of one another's deprecations
]
SERVICE = "flight_delay_v1"
START = pd.Timestamp("2013-01-07", tz="UTC")
END = START + pd.Timedelta(days=2)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as address:
        yield address


@pytest.fixture(scope="module")
def objects() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["machine", "pod"])
def environment(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Environment]:
    """A machine of one's own has SQLite and files; a pod has Valkey and an object store."""
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    if request.param == "pod":
        address = request.getfixturevalue("valkey")
        for name, text in ({ONLINE: address} | credentials(request.getfixturevalue("objects"))).items():
            secret = tmp_path / "secrets" / name
            secret.parent.mkdir(parents=True, exist_ok=True)
            secret.write_text(text)
        monkeypatch.setenv(pod.SECRETS, str(tmp_path / "secrets"))
        with connect(address) as client:
            client.flushall()
    environment = open_environment(str(file))
    environment.state.prepare()
    yield environment


@pytest.fixture
def store(environment: Environment) -> Iterator[Any]:
    from feature_repo.store import open_store

    yield open_store(environment)


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    flights, weather = read_flights(), read_weather()
    return {view.name: compute(view, flights, weather, START, END) for view in SERVICES[SERVICE]}


def _weather(moment: datetime, temp: float, origin: str = "JFK") -> pd.DataFrame:
    row = dict.fromkeys(WEATHER.columns, 1.0) | {"origin": origin, "temp": temp, "event_timestamp": moment}
    frame = pd.DataFrame([row])
    return frame.assign(
        event_timestamp=pd.to_datetime(frame["event_timestamp"], utc=True).astype("datetime64[us, UTC]")
    )


def _temp(store: Any, origin: str = "JFK") -> float | None:
    answer = store.get_online_features(features=["weather:temp"], entity_rows=[{"origin": origin}]).to_dict()
    value: float | None = answer["temp"][0]
    return value


NOON = datetime(2013, 1, 7, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_offline_and_online_features_are_equal_for_a_thousand_flights(
    environment: Environment, store: Any, frames: dict[str, pd.DataFrame]
) -> None:
    from feature_repo import history
    from feature_repo.lookup import FeatureLookup
    from feature_repo.publishing import OnlinePublisher, publish_offline

    lookup = FeatureLookup(environment, SERVICE, store=store)
    publishers = {name: OnlinePublisher(store, name) for name in frames}
    flights = read_flights()
    asked_at = flights["scheduled_departure"] - ASKED_AHEAD
    seen, rows = [], []
    for tick in pd.date_range(START, END, freq=TICK, inclusive="left"):
        for name, publisher in publishers.items():
            known = frames[name]
            publisher.write(known[known["published"] == tick], as_of=tick.to_pydatetime())
        asking = flights[(asked_at >= tick) & (asked_at < tick + TICK)]
        if len(asking):
            seen.append(lookup.read(asking, as_of=tick.to_pydatetime()).features)
            rows.append(asking.assign(event_timestamp=tick))
    for name, frame in frames.items():
        publish_offline(environment, name, frame, as_of=END.to_pydatetime())
    online, entities = pd.concat(seen), pd.concat(rows)
    assert len(online) > 1000
    offline = history.join(environment, SERVICE, entities, store=store)
    pd.testing.assert_frame_equal(offline[online.columns], online, check_exact=True)
    assert online.notna().mean().min() > 0.5

    # The training rows are joined at the very moment of asking, up to a tick later: the values are the same.
    exact = history.join(
        environment, SERVICE, entities.assign(event_timestamp=asked_at.loc[entities.index]), store=store
    )
    pd.testing.assert_frame_equal(exact[online.columns], online, check_exact=True)

    in_memory = join_frames(SERVICES[SERVICE], entities, frames)
    pd.testing.assert_frame_equal(in_memory[online.columns], online, check_exact=True)


@pytest.mark.parametrize("environment", ["machine"], indirect=True)  # Feast's own join knows no object store
def test_the_asof_join_answers_as_feast_s_own_join_does(
    environment: Environment, store: Any, frames: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    from feast import FeatureStore

    from feature_repo import history
    from feature_repo.publishing import publish_offline
    from feature_repo.store import store_config

    for name, frame in frames.items():
        publish_offline(environment, name, frame, as_of=END.to_pydatetime())
    flights = read_flights()
    rows = flights[flights["scheduled_departure"].between(START, END)].sample(300, random_state=0)
    rows = rows.assign(event_timestamp=(rows["scheduled_departure"] - ASKED_AHEAD).astype("datetime64[us, UTC]"))
    rows = rows.reset_index(drop=True)
    stranger = rows.iloc[[0]].assign(dest="ZZZ", event_timestamp=START - pd.Timedelta(days=1))
    rows = pd.concat([rows, stranger], ignore_index=True)  # nothing was known of it: it stays, with nulls
    monkeypatch.chdir(environment.state.features)  # where it looks for files without a folder
    stock = FeatureStore(config=store_config(environment, offline="duckdb"))
    keys = ["carrier", "flight", "origin", "dest", "event_timestamp"]
    theirs = stock.get_historical_features(
        entity_df=rows[keys], features=stock.get_feature_service(SERVICE), full_feature_names=True
    ).to_df()
    ours = history.join(environment, SERVICE, rows, store=store)
    names = [name for view in SERVICES[SERVICE] for name in view.qualified.values()]
    theirs["event_timestamp"] = pd.to_datetime(theirs["event_timestamp"], utc=True).astype("datetime64[us, UTC]")
    both = rows[keys].merge(theirs, on=keys, how="left")
    pd.testing.assert_frame_equal(ours[names], both[names].astype("float64"), check_exact=True)
    assert ours[names].iloc[-1].isna().all()


def test_a_value_older_than_its_lifetime_is_absent_offline_and_online(environment: Environment, store: Any) -> None:
    from feature_repo import history
    from feature_repo.lookup import FeatureLookup
    from feature_repo.publishing import publish

    publish(environment, store, "weather", _weather(NOON, 40.0), as_of=NOON)
    row = pd.DataFrame({"carrier": ["UA"], "flight": [1], "origin": ["JFK"], "dest": ["ORD"]})
    lookup = FeatureLookup(environment, SERVICE, store=store)
    for later, expected in ((WEATHER.lifetime, 40.0), (WEATHER.lifetime + timedelta(microseconds=1), np.nan)):
        moment = NOON + later
        asked = row.assign(event_timestamp=pd.Series([pd.Timestamp(moment)], dtype="datetime64[us, UTC]"))
        online = lookup.read(row, as_of=moment)
        offline = history.join(environment, SERVICE, asked, store=store)
        np.testing.assert_equal(online.features["weather__temp"].iloc[0], expected)
        np.testing.assert_equal(offline["weather__temp"].iloc[0], expected)
        assert np.isnan(online.ages["weather"].iloc[0]) == np.isnan(expected)


def test_a_late_event_never_overwrites_a_newer_one_when_pushed(environment: Environment, store: Any) -> None:
    from feature_repo.publishing import publish

    assert publish(environment, store, "weather", _weather(NOON, 50.0), as_of=NOON).late == 0
    late = publish(environment, store, "weather", _weather(NOON - HOUR, 20.0), as_of=NOON)
    assert (late.rows, late.late) == (1, 1)
    store.write_to_online_store("weather", df=_weather(NOON - HOUR, 21.0).assign(written=NOON))
    assert _temp(store) == 50.0
    store.write_to_online_store("weather", df=_weather(NOON + HOUR, 55.0).assign(written=NOON))
    assert _temp(store) == 55.0


def test_a_late_event_never_overwrites_a_newer_one_when_materialized(environment: Environment, store: Any) -> None:
    from feature_repo.publishing import OnlinePublisher, publish_offline

    publish_offline(environment, "weather", _weather(NOON - HOUR, 20.0), as_of=NOON)
    publish_offline(environment, "weather", _weather(NOON - HOUR, 30.0, origin="LGA"), as_of=NOON)
    OnlinePublisher(store, "weather").write(_weather(NOON, 50.0), as_of=NOON)
    store.materialize(NOON - 6 * HOUR, NOON + HOUR, feature_views=["weather"])
    assert _temp(store) == 50.0
    assert _temp(store, "LGA") == 30.0


def test_the_guard_outlives_a_new_apply(environment: Environment, store: Any) -> None:
    from feature_repo.definitions import feast_objects
    from feature_repo.publishing import OnlinePublisher

    OnlinePublisher(store, "weather").write(_weather(NOON, 50.0), as_of=NOON)
    store.apply(feast_objects())
    assert OnlinePublisher(store, "weather").write(_weather(NOON - HOUR, 20.0), as_of=NOON).late == 1
    assert _temp(store) == 50.0


def _temps(environment: Environment, kind: str) -> list[float]:
    """What the files of one kind hold."""
    from feature_repo.parquet import open_files

    temps: list[float] = (
        open_files(environment.state.history / kind / "weather", "*.parquet").to_table()["temp"].to_pylist()
    )
    return temps


def test_rows_of_the_future_are_put_aside_and_counted(environment: Environment, store: Any) -> None:
    from feature_repo.publishing import publish

    rows = pd.concat([_weather(NOON, 50.0), _weather(NOON + HOUR, 99.0)])
    outcome = publish(environment, store, "weather", rows, as_of=NOON)
    assert (outcome.rows, outcome.late, outcome.quarantined) == (2, 0, 1)
    assert _temp(store) == 50.0
    assert _temps(environment, "quarantine") == [99.0]
    assert _temps(environment, "offline") == [50.0]


def test_publishing_twice_changes_nothing(environment: Environment, store: Any) -> None:
    from feature_repo.publishing import publish

    for _ in range(2):
        assert publish(environment, store, "weather", _weather(NOON, 50.0), as_of=NOON).late == 0
    assert len(list((environment.state.history / "offline" / "weather").iterdir())) == 1


def _write_upwards(folder: str, origin: str, offset: int) -> None:
    from feature_repo.publishing import OnlinePublisher
    from feature_repo.store import open_store

    environment = open_environment(f"{folder}/environment.toml")
    publisher = OnlinePublisher(open_store(environment), "weather")
    for step in range(150):
        moment = NOON + timedelta(seconds=2 * step + offset)
        publisher.write(_weather(moment, float(2 * step + offset), origin), as_of=moment)


def test_of_two_writers_at_once_the_newest_event_wins(tmp_path: Path, environment: Environment, store: Any) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_upwards, args=(str(tmp_path), "EWR", offset)) for offset in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=240)
        assert writer.exitcode == 0
    assert _temp(store, "EWR") == 299.0


def test_the_definitions_of_a_service_are_those_of_the_code(store: Any) -> None:
    for name, views in SERVICES.items():
        projections = store.get_feature_service(name).feature_view_projections
        assert {p.name: [f.name for f in p.features] for p in projections} == {v.name: v.columns for v in views}
    assert store.list_on_demand_feature_views() == []


def test_an_unknown_view_or_a_row_without_time_zone_is_refused(environment: Environment, store: Any) -> None:
    from feature_repo.publishing import publish
    from slipway.errors import InvalidInput, Unknown

    with pytest.raises(Unknown, match="origin_traffic"):
        publish(environment, store, "tides", _weather(NOON, 1.0), as_of=NOON)
    naive = _weather(NOON, 1.0).assign(event_timestamp=pd.Timestamp(NOON).tz_localize(None))
    with pytest.raises(InvalidInput, match="time zone"):
        publish(environment, store, "weather", naive, as_of=NOON)
    with pytest.raises(InvalidInput) as raised:
        publish(environment, store, "origin_traffic", _weather(NOON, 1.0), as_of=NOON)
    assert len(raised.value.problems) == len(ORIGIN_TRAFFIC.columns)


@pytest.mark.parametrize("environment", ["pod"], indirect=True)
def test_a_store_that_is_away_is_an_error_within_its_time_limit(
    environment: Environment, store: Any, tmp_path: Path
) -> None:
    from feature_repo.lookup import FeatureLookup
    from feature_repo.store import open_store

    (tmp_path / "secrets" / ONLINE).write_text("127.0.0.1:1,password=x")
    lookup = FeatureLookup(environment, SERVICE, store=open_store(environment))
    row = pd.DataFrame({"carrier": ["UA"], "flight": [1], "origin": ["JFK"], "dest": ["ORD"]})
    with pytest.raises(redis.RedisError):
        lookup.read(row, as_of=NOON)


@pytest.mark.parametrize("environment", ["pod"], indirect=True)
def test_a_pod_that_is_given_no_online_store_joins_and_says_what_it_cannot(
    environment: Environment, tmp_path: Path
) -> None:
    from feature_repo import history
    from feature_repo.lookup import FeatureLookup
    from feature_repo.publishing import publish_offline
    from feature_repo.store import open_store

    (tmp_path / "secrets" / ONLINE).unlink()
    store = open_store(environment)
    publish_offline(environment, "weather", _weather(NOON, 40.0), as_of=NOON)
    row = pd.DataFrame({"carrier": ["UA"], "flight": [1], "origin": ["JFK"], "dest": ["ORD"]})
    asked = row.assign(event_timestamp=pd.Series([pd.Timestamp(NOON)], dtype="datetime64[us, UTC]"))
    assert history.join(environment, SERVICE, asked, store=store)["weather__temp"].tolist() == [40.0]
    with pytest.raises(NotReady, match="told no online store"):
        FeatureLookup(environment, SERVICE, store=store)
