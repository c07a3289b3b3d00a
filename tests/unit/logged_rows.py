"""Rows of an inference log for tests, written the way a server writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from slipway.collector import Collection
from slipway.contract import Contract, load_contract
from slipway.environment import Environment
from slipway.inference_log import row_schema
from slipway.pod import Pod
from slipway.settings import Settings
from slipway.spool import Spool

MODEL = "flight_delay"
START = datetime(2013, 3, 1, 12, tzinfo=UTC)
FEATURES = {"weather__temp": float, "weather__humid": float}


def contract() -> Contract:
    return load_contract(MODEL)


def make_environment(root: Path, pod: Pod | None = None) -> Environment:
    environment = Environment(root / "environment.toml", Settings(name="test", state_dir=root / "state"), pod)
    environment.state.prepare()
    return environment


@contextmanager
def server(environment: Environment, version: int = 1) -> Iterator[Spool]:
    """What one start of a server writes with."""
    spool = Spool(
        environment.state.spool / f"{MODEL}-{version}",
        row_schema(contract(), FEATURES, ["weather"]),
        constants={"model": MODEL, "version": version, "service": "flight_delay_v1"},
        interval=3600,
    )
    spool.open()
    try:
        yield spool
    finally:
        spool.close()


def append(
    spool: Spool, ids: Sequence[str], *, event_time: datetime = START, delivered: bool = True, prediction: float = 0.25
) -> None:
    """Log one request with a row for each id; its flights leave an hour after it."""
    length = len(ids)
    subject = np.array([(event_time + timedelta(hours=1)).replace(tzinfo=None)] * length, dtype="datetime64[us]")
    columns = {
        "id": list(ids),
        "delivered": delivered,
        "event_time": event_time,
        "subject_time": subject,
        "received": datetime.now(UTC),
        "latency_ms": 1.5,
        "defaults": np.zeros(length, dtype=np.int64),
        "prediction": np.full(length, prediction),
        "row": np.arange(length),
        "in_carrier": ["UA"] * length,
        "in_flight": np.full(length, 100),
        "in_origin": ["JFK"] * length,
        "in_dest": ["BOS"] * length,
        "in_scheduled_departure": subject,
        "in_scheduled_minutes": np.full(length, 60),
        "in_distance": np.full(length, 187.0),
        "ft_weather__temp": np.full(length, 40.0),
        "ft_weather__humid": np.full(length, np.nan),
        "age_weather": np.full(length, 600.0),
    }
    spool.append(columns, length)


def log_and_collect(
    environment: Environment, ids: Sequence[str], *, version: int = 1, event_time: datetime = START, **more: object
) -> None:
    with server(environment, version) as spool:
        append(spool, ids, event_time=event_time, **more)  # type: ignore[arg-type]
    Collection(environment).take()
