"""The publishing half of the replay: raw events and feature rows, in bulk for the past and tick by tick for a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from feature_repo.flights.publications import compute
from feature_repo.flights.views import VIEWS
from feature_repo.publishing import Encoded, OnlinePublisher, publish_offline
from feature_repo.store import open_store
from pipelines.flight_delay import events
from pipelines.flight_delay.source import read_flights, read_weather
from slipway.environment import Environment

FIRST_DAY = datetime(2013, 1, 1, tzinfo=UTC)
LAST_DAY = datetime(2014, 1, 2, tzinfo=UTC)
"""The files' flights have all ended by then."""
DAY = timedelta(days=1)
_AHEAD = 14 * DAY
"""Feature rows are computed for so many days at once; what a row holds does not depend on it."""


class Publisher:
    """Publishes the files' facts and features of an environment. Repeating a day or a span replaces what it wrote."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._flights, self._weather = read_flights(), read_weather()
        self._outcomes = self._flights.sort_values("known_at", kind="stable")
        store = open_store(environment)
        self._online = [OnlinePublisher(store, view.name) for view in VIEWS]
        self._computed: dict[str, pd.DataFrame] = {}
        self._computed_span = (FIRST_DAY, FIRST_DAY)

    def publish_span(self, start: datetime, end: datetime) -> int:
        """Publish all that became known in [start, end), and the schedule a day ahead. Returns the feature rows."""
        name = f"{start:%Y%m%dT%H%M}-{end:%Y%m%dT%H%M}"
        self._publish_events(start, end, name)
        rows = 0
        for online in self._online:
            frame = compute(online.view, self._flights, self._weather, start, end)
            known, _ = publish_offline(self._environment, online.view.name, frame, as_of=end, name=name)
            online.write(known, as_of=end)
            rows += len(frame)
        return rows

    def open_day(self, day: datetime) -> Day:
        """Publish the schedule that becomes known on `day` and prepare its ticks."""
        self._publish_schedule(day, day + DAY, f"{day:%Y%m%d}")
        return Day(self._online, {view: self._rows_of(view, day) for view in (o.view.name for o in self._online)})

    def close_day(self, day: datetime) -> None:
        """Write the day's feature history and outcomes; event time is about to be `day` + 1."""
        for online in self._online:
            rows = self._rows_of(online.view.name, day)
            publish_offline(self._environment, online.view.name, rows, as_of=day + DAY, name=f"{day:%Y%m%d}")
        self._publish_outcomes(day, day + DAY, f"{day:%Y%m%d}")

    def _rows_of(self, view: str, day: datetime) -> pd.DataFrame:
        first, last = self._computed_span
        if not first <= day < last:
            self._computed_span = (day, day + _AHEAD)
            self._computed = {
                online.view.name: compute(online.view, self._flights, self._weather, *self._computed_span)
                for online in self._online
            }
        return _span(self._computed[view], "published", pd.Timestamp(day), pd.Timestamp(day + DAY))

    def _publish_events(self, start: datetime, end: datetime, name: str) -> None:
        self._publish_schedule(start, end, name)
        self._publish_outcomes(start, end, name)

    def _publish_schedule(self, start: datetime, end: datetime, name: str) -> None:
        """Flights whose schedule becomes known in [start, end); at the beginning of the data, all until then."""
        first = pd.Timestamp(start if start > FIRST_DAY else datetime(1970, 1, 1, tzinfo=UTC))
        rows = _span(
            self._flights,
            "scheduled_departure",
            first + events.PUBLISHED_AHEAD,
            pd.Timestamp(end) + events.PUBLISHED_AHEAD,
        )
        events.publish_schedule(self._environment, rows, name=name)

    def _publish_outcomes(self, start: datetime, end: datetime, name: str) -> None:
        rows = _span(self._outcomes, "known_at", pd.Timestamp(start), pd.Timestamp(end))
        events.publish_outcomes(self._environment, rows, name=name)


def _span(rows: pd.DataFrame, column: str, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Rows with `column` in [start, end); they are sorted by it."""
    low, high = rows[column].searchsorted([start, end])
    return rows.iloc[low:high]


class Day:
    """One day's feature rows, spelled for the online store and written tick by tick."""

    def __init__(self, online: list[OnlinePublisher], rows: dict[str, pd.DataFrame]) -> None:
        self._parts: list[tuple[OnlinePublisher, Encoded, Any]] = [
            (publisher, publisher.encode(rows[publisher.view.name]), rows[publisher.view.name]["published"])
            for publisher in online
        ]
        self._written = [0] * len(self._parts)

    def publish_until(self, moment: datetime) -> None:
        """Write what was published at or before `moment` and is not written yet."""
        for number, (publisher, rows, published) in enumerate(self._parts):
            start = self._written[number]
            stop = int(published.searchsorted(pd.Timestamp(moment), side="right"))
            if stop > start:
                publisher.write_encoded(rows.part(start, stop), as_of=moment)
                self._written[number] = stop


def days(start: datetime, end: datetime) -> Iterator[datetime]:
    """UTC midnights in [start, end)."""
    while start < end:
        yield start
        start += DAY
