"""No feature knows what was published after its moment; the one that does is found."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from feature_repo.flights.services import SERVICES
from pipelines.flight_delay.events import ASKED_AHEAD
from pipelines.flight_delay.leaks import change_after, features_at, find_leaks, find_separating
from pipelines.flight_delay.source import read_flights, read_weather

BUSY = datetime(2013, 2, 8, 20, 30, tzinfo=UTC)
"""In the afternoon of a blizzard: cancellations, overdue flights, weather that changes by the hour."""
MORNING = datetime(2013, 1, 22, 11, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def world() -> tuple[pd.DataFrame, pd.DataFrame]:
    flights, weather = read_flights(), read_weather()
    return flights[flights["scheduled_departure"] < "2013-02-11"], weather[weather["published"] < "2013-02-11"]


@pytest.mark.parametrize("moment", [BUSY, MORNING], ids=["blizzard", "morning"])
def test_no_feature_of_the_model_changes_with_what_is_published_later(
    world: tuple[pd.DataFrame, pd.DataFrame], moment: datetime
) -> None:
    assert find_leaks("flight_delay_v1", *world, [moment]) == []


def test_the_leak_check_flags_exactly_the_feature_that_claims_to_know_early(
    world: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    assert find_leaks("flight_delay_early", *world, [BUSY]) == ["flight_status__departure_delay"]


def test_every_feature_can_change_so_that_the_check_can_fail(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """The change is made a day before the moment instead of at it: then (nearly) every feature must differ."""
    flights, weather = world
    other = change_after(datetime(2013, 2, 7, 12, tzinfo=UTC), flights, weather, np.random.default_rng(0))
    asked = flights["scheduled_departure"] - ASKED_AHEAD
    rows = flights[(asked >= BUSY) & (asked < BUSY + pd.Timedelta(minutes=30))]
    rows = rows.assign(event_timestamp=BUSY)
    before = features_at("flight_delay_v1", rows, flights, weather)
    after = features_at("flight_delay_v1", rows, *other)
    same = [name for name in before if np.array_equal(before[name], after[name], equal_nan=True)]
    # Readings without a value at this hour stay without one; a schedule that was known stays known.
    assert set(same) <= {"weather__pressure", "weather__pressure_change_3h", "weather__precip", "weather__precip_6h"}


def test_what_was_known_stays_when_the_future_changes(world: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    flights, weather = world
    other, sky = change_after(BUSY, flights, weather, np.random.default_rng(1))
    cut = pd.Timestamp(BUSY)
    both = flights.loc[other.index]
    known = both["known_at"] <= cut
    pd.testing.assert_frame_equal(both[known], other[known])
    assert (other.loc[~known, "known_at"] > cut).all()
    gone = both["departed"] <= cut
    assert (other.loc[gone, "departed"] == both.loc[gone, "departed"]).all()
    assert not (other.loc[~gone, "departed"] <= cut).any()
    assert sky[sky["published"] <= cut].equals(weather[weather["published"] <= cut])


@pytest.fixture(scope="module")
def fortnight(world: tuple[pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    flights, weather = world
    rows = flights.assign(event_timestamp=flights["scheduled_departure"] - ASKED_AHEAD, label=flights["late"])
    rows = rows[rows["event_timestamp"] >= "2013-01-28"]
    return rows[["label"]].join(features_at("flight_delay_early", rows, flights, weather))


def test_only_the_feature_that_knows_too_much_separates_too_well(fortnight: pd.DataFrame) -> None:
    assert list(find_separating(fortnight)) == ["flight_status__departure_delay"]


def test_a_feature_that_separates_the_other_way_round_is_found_too(fortnight: pd.DataFrame) -> None:
    turned = fortnight.assign(flight_status__departure_delay=-fortnight["flight_status__departure_delay"])
    assert list(find_separating(turned)) == ["flight_status__departure_delay"]


def test_the_early_service_is_the_model_s_own_and_one_view_more() -> None:
    assert [view.name for view in SERVICES["flight_delay_early"][:-1]] == [
        view.name for view in SERVICES["flight_delay_v1"]
    ]
