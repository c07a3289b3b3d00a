"""A small, real revision of flight_delay for tests: signed bundle, feature store with values, clock, and its server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import pandas as pd

from feature_repo.flights.views import VIEWS
from feature_repo.publishing import publish
from feature_repo.store import open_store
from feature_repo.transforms import find_transforms
from slipway import signing
from slipway.bundle import Golden, Manifest, TrainingSpan, write_bundle
from slipway.clock import ReplayClock
from slipway.environment import Environment, open_environment
from slipway.unix_sockets import UnixConnection, client

MODEL, SERVICE = "flight_delay", "flight_delay_v1"
NOW = datetime(2013, 3, 1, 12, tzinfo=UTC)
CARRIERS, DESTS = ["UA", "B6", "AA"], ["BOS", "LAX", "ORD", "MIA"]


def instance(number: int = 0) -> dict[str, Any]:
    """A request row that follows the contract; rows differ by number."""
    return {
        "carrier": CARRIERS[number % 3],
        "flight": 100 + number,
        "origin": "JFK",
        "dest": DESTS[number % 4],
        "scheduled_departure": (NOW + timedelta(hours=1, minutes=number % 60)).isoformat(),
        "scheduled_minutes": 60 + number % 100,
        "distance": 200.0 + 10 * (number % 50),
    }


def make_environment(root: Path, *, flush_interval: str = "1s") -> Environment:
    """An environment file below `root`, with folders, keys and a clock at NOW."""
    file = root / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{root / "state"}"\n[log]\nflush_interval = "{flush_interval}"\n')
    environment = open_environment(str(file))
    environment.state.prepare()
    signing.prepare(environment)
    set_clock(environment, NOW)
    return environment


def set_clock(environment: Environment, moment: datetime) -> None:
    ReplayClock(environment.state.clock_file).set(moment)


def publish_values(environment: Environment, now: datetime = NOW) -> None:
    """One online row, ten minutes old, for every view and every key that `instance` uses."""
    store = open_store(environment)
    moment = now - timedelta(minutes=10)
    domains = {"carrier": CARRIERS, "origin": ["JFK"], "dest": DESTS, "flight": [100]}
    for view in VIEWS:
        keys = pd.MultiIndex.from_product([domains[key] for key in view.keys], names=view.keys).to_frame(index=False)
        values = {
            feature.name: [
                (3 + number + len(feature.name)) if feature.kind == "int" else 1.5 * number + 7
                for number in range(len(keys))
            ]
            for feature in view.features
        }
        publish(environment, store, view.name, keys.assign(**values, event_timestamp=moment), as_of=now)


def make_bundle(environment: Environment, version: int = 1, *, seed: int = 0, **changes: Any) -> None:
    """Train a tiny booster and put its signed bundle where a server finds a verified copy."""
    transforms = find_transforms(SERVICE)
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame([instance(number) for number in range(400)])
    for name in transforms.defaults:
        rows[name] = rng.integers(0, 30, len(rows)).astype(float)
    matrix = transforms.matrix(rows)
    score = rows["dest_traffic__overdue"] + rows["carrier_traffic__overdue"] + rng.normal(0, 2, len(rows))
    labels = (score > 30).astype(int)
    parameters = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "seed": seed, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(matrix, labels), num_boost_round=20)
    asked = rows.head(5)
    features = asked[list(transforms.defaults)].astype(object)
    features.iloc[0, :3] = None
    joined = asked.assign(**features.astype(float))
    manifest = {
        "model": MODEL,
        "version": version,
        "created_as_of": NOW,
        "feature_service": SERVICE,
        "transforms_hash": transforms.hash,
        "columns": list(transforms.columns),
        "code_hash": "c" * 64,
        "lock_hash": "d" * 64,
        "snapshot_id": "e" * 64,
        "training": TrainingSpan(start=NOW - timedelta(days=60), end=NOW, rows=len(rows)),
        "metrics": {"auc": 0.7},
        "gate": {"verdict": "passed"},
        "golden": Golden(
            requests=[instance(number) for number in range(5)],
            features=features.to_dict("records"),
            answers=booster.predict(transforms.matrix(joined), num_threads=1).tolist(),
        ),
        **changes,
    }
    draft = environment.state.root / f"model-{version}.txt"
    booster.save_model(draft)
    folder = environment.state.bundles / MODEL / str(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(
        folder,
        manifest=Manifest(**manifest),
        files={"model.txt": draft},
        private_key=signing.private_key_of(environment),
    )


class Server:
    """A running `python -m serving`."""

    def __init__(self, environment: Environment, version: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.environment, self.version, self.process, self._log = environment, version, process, log
        self.socket = environment.state.sockets / f"{MODEL}-{version}.sock"

    def client(self, **options: Any) -> httpx.Client:
        return client(self.socket, **options)

    def predict(self, *rows: dict[str, Any], **headers: str) -> httpx.Response:
        with self.client() as asking:
            spelled = {name.replace("_", "-"): value for name, value in headers.items()}
            return asking.post(f"/v1/models/{MODEL}:predict", json={"instances": list(rows)}, headers=spelled)

    def log(self) -> str:
        return self._log.read_text()

    def spooled(self) -> list[Path]:
        return sorted((self.environment.state.spool / f"{MODEL}-{self.version}").glob("*.arrow"))


@contextmanager
def start_server(
    environment: Environment, version: int = 1, *, limit: float = 90, command: tuple[str, ...] = ()
) -> Iterator[Server]:
    """Start the server's own process and wait until it is ready; it is ended at the end, with SIGTERM."""
    log = environment.state.logs / f"revision-{version}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "serving", "--model", MODEL, "--version", str(version)],
            env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
            stderr=stream,
        )
    server = Server(environment, version, process, log)
    try:
        wait_until_ready(server, limit)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=30)


def wait_until_ready(server: Server, limit: float) -> None:
    """Raises AssertionError with the log's end when the process ends or the time is over."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log()[-3000:]
        if is_ready(server):
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready after {limit} s: {server.log()[-3000:]}")


def is_ready(server: Server) -> bool:
    connection = UnixConnection(server.socket, timeout=5)
    try:
        connection.request("GET", f"/v2/models/{MODEL}/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
