"""The flights as files tell them, the training rows made of them, and what stops a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.definitions import find_service
from pipelines.flight_delay import dataset, events
from pipelines.flight_delay.source import PLAUSIBLE, read_flights, read_weather
from pipelines.flight_delay.training import baseline, fit
from slipway.contract import load_contract
from slipway.environment import Environment, open_environment
from slipway.statistics import auc


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    return open_environment(str(file))


def _day(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2013, month, day, hour, tzinfo=UTC)


def _between(start: str, end: str) -> pd.DataFrame:
    """Flights scheduled in [start, end)."""
    flights = read_flights()
    return flights[(flights["scheduled_departure"] >= start) & (flights["scheduled_departure"] < end)]


def test_all_departures_are_there_and_named_once() -> None:
    flights = read_flights()
    assert len(flights) == 336_776
    assert not flights.duplicated(events.KEYS).any()
    assert flights["outcome"].value_counts().to_dict() == {"arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}
    assert "tail" not in "".join(flights.columns)


def test_scheduled_times_follow_the_clock_of_each_airport_through_daylight_saving() -> None:
    raw_first = _between("2013-01-01", "2013-01-02").query("carrier == 'UA' and flight == 1545")
    assert raw_first["scheduled_departure"].iloc[0] == pd.Timestamp("2013-01-01 10:15", tz="UTC")  # 05:15 EST
    assert raw_first["scheduled_minutes"].iloc[0] == 244  # 08:19 CST
    first_flight = {"2013-03-09": "10:00", "2013-03-11": "09:00", "2013-11-02": "09:00", "2013-11-04": "10:00"}
    for day, clock in first_flight.items():  # the first flight leaves at 05:00 or a little later all year
        morning = _between(f"{day} 07:00", f"{day} 14:00")["scheduled_departure"]
        assert abs(morning.min() - pd.Timestamp(f"{day} {clock}", tz="UTC")) <= pd.Timedelta(minutes=15)


def test_flights_over_midnight_and_zones_take_a_plausible_time() -> None:
    minutes = read_flights()["scheduled_minutes"]
    assert minutes.between(15, 1000).all()
    honolulu = read_flights().query("dest == 'HNL'")["scheduled_minutes"]
    assert honolulu.between(600, 720).all()


def test_every_outcome_becomes_known_after_the_question_and_within_the_contract_s_delay() -> None:
    flights = read_flights()
    delay = flights["known_at"] - flights["scheduled_departure"]
    assert (delay > -events.ASKED_AHEAD).all()
    assert delay.max() < load_contract("flight_delay").label.longest_delay
    cancelled = flights["outcome"] == "cancelled"
    assert (delay[cancelled] == pd.Timedelta(hours=2)).all()


def test_late_is_more_than_fifteen_minutes_or_no_arrival() -> None:
    flights = read_flights()
    arrived = flights["outcome"] == "arrived"
    assert ((flights["arrival_delay"] > 15) == (flights["late"] == 1))[arrived].all()
    assert (flights.loc[~arrived, "late"] == 1).all()


def test_weather_no_instrument_can_mean_is_unknown() -> None:
    weather = read_weather()
    for name, (low, high) in PLAUSIBLE.items():
        assert weather[name].dropna().between(low, high).all()
    assert weather["wind_speed"].isna().sum() == 5  # four gaps and a wind of 1048 miles per hour


def test_entities_hold_only_labels_known_by_then(environment: Environment) -> None:
    flights = _between("2013-01-01", "2013-01-12")
    events.publish_schedule(environment, flights, name="all")
    events.publish_outcomes(environment, flights, name="all")
    as_of = _day(1, 10, 18)
    rows = dataset.entities(environment, start=_day(1, 5), end=_day(1, 12), as_of=as_of)
    assert (rows["event_timestamp"] <= as_of).all()
    assert (rows["scheduled_departure"] >= _day(1, 5)).all()
    assert (rows["label_known_at"].dropna() <= as_of).all()
    assert rows["label"].isna().equals(rows["label_known_at"].isna())
    moments = rows[["scheduled_departure", "event_timestamp", "label_known_at"]].dtypes
    assert {str(kind) for kind in moments} == {"datetime64[us, UTC]"}
    in_the_air = rows["label"].isna()
    assert 50 < in_the_air.sum() < 400
    assert (rows.loc[in_the_air, "scheduled_departure"] > _day(1, 9)).all()
    assert {field.name for field in load_contract("flight_delay").request} <= set(rows.columns)


def test_entities_of_a_world_that_published_nothing_are_empty(environment: Environment) -> None:
    rows = dataset.entities(environment, start=_day(1, 1), end=_day(2, 1), as_of=_day(2, 1))
    assert rows.empty
    assert {"event_timestamp", "label", "label_known_at"} <= set(rows.columns)


def test_an_event_published_twice_counts_once(environment: Environment) -> None:
    flights = _between("2013-01-01", "2013-01-03")
    for name in ("a", "b", "b"):
        events.publish_schedule(environment, flights, name=name)
        events.publish_outcomes(environment, flights.head(600), name=name)
    rows = dataset.entities(environment, start=_day(1, 1), end=_day(1, 3), as_of=_day(1, 9))
    assert len(rows) == len(flights)


AS_OF = _day(1, 15)


@pytest.fixture(scope="module")
def snapshot() -> pd.DataFrame:
    rows = _between("2013-01-03", "2013-01-15").copy()
    rows["event_timestamp"] = (rows["scheduled_departure"] - events.ASKED_AHEAD).astype("datetime64[us, UTC]")
    rows["label"] = rows["late"].astype("float64")
    rows["label_known_at"] = rows["known_at"]
    rng = np.random.default_rng(0)
    for view in find_service("flight_delay_v1"):
        for feature in view.features:
            rows[f"{view.name}__{feature.name}"] = feature.default + rng.integers(0, 2, len(rows)).astype(float)
    fields = [field.name for field in load_contract("flight_delay").request]
    features = [name for name in rows if "__" in name]
    return rows[[*fields, "event_timestamp", "label", "label_known_at", *features]].reset_index(drop=True)


def test_an_honest_snapshot_has_no_problems(snapshot: pd.DataFrame) -> None:
    assert dataset.check(snapshot, as_of=AS_OF) == []
    assert dataset.warnings(snapshot, snapshot) == []


BROKEN = {
    "kilometres": ("distance", lambda s: s.assign(distance=s["distance"] * 1.609)),
    "metres": ("distance", lambda s: s.assign(distance=s["distance"] * 1609.0)),
    "celsius": ("weather__temp", lambda s: s.assign(weather__temp=(s["weather__temp"] - 32) / 1.8)),
    "metres per second": ("weather__wind_speed", lambda s: s.assign(weather__wind_speed=4.5)),
    "hectopascal in pascal": ("weather__pressure", lambda s: s.assign(weather__pressure=s["weather__pressure"] * 100)),
    "hours for minutes": ("scheduled_minutes", lambda s: s.assign(scheduled_minutes=s["scheduled_minutes"] // 60)),
    "unknown carrier": ("carrier", lambda s: s.assign(carrier=s["carrier"].replace("UA", "ZZ"))),
    "unknown airport": ("origin", lambda s: s.assign(origin=s["origin"].replace("LGA", "BOS"))),
    "column gone": ("distance", lambda s: s.drop(columns="distance")),
    "view never published": ("weather__temp", lambda s: s.assign(weather__temp=np.nan)),
    "null key": ("carrier", lambda s: s.assign(carrier=s["carrier"].where(s.index != 3))),
    "label of three": ("label", lambda s: s.assign(label=s["label"] * 3)),
    "twice": ("snapshot", lambda s: pd.concat([s, s.tail(5)], ignore_index=True)),
    "thin day": ("scheduled_departure", lambda s: s[(s["flight"] < 99) | (s["scheduled_departure"].dt.day < 8)]),
    "missing day": ("scheduled_departure", lambda s: s[~s["scheduled_departure"].dt.day.isin([8, 9])]),
    "stale": ("event_timestamp", lambda s: s[s["scheduled_departure"] < "2013-01-10"]),
    "empty": ("snapshot", lambda s: s.head(0)),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_snapshot_is_stopped_with_the_column_named(snapshot: pd.DataFrame, name: str) -> None:
    column, break_it = BROKEN[name]
    assert column in {problem.where for problem in dataset.check(break_it(snapshot), as_of=AS_OF)}


def test_all_broken_columns_are_named_at_once(snapshot: pd.DataFrame) -> None:
    broken = snapshot.assign(distance=snapshot["distance"] * 1609, weather__humid=-1.0, weather__temp=np.nan)
    named = {problem.where for problem in dataset.check(broken, as_of=AS_OF)}
    assert {"distance", "weather__humid", "weather__temp"} <= named


def test_rows_of_the_future_are_stopped(snapshot: pd.DataFrame) -> None:
    assert dataset.check(snapshot, as_of=_day(1, 14))[-1].where == "event_timestamp"


def test_a_change_of_the_label_share_warns_and_does_not_stop(snapshot: pd.DataFrame) -> None:
    winter = snapshot.assign(label=(np.arange(len(snapshot)) % 10 < 7).astype(float))
    assert dataset.check(winter, as_of=AS_OF) == []
    assert {problem.where for problem in dataset.warnings(winter, snapshot)} == {"label"}


def test_a_feature_that_separates_too_well_warns_of_a_leak(snapshot: pd.DataFrame) -> None:
    leaking = snapshot.assign(flight_status__departure_delay=snapshot["label"] * 60 + (snapshot.index % 7))
    (warning,) = dataset.warnings(leaking, snapshot)
    assert warning.where == "flight_status__departure_delay"
    assert "leak" in warning.message


def _matrix(rows: int, seed: int = 0) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(seed)
    matrix = pd.DataFrame(rng.normal(size=(rows, 4)), columns=list("abcd"))
    matrix["carrier"] = rng.integers(-1, 5, rows).astype(float)
    return matrix, pd.Series((matrix["a"] + matrix["carrier"] + rng.normal(size=rows) > 2).astype(float))


PARAMETERS = {"learning_rate": 0.1, "num_leaves": 15, "num_threads": 1, "feature_fraction": 0.6}


@pytest.mark.filterwarnings("ignore:categorical_feature in Dataset:UserWarning")
def test_the_same_input_trains_the_same_bytes() -> None:
    matrix, labels = _matrix(2000)
    settings = {"parameters": PARAMETERS, "rounds": 20, "categorical": ["carrier"]}
    first = fit(matrix, labels, seed=3, **settings).model_to_string()
    assert first == fit(matrix, labels, seed=3, **settings).model_to_string()
    assert first != fit(matrix, labels, seed=4, **settings).model_to_string()


@pytest.mark.filterwarnings("ignore:categorical_feature in Dataset:UserWarning")
def test_a_fitted_model_ranks_rows_it_has_not_seen() -> None:
    booster = fit(*_matrix(4000), parameters=PARAMETERS, rounds=40, seed=1, categorical=["carrier"])
    unseen, labels = _matrix(2000, seed=9)
    assert (auc(labels.to_numpy(), booster.predict(unseen)) or 0) > 0.85


def test_the_baseline_is_the_late_share_of_carrier_and_hour(snapshot: pd.DataFrame) -> None:
    scores = baseline(snapshot, snapshot)
    value = auc(snapshot["label"].to_numpy(), scores)
    assert value is not None
    assert 0.55 < value < 0.8
    stranger = snapshot.head(1).assign(carrier="ZZ")
    assert baseline(snapshot, stranger)[0] == pytest.approx(snapshot["label"].mean())
