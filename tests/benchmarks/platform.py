"""Figures of the running platform: predictions against two peers, stages, a rollback under load, start and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from feature_repo.transforms import find_transforms
from slipway.bundle import MODEL as MODEL_FILE
from slipway.endpoints import gateway_url, revision_socket
from slipway.environment import Environment
from slipway.ledger import open_ledger, releases, versions
from slipway.settings import REPOSITORY
from slipway.tokens import read_token
from slipway.unix_sockets import client
from tests.benchmarks.asking import Door, ask_once, measure_latency, measure_throughput
from tests.benchmarks.measurement import Figure, Spread, alternate, compare
from tests.benchmarks.peers import bare_kserve, mlflow_serving
from tests.integration.flight_revision import (
    MODEL,
    NOW,
    SERVICE,
    instance,
    make_bundle,
    make_environment,
    publish_values,
)

REQUESTS = 800
LIMIT = 240.0
"""Seconds for one wait."""


def run(repeat: int) -> list[Figure]:
    """A platform of its own in a temporary folder; it is stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        environment = make_environment(Path(folder))
        publish_values(environment)
        for version in (1, 2):
            make_bundle(environment, version, seed=version)
        try:
            _slipway(environment, "up")
            _promote(environment, 1, epoch=0)
            door = _gateway_door(environment)
            _wait_for_version(environment, 1)
            figures = _measure_predictions(environment, door, Path(folder), repeat)
            figures += _measure_rollbacks(environment, repeat)
            figures += _measure_memory(environment)
            figures += _measure_start(environment)
        finally:
            _slipway(environment, "down")
    return figures


def _slipway(environment: Environment, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from slipway.cli import main; main()", "--env", str(environment.file), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=LIMIT * 2,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"slipway {' '.join(arguments)}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def _promote(environment: Environment, version: int, *, epoch: int) -> None:
    with open_ledger(environment).transaction() as session:
        digest = f"{version}-{epoch}".rjust(64, "0")
        versions.add(session, MODEL, version, digest=digest, gate={"verdict": "passed"}, passed=True, as_of=NOW)
        releases.promote(session, MODEL, version, epoch=epoch, actor="bench", reason="bench", as_of=NOW)


def _gateway_door(environment: Environment) -> Door:
    port = int(gateway_url(environment).rsplit(":", 1)[1])
    token = read_token(environment, "predict")
    return Door.of(f"/v1/models/{MODEL}:predict", {"instances": [instance()]}, port=port, token=token)


def _answering_version(environment: Environment, asking: httpx.Client) -> int | None:
    try:
        answer = asking.post(f"/v1/models/{MODEL}:predict", json={"instances": [instance()]})
    except httpx.TransportError:
        return None
    return int(answer.headers.get("x-model-version", 0)) or None if answer.status_code == 200 else None


def _client(environment: Environment) -> httpx.Client:
    token = read_token(environment, "predict")
    return httpx.Client(base_url=gateway_url(environment), headers={"authorization": f"Bearer {token}"}, timeout=10)


def _wait_for_version(environment: Environment, version: int) -> None:
    deadline = time.monotonic() + LIMIT
    with _client(environment) as asking:
        while _answering_version(environment, asking) != version:
            if time.monotonic() > deadline:
                raise RuntimeError(f"version {version} did not answer within {LIMIT:.0f} s")
            time.sleep(0.05)


def _measure_predictions(environment: Environment, door: Door, folder: Path, repeat: int) -> list[Figure]:
    transforms = find_transforms(SERVICE)
    import pandas as pd

    matrix = transforms.matrix(pd.DataFrame([instance()]))
    rows, columns = matrix.to_numpy().tolist(), list(transforms.columns)
    file = environment.state.bundles / MODEL / "1" / MODEL_FILE
    with bare_kserve(file, rows, folder) as bare, mlflow_serving(file, columns, rows, folder) as mlflow:
        doors = {"ours": door, "bare": bare, "mlflow": mlflow}
        for each in doors.values():
            measure_latency(each, 50)  # warm
        before = _read_stages(environment)
        latency = alternate(repeat, **{name: lambda d=d: measure_latency(d, REQUESTS) for name, d in doors.items()})
        stages = _share_of_stages(before, _read_stages(environment))
        rates = alternate(repeat, **{name: lambda d=d: measure_throughput(d, REQUESTS) for name, d in doors.items()})
    names = {"bare": "bare KServe, features in the request", "mlflow": "mlflow models serve"}
    figures = []
    for name, told in names.items():
        figures.append(
            compare("prediction: p50", "ms", latency["ours"], latency[name], told, "gateway, features joined")
        )
        figures.append(compare("prediction: throughput", "1/s", rates["ours"], rates[name], told, "8 connections"))
    spent = Spread.of([sum(stages.values())])
    figures.append(Figure("time in the server per request", "ms", spent, note=_tell(stages), details=stages))
    return figures


def _read_stages(environment: Environment) -> dict[str, tuple[float, float]]:
    """Seconds and requests of each stage since the server's start."""
    with client(revision_socket(environment, MODEL, 1), timeout=10) as asking:
        text = asking.get("/metrics").text
    found: dict[str, dict[str, float]] = {}
    for kind, stage, value in re.findall(r'slipway_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', text):
        found.setdefault(stage, {})[kind] = float(value)
    return {stage: (values["sum"], values["count"]) for stage, values in found.items()}


def _share_of_stages(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Milliseconds a request by stage."""
    return {
        stage: 1000 * (seconds - before[stage][0]) / max(count - before[stage][1], 1)
        for stage, (seconds, count) in after.items()
    }


def _tell(stages: dict[str, float]) -> str:
    whole = sum(stages.values()) or 1.0
    return ", ".join(f"{stage} {spent / whole:.0%}" for stage, spent in sorted(stages.items(), key=lambda s: -s[1]))


@dataclass
class _Load:
    """Four clients that ask without pause; every answer with its moment and version."""

    environment: Environment
    answers: list[tuple[float, int | None]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Load:
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(timeout=20)

    def _ask(self) -> None:
        with _client(self.environment) as asking:
            for _ in range(20_000):
                if self.stop.is_set():
                    return
                version = _answering_version(self.environment, asking)
                self.answers.append((time.time(), version))
                time.sleep(0.005)


def _measure_rollbacks(environment: Environment, repeat: int) -> list[Figure]:
    """Each: promote version 2, ask without pause, `slipway rollback`, and see when version 1 answers again."""
    commands: list[float] = []
    switches: list[float] = []
    failed = asked = 0
    for _ in range(min(repeat, 3)):
        release = _read_release(environment)
        with open_ledger(environment).transaction() as session:
            versions.add(session, MODEL, 2, digest="2".rjust(64, "0"), gate={}, passed=True, as_of=NOW)
            releases.promote(
                session,
                MODEL,
                2,
                epoch=release.epoch,
                actor="bench",
                reason="bench",
                as_of=NOW,
                override=True,
                unblock=True,
            )
        _wait_for_version(environment, 2)
        with _Load(environment) as load:
            time.sleep(1)
            begun = time.time()
            _slipway(environment, "rollback", MODEL, "--reason", "bench")
            _wait_for_version(environment, 1)
            time.sleep(1)
        first = min(moment for moment, version in load.answers if version == 1 and moment > begun)
        commands.append((first - begun) * 1000)
        switches.append((first - _read_release(environment).written.timestamp()) * 1000)
        failed += sum(version is None for _, version in load.answers)
        asked += len(load.answers)
    note = f"{failed} of {asked} requests failed"
    return [
        Figure(
            "rollback: command to first old answer", "ms", Spread.of(commands), note=note, details={"failed": failed}
        ),
        Figure("rollback: the switch itself", "ms", Spread.of(switches), note="from the ledger's commit on; aim 200"),
    ]


def _read_release(environment: Environment) -> Any:
    with open_ledger(environment).read() as session:
        return releases.require(session, MODEL)


def _measure_memory(environment: Environment) -> list[Figure]:
    document = json.loads(_slipway(environment, "status", "--json"))
    by_process = {row["process"]: row["memory_mib"] or 0 for row in document["processes"]}
    note = ", ".join(f"{name} {size}" for name, size in sorted(by_process.items(), key=lambda item: -item[1]))
    whole = Spread.of([float(sum(by_process.values()))])
    return [Figure("memory of the idle platform", "MiB", whole, note=f"aim 3072; {note}", details=by_process)]


def _measure_start(environment: Environment) -> list[Figure]:
    """With a champion in the ledger: from the command to the first prediction."""
    _slipway(environment, "down")
    begun = time.monotonic()
    starting = threading.Thread(target=_slipway, args=(environment, "up"), daemon=True)
    starting.start()
    answered = None
    while time.monotonic() - begun < LIMIT:
        try:
            ask_once(_gateway_door(environment))
            answered = time.monotonic() - begun
            break
        except (OSError, RuntimeError, EOFError):
            time.sleep(0.1)
    starting.join(timeout=LIMIT)
    if answered is None:
        raise RuntimeError("no prediction after the start")
    return [Figure("slipway up to first prediction", "s", Spread.of([answered]), note="data and a champion are there")]
