"""What the outside world has published so far: files below events/flights/ of the environment's state.

    schedule-<name>.parquet   a flight will leave: request fields, `published` (a day ahead)
    outcomes-<name>.parquet   how it ended: keys, `outcome`, `late`, `known_at`

Writing a file of the same name again replaces it, so that a publisher which was killed may repeat itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd

from feature_repo.parquet import open_files, write_table
from slipway.environment import Environment
from slipway.object_path import AnyPath

DOMAIN = "flights"
KEYS = ["carrier", "flight", "origin", "dest", "scheduled_departure"]
SCHEDULE = [*KEYS, "scheduled_minutes", "distance", "published"]
OUTCOMES = [*KEYS, "outcome", "late", "known_at"]
PUBLISHED_AHEAD = pd.Timedelta(days=1)
"""A flight's schedule is known this long before it should leave."""
ASKED_AHEAD = pd.Timedelta(hours=1)
"""A prediction is asked for this long before scheduled departure."""


def publish_schedule(environment: Environment, flights: pd.DataFrame, *, name: str) -> None:
    """Publish the schedule of `flights`."""
    rows = flights.assign(published=flights["scheduled_departure"] - PUBLISHED_AHEAD)
    _write(rows[SCHEDULE], _folder(environment) / f"schedule-{name}.parquet")


def publish_outcomes(environment: Environment, flights: pd.DataFrame, *, name: str) -> None:
    """Publish how `flights` ended."""
    _write(flights[OUTCOMES], _folder(environment) / f"outcomes-{name}.parquet")


def read_schedule(environment: Environment, *, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
    """Flights with scheduled departure in [start, end) that were published by as_of, each once."""
    where = [("scheduled_departure", ">=", start), ("scheduled_departure", "<", end), ("published", "<=", as_of)]
    return _read(environment, "schedule", SCHEDULE, where)


def read_outcomes(environment: Environment, *, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
    """Outcomes known by as_of of flights with scheduled departure in [start, end), each once."""
    where = [("scheduled_departure", ">=", start), ("scheduled_departure", "<", end), ("known_at", "<=", as_of)]
    return _read(environment, "outcomes", OUTCOMES, where)


def _folder(environment: Environment) -> AnyPath:
    return environment.state.events / DOMAIN


def _write(rows: pd.DataFrame, file: AnyPath) -> None:
    import pyarrow as pa

    moments: dict[str, pd.Series] = {
        name: rows[name].astype("datetime64[us, UTC]")
        for name in ("scheduled_departure", "published", "known_at")
        if name in rows
    }
    write_table(pa.Table.from_pandas(rows.assign(**moments), preserve_index=False), file)


def _read(environment: Environment, kind: str, columns: list[str], where: list[Any]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.dataset as ds

    folder, pattern = _folder(environment), f"{kind}-*.parquet"
    if not any(folder.glob(pattern)):
        moments = {"scheduled_departure", "published", "known_at"}
        return pd.DataFrame({c: pd.Series(dtype="datetime64[us, UTC]" if c in moments else "object") for c in columns})
    condition = None
    for name, relation, moment in where:
        bound = pa.scalar(moment, type=pa.timestamp("us", tz="UTC"))
        field = ds.field(name)
        term = {">=": field >= bound, "<": field < bound, "<=": field <= bound}[relation]
        condition = term if condition is None else condition & term
    rows: pd.DataFrame = open_files(folder, pattern).to_table(columns=columns, filter=condition).to_pandas()
    return rows.drop_duplicates(KEYS, keep="last").sort_values(KEYS[::-1], kind="stable").reset_index(drop=True)
