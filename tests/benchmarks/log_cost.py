"""What the inference log costs: two servers of one version, one of which logs, asked in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slipway.environment import VARIABLE, Environment
from slipway.settings import REPOSITORY
from tests.benchmarks.asking import Door, ask_once, measure_latency, measure_throughput
from tests.benchmarks.measurement import Figure, alternate, compare
from tests.integration.flight_revision import (
    MODEL,
    Server,
    instance,
    make_bundle,
    make_environment,
    publish_values,
    start_server,
    wait_until_ready,
)

REQUESTS = 1000


def run(repeat: int) -> list[Figure]:
    """Latency on one connection, throughput on eight."""
    document = {"instances": [instance()]}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        environment = make_environment(Path(folder))
        publish_values(environment)
        for version in (1, 2):
            make_bundle(environment, version)
        with start_server(environment, 1) as logging, start_logless(environment, 2) as silent:
            path = f"/v1/models/{MODEL}:predict"
            doors = [Door.of(path, document, socket=server.socket) for server in (logging, silent)]
            for door in doors:
                ask_once(door)
            latency = alternate(
                repeat,
                on=lambda: measure_latency(doors[0], REQUESTS),
                off=lambda: measure_latency(doors[1], REQUESTS),
            )
            throughput = alternate(
                repeat,
                on=lambda: measure_throughput(doors[0], REQUESTS),
                off=lambda: measure_throughput(doors[1], REQUESTS),
            )
    note = f"{REQUESTS} requests a run, features joined"
    return [
        compare("inference log: p50", "ms", latency["on"], latency["off"], "log off", note),
        compare("inference log: throughput", "1/s", throughput["on"], throughput["off"], "log off", note),
    ]


@contextmanager
def start_logless(environment: Environment, version: int) -> Iterator[Server]:
    """The same server with its log switched off."""
    log = environment.state.logs / f"logless-{version}.log"
    module = "tests.benchmarks.logless_server"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--model", MODEL, "--version", str(version)],
            cwd=REPOSITORY,
            env={**os.environ, VARIABLE: str(environment.file)},
            stderr=stream,
        )
    server = Server(environment, version, process, log)
    try:
        wait_until_ready(server, 90)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=30)
