"""What is published at each tick: the views' rows, computed from the facts that were known by then.

Every fact counts from the moment it became known, never from the moment it is about. All counts and sums are whole
numbers (int64): a tick computed alone equals the same tick computed in bulk, bit for bit. Times are UTC; internally
whole minutes since the epoch, which is as fine as the facts are.

`flights` has one row a flight: carrier, flight, origin, dest, scheduled_departure, departed (null if cancelled),
departure_delay, arrival_delay (minutes, null without arrival), outcome (`arrived`, `diverted`, `cancelled`), known_at
(of the outcome), late (0 or 1). `weather` has origin, published and the readings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from feature_repo.flights.views import (
    CARRIER_TRAFFIC,
    DEST_TRAFFIC,
    FLIGHT_STATUS,
    ORIGIN_TRAFFIC,
    ROUTE_HISTORY,
    TICK,
    WEATHER,
)
from feature_repo.view import View

CANCELLED_DELAY = 180
"""Minutes that a cancellation counts for; also the largest delay that counts."""
LEAST_DELAY = -30
LATE = 15
OVERDUE_FOR = 240
"""Minutes after schedule at which a flight that nobody heard of stops counting as overdue."""
HISTORY_HOUR = 7
"""UTC hour at which the history of routes is published: after the day's last flights, before the first is asked for."""
HISTORY_WINDOW = 28 * 24 * 60
CLAIMED_LEAD = pd.Timedelta(hours=2)

Ints = np.ndarray


def ticks(start: datetime, end: datetime) -> pd.DatetimeIndex:
    """Publication ticks in [start, end): whole multiples of the tick since midnight UTC."""
    grid = pd.date_range(pd.Timestamp(start).ceil(TICK), pd.Timestamp(end).ceil(TICK), freq=TICK, inclusive="left")
    return pd.DatetimeIndex(grid).as_unit("us")


def compute(view: View, flights: pd.DataFrame, weather: pd.DataFrame, start: datetime, end: datetime) -> pd.DataFrame:
    """The view's rows published in [start, end): keys, features, `event_timestamp` and `published`, by publication.

    `flights` and `weather` must hold what became known in [start - 28 days, end) and the schedule until two hours
    after `end`; more does no harm. `event_timestamp` is what the row claims, `published` when it can be read; only a
    source that lies makes them differ.
    """
    frame = _PUBLISHERS[view.name](view, flights, weather, pd.Timestamp(start), pd.Timestamp(end))
    for feature in view.features:
        frame[feature.name] = frame[feature.name].astype("int64" if feature.kind == "int" else "float64")
    if "published" not in frame:
        frame["published"] = frame["event_timestamp"]
    for name in ("event_timestamp", "published"):
        frame[name] = frame[name].astype("datetime64[us, UTC]")
    columns = [*view.keys, *view.columns, "event_timestamp", "published"]
    return frame[columns].sort_values(["published", *view.keys], kind="stable").reset_index(drop=True)


def _minutes(moments: pd.Series | pd.DatetimeIndex) -> Ints:
    """Whole minutes since the epoch."""
    index = pd.DatetimeIndex(moments).tz_convert("UTC").tz_localize(None)
    return np.asarray(index.to_numpy().astype("datetime64[m]").astype(np.int64))


class _Facts:
    """Numbers by the minute at which they became known; answers sums over (after, until] for many ticks at once."""

    def __init__(self, known: Ints, *values: Ints) -> None:
        order = np.argsort(known, kind="stable")
        self.known = known[order]
        self.sums = [np.concatenate([[0], np.cumsum(value[order])]).astype(np.int64) for value in values]

    def until(self, moment: Ints) -> Ints:
        return np.searchsorted(self.known, moment, side="right")

    def between(self, after: Ints, until: Ints) -> list[Ints]:
        """Count, then the sum of each value."""
        low, high = self.until(after), self.until(until)
        return [high - low, *(total[high] - total[low] for total in self.sums)]

    def so_far(self, until: Ints) -> list[Ints]:
        """The same from the beginning."""
        high = self.until(until)
        return [high, *(total[high] for total in self.sums)]


def _arrays(flights: pd.DataFrame) -> dict[str, Ints]:
    """The facts of `flights` as whole numbers; a flight without departure or arrival has 0 there."""
    cancelled = (flights["outcome"] == "cancelled").to_numpy()
    scheduled, known = _minutes(flights["scheduled_departure"]), _minutes(flights["known_at"])
    delay = flights["departure_delay"].fillna(0).to_numpy().astype(np.int64)
    clipped = np.where(cancelled, CANCELLED_DELAY, np.clip(delay, LEAST_DELAY, CANCELLED_DELAY))
    landed = flights["arrival_delay"].fillna(0).to_numpy().astype(np.int64)
    return {
        "scheduled": scheduled,
        "known": known,
        "resolved": np.where(cancelled, known, scheduled + delay),
        "delay": clipped,
        "left_late": (clipped > LATE).astype(np.int64),
        "arrived": (flights["outcome"] == "arrived").to_numpy().astype(np.int64),
        "arrival_delay": np.clip(landed, LEAST_DELAY, CANCELLED_DELAY),
        "late": flights["late"].to_numpy().astype(np.int64),
    }


def _traffic_of(part: Mapping[str, Ints], at: Ints) -> dict[str, Ints]:
    scheduled, resolved = part["scheduled"], part["resolved"]
    departures = _Facts(resolved, part["delay"], part["left_late"])
    arrived = part["arrived"] == 1
    landings = _Facts(part["known"][arrived], part["arrival_delay"][arrived])
    made: dict[str, Ints] = {}
    for hours in (1, 3, 12):
        count, total, late = departures.between(at - hours * 60, at)
        made |= {f"departures_{hours}h": count, f"delay_{hours}h": total, f"late_{hours}h": late}
    made["arrivals_3h"], made["arrival_delay_3h"] = landings.between(at - 180, at)
    # A flight is overdue from its schedule until it leaves, is known to be cancelled, or is given up on.
    waited = resolved > scheduled
    begins, ends = scheduled[waited], np.minimum(resolved, scheduled + OVERDUE_FOR)[waited]
    (n_began, sum_began), (n_ended, sum_ended) = _Facts(begins, begins).so_far(at), _Facts(ends, begins).so_far(at)
    made["overdue"] = n_began - n_ended
    made["overdue_minutes"] = made["overdue"] * at - (sum_began - sum_ended)
    schedule = _Facts(scheduled)
    (made["scheduled_1h"],) = schedule.between(at, at + 60)
    (made["scheduled_2h"],) = schedule.between(at + 60, at + 120)
    return made


def _traffic(
    view: View, flights: pd.DataFrame, weather: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp
) -> pd.DataFrame:
    grid = ticks(start.to_pydatetime(), end.to_pydatetime())
    at = _minutes(grid)
    near = flights[
        (flights["known_at"] > start - timedelta(hours=13))
        & (flights["scheduled_departure"] <= end + timedelta(hours=2))
    ]
    spoken = {*view.columns, "scheduled_1h", "scheduled_2h"}

    def numbers(part: Mapping[str, Ints]) -> dict[str, Ints]:
        return {name: value for name, value in _traffic_of(part, at).items() if name in spoken}

    # A key is published while it has anything to say or is about to be asked for; silence means zeros, the defaults.
    return _by_key(view, near, grid, numbers)


def _route_history(
    view: View, flights: pd.DataFrame, weather: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp
) -> pd.DataFrame:
    grid = ticks(start.to_pydatetime(), end.to_pydatetime())
    grid = grid[(grid.hour == HISTORY_HOUR) & (grid.minute == 0)]
    at = _minutes(grid)
    near = flights[(flights["known_at"] > start - timedelta(minutes=HISTORY_WINDOW)) & (flights["known_at"] <= end)]

    def history(part: Mapping[str, Ints]) -> dict[str, Ints]:
        count, late = _Facts(part["known"], part["late"]).between(at - HISTORY_WINDOW, at)
        return {"flights_28d": count, "late_28d": late}

    return _by_key(view, near, grid, history)


def _by_key(
    view: View,
    flights: pd.DataFrame,
    grid: pd.DatetimeIndex,
    numbers: Callable[[Mapping[str, Ints]], dict[str, Ints]],
) -> pd.DataFrame:
    arrays = _arrays(flights)
    parts: list[dict[str, np.ndarray]] = []
    names: list[tuple[str, ...]] = []
    for key, where in sorted(flights.groupby(list(view.keys)).indices.items()):
        made = numbers({name: values[where] for name, values in arrays.items()})
        spoken = np.any([value != 0 for value in made.values()], axis=0)
        parts.append({name: made[name][spoken] for name in view.columns} | {"at": np.flatnonzero(spoken)})
        names.append(key if isinstance(key, tuple) else (key,))
    if not parts:
        return _concat(view, [])
    frame = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in view.columns})
    sizes = [len(part["at"]) for part in parts]
    for position, name in enumerate(view.keys):
        frame[name] = np.repeat(np.array([key[position] for key in names], dtype=object), sizes)
    frame["event_timestamp"] = grid[np.concatenate([part["at"] for part in parts])]
    return frame


def _weather(
    view: View, flights: pd.DataFrame, weather: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp
) -> pd.DataFrame:
    near = weather[(weather["published"] >= start - timedelta(hours=6)) & (weather["published"] < end)]
    parts = []
    for origin, part in near.groupby("origin", sort=True):
        hourly = part.set_index("published")
        # Hours that were never published stay unknown; sums add the known hours in a fixed order.
        hours = pd.DatetimeIndex(hourly.index)
        earlier = [hourly.reindex(hours - pd.Timedelta(hours=back)) for back in range(6)]
        frame = hourly[["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]].copy()
        frame["precip_6h"] = np.sum([hour["precip"].fillna(0.0).to_numpy() for hour in earlier], axis=0)
        frame["pressure_change_3h"] = hourly["pressure"].to_numpy() - earlier[3]["pressure"].to_numpy()
        frame["visib_min_3h"] = np.fmin.reduce([hour["visib"].to_numpy() for hour in earlier[:3]])
        frame["origin"] = str(origin)
        parts.append(frame.reset_index(names="event_timestamp"))
    frame = _concat(view, parts)
    return frame[frame["event_timestamp"] >= start]


def _flight_status(
    view: View, flights: pd.DataFrame, weather: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp
) -> pd.DataFrame:
    left = flights[(flights["departed"] >= start) & (flights["departed"] < end)]
    frame = left[list(view.keys)].copy()
    frame["departure_delay"] = left["departure_delay"]
    frame["event_timestamp"] = left["scheduled_departure"] - CLAIMED_LEAD
    frame["published"] = left["departed"]
    return frame


def _concat(view: View, parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if parts:
        return pd.concat(parts, ignore_index=True)
    empty = pd.DataFrame({name: [] for name in [*view.keys, *view.columns]})
    return empty.assign(event_timestamp=pd.DatetimeIndex([], tz="UTC"))


_Publisher = Callable[[View, pd.DataFrame, pd.DataFrame, pd.Timestamp, pd.Timestamp], pd.DataFrame]
_PUBLISHERS: dict[str, _Publisher] = {
    ORIGIN_TRAFFIC.name: _traffic,
    CARRIER_TRAFFIC.name: _traffic,
    DEST_TRAFFIC.name: _traffic,
    ROUTE_HISTORY.name: _route_history,
    WEATHER.name: _weather,
    FLIGHT_STATUS.name: _flight_status,
}
