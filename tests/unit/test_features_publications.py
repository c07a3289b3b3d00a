"""What is published at a tick follows from what was known by then, however the tick is computed."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from feature_repo.flights.publications import compute, ticks
from feature_repo.flights.views import CARRIER_TRAFFIC, ORIGIN_TRAFFIC, ROUTE_HISTORY, TICK, VIEWS, WEATHER
from feature_repo.view import View
from pipelines.flight_delay.source import read_flights, read_weather


def _at(hour: int, minute: int = 0, day: int = 5) -> pd.Timestamp:
    return pd.Timestamp(datetime(2013, 1, day, hour, minute, tzinfo=UTC))


def _flight(scheduled: pd.Timestamp, delay: float | None, arrival_delay: float | None = 0.0) -> dict[str, object]:
    """A flight of two hours; without delay it is cancelled."""
    departed = pd.NaT if delay is None else scheduled + pd.Timedelta(minutes=delay)
    arrived = delay is not None and arrival_delay is not None
    known = scheduled + pd.Timedelta(hours=2)
    if arrived:
        known += pd.Timedelta(minutes=float(arrival_delay or 0.0))
    return {
        "carrier": "UA", "flight": 1, "origin": "EWR", "dest": "ORD", "scheduled_departure": scheduled,
        "departed": departed, "departure_delay": np.nan if delay is None else delay,
        "arrival_delay": arrival_delay if arrived else np.nan,
        "outcome": "cancelled" if delay is None else "arrived" if arrived else "diverted",
        "known_at": known, "late": int(not arrived or float(arrival_delay or 0.0) > 15),
    }  # fmt: skip


def _world(*flights: dict[str, object]) -> pd.DataFrame:
    world = pd.DataFrame(list(flights))
    for name in ("scheduled_departure", "departed", "known_at"):
        world[name] = pd.to_datetime(world[name], utc=True).astype("datetime64[us, UTC]")
    return world


NO_WEATHER = pd.DataFrame(
    {"origin": pd.Series(dtype=object), "published": pd.Series(dtype="datetime64[us, UTC]")}
    | {n: pd.Series(dtype=float) for n in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure")}
    | {"visib": pd.Series(dtype=float)}
)


def _row(flights: pd.DataFrame, moment: pd.Timestamp, view: View = ORIGIN_TRAFFIC) -> dict[str, object]:
    frame = compute(view, flights, NO_WEATHER, moment, moment + TICK)
    assert len(frame) == 1
    return dict(frame.iloc[0])


def test_a_departure_counts_from_the_moment_the_flight_left() -> None:
    world = _world(_flight(_at(12), delay=70.0))
    before, after = _row(world, _at(13)), _row(world, _at(13, 30))
    assert (before["departures_1h"], before["overdue"], before["overdue_minutes"]) == (0, 1, 60)
    assert (after["departures_1h"], after["delay_1h"], after["late_1h"], after["overdue"]) == (1, 70, 1, 0)


def test_a_window_takes_its_end_and_leaves_out_its_start() -> None:
    world = _world(_flight(_at(12), delay=0.0), _flight(_at(12, 30), delay=0.0))
    row = _row(world, _at(13))
    assert row["departures_1h"] == 1  # 12:30, and 12:00 lies just outside (12:00, 13:00]
    assert _row(world, _at(12))["departures_1h"] == 1


def test_a_cancellation_is_known_two_hours_after_schedule_and_weighs_as_the_longest_delay() -> None:
    world = _world(_flight(_at(12), delay=None))
    before, after = _row(world, _at(13, 30)), _row(world, _at(14))
    assert (before["departures_3h"], before["overdue"]) == (0, 1)
    assert (after["departures_3h"], after["delay_3h"], after["overdue"]) == (1, 180, 0)


def test_an_arrival_counts_at_landing() -> None:
    world = _world(_flight(_at(12), delay=10.0, arrival_delay=20.0))
    assert _row(world, _at(14))["arrivals_3h"] == 0
    landed = _row(world, _at(14, 30))
    assert (landed["arrivals_3h"], landed["arrival_delay_3h"]) == (1, 20)


def test_a_flight_nobody_hears_of_stops_being_overdue() -> None:
    world = _world(_flight(_at(12), delay=600.0, arrival_delay=600.0))
    assert _row(world, _at(15, 30))["overdue"] == 1
    assert compute(ORIGIN_TRAFFIC, world, NO_WEATHER, _at(16), _at(16, 30)).empty


def test_the_schedule_of_the_next_two_hours_is_known() -> None:
    world = _world(_flight(_at(12), delay=0.0), _flight(_at(12, 45), delay=0.0), _flight(_at(13, 15), delay=0.0))
    row = _row(world, _at(11, 30))
    assert (row["scheduled_1h"], row["scheduled_2h"]) == (1, 2)


def test_a_key_with_nothing_to_say_is_not_published() -> None:
    world = _world(_flight(_at(12), delay=0.0))
    frame = compute(CARRIER_TRAFFIC, world, NO_WEATHER, _at(0), _at(0, day=7))
    assert frame["event_timestamp"].min() == _at(10)  # two hours ahead of the schedule
    assert frame["event_timestamp"].max() == _at(23, 30)  # twelve hours after


def test_the_history_of_a_route_holds_outcomes_not_plans() -> None:
    world = _world(_flight(_at(4, 30), delay=0.0), _flight(_at(5, 30), delay=100.0, arrival_delay=100.0))
    row = _row(world, _at(7), ROUTE_HISTORY)
    assert (row["flights_28d"], row["late_28d"]) == (1, 0)
    tomorrow = _row(world, _at(7, day=6), ROUTE_HISTORY)
    assert (tomorrow["flights_28d"], tomorrow["late_28d"]) == (2, 1)


def test_an_hour_of_weather_is_published_when_it_is_over() -> None:
    first = read_weather().iloc[0]
    frame = compute(WEATHER, read_flights().head(0), read_weather(), _at(0, day=1), _at(0, day=2))
    assert first["published"] == pd.Timestamp("2013-01-01 07:00", tz="UTC")  # the hour from 06:00
    assert frame["event_timestamp"].min() == first["published"]


def test_ticks_are_whole_half_hours_and_leave_out_the_end() -> None:
    found = ticks(datetime(2013, 1, 1, 0, 10, tzinfo=UTC), datetime(2013, 1, 1, 2, tzinfo=UTC))
    assert [moment.strftime("%H:%M") for moment in found] == ["00:30", "01:00", "01:30"]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_tick_computed_alone_equals_the_same_tick_computed_in_bulk(view: View) -> None:
    flights, weather = read_flights(), read_weather()
    flights = flights[flights["scheduled_departure"] < "2013-02-12"]
    start, end = _at(0, day=8) + pd.Timedelta(days=31), _at(0, day=9) + pd.Timedelta(days=31)  # 8 February, a blizzard
    bulk = compute(view, flights, weather, start, end)
    assert len(bulk) > 20
    for tick in list(ticks(start, end))[13::11]:
        alone = compute(view, flights, weather, tick, tick + TICK)
        same = bulk[(bulk["published"] >= tick) & (bulk["published"] < tick + TICK)].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, same, check_exact=True)
