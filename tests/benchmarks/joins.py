"""The point-in-time join of a training set, through Feast, against DuckDB's ASOF join on the very same files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from feature_repo.history import join
from feature_repo.publishing import publish_offline
from feature_repo.store import open_store
from feature_repo.transforms import find_transforms
from slipway.environment import Environment
from tests.benchmarks.measurement import Figure, alternate, compare
from tests.integration.flight_revision import MODEL, SERVICE, instance, make_environment

ROWS = 50_000
START, DAYS = datetime(2013, 1, 1, tzinfo=UTC), 60
DOMAINS = {
    "carrier": ["UA", "B6", "AA", "DL", "EV", "MQ", "US", "9E"],
    "origin": ["JFK", "EWR", "LGA"],
    "dest": [f"D{number:02d}" for number in range(60)],
}


def run(repeat: int) -> list[Figure]:
    """Feast's retrieval reads registry and configuration around the same join; the ratio is what that costs."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        environment = make_environment(Path(folder))
        _publish(environment)
        rows = _entity_rows()
        store = open_store(environment)
        peer = _plain_join(environment, rows)
        ours = join(environment, SERVICE, rows, store=store)
        names = list(find_transforms(SERVICE).defaults)
        if not np.array_equal(ours[names].to_numpy(), peer()[names].to_numpy(), equal_nan=True):
            raise RuntimeError("the two joins disagree")
        spent = alternate(
            repeat,
            ours=lambda: _timed(lambda: join(environment, SERVICE, rows, store=store)),
            peer=lambda: _timed(peer),
        )
    note = f"{ROWS} rows of {MODEL}, {len(names)} features, {DAYS} days"
    return [compare("point-in-time join", "s", spent["ours"], spent["peer"], "DuckDB ASOF, same files", note)]


def _publish(environment: Environment) -> None:
    """Half-hourly ticks of every view, but hourly for the largest one, whose keys are many."""
    rng = np.random.default_rng(0)
    for view in find_transforms(SERVICE).members:
        frequency = "6h" if len(view.keys) > 2 else "1h"
        ticks = pd.date_range(START, START + timedelta(days=DAYS), freq=frequency)
        keys = pd.MultiIndex.from_product(
            [ticks, *(DOMAINS[key] for key in view.keys)], names=["event_timestamp", *view.keys]
        ).to_frame(index=False)
        values = {
            feature.name: rng.integers(0, 30, len(keys)) if feature.kind == "int" else rng.normal(size=len(keys))
            for feature in view.features
        }
        publish_offline(environment, view.name, keys.assign(**values), as_of=START + timedelta(days=DAYS))


def _entity_rows() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = pd.DataFrame([instance(number) for number in range(ROWS)])
    for name, values in DOMAINS.items():
        rows[name] = rng.choice(values, ROWS)
    moments = pd.Timestamp(START) + pd.to_timedelta(rng.uniform(0, DAYS * 86_400, ROWS), unit="s")
    rows["event_timestamp"] = pd.Series(moments).dt.floor("s").astype("datetime64[us, UTC]")
    return rows


def _plain_join(environment: Environment, rows: pd.DataFrame) -> Callable[[], pd.DataFrame]:
    """The SQL that somebody would write by hand."""
    import duckdb

    views = find_transforms(SERVICE).members
    joins, columns = [], ["given.*"]
    for view in views:
        files = environment.state.features / "offline" / view.name / "*.parquet"
        keys = " and ".join(f'given."{key}" = {view.name}."{key}"' for key in view.keys)
        seconds = view.lifetime.total_seconds()
        joins.append(
            f"asof left join read_parquet('{files}') {view.name} on {keys} "
            f"and given.event_timestamp >= {view.name}.event_timestamp"
        )
        fresh = f"given.event_timestamp - {view.name}.event_timestamp <= to_seconds({seconds})"
        columns += [
            f'case when {fresh} then {view.name}."{feature}"::double end as "{name}"'
            for feature, name in view.qualified.items()
        ]
    query = f"select {', '.join(columns)} from given {' '.join(joins)} order by given.place"  # noqa: S608

    def join_once() -> pd.DataFrame:
        with duckdb.connect() as connection:
            connection.register("given", rows.assign(place=range(len(rows))))
            frame: pd.DataFrame = connection.sql(query).df()
            return frame

    return join_once


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun
