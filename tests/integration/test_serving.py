"""A revision's own process on real bundles, the real feature store and the real collector."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from flight_revision import (
    MODEL,
    NOW,
    Server,
    instance,
    make_bundle,
    make_environment,
    publish_values,
    set_clock,
    start_server,
)

from feature_repo.history import join
from feature_repo.store import open_store
from feature_repo.transforms import find_transforms
from serving.revision import load_revision
from slipway.environment import Environment
from slipway.errors import Refused
from slipway.inference_log import count_losses, read_rows
from slipway.ledger import open_ledger, progress
from slipway.spool import list_files
from slipway.unix_sockets import UnixConnection

pytestmark = pytest.mark.integration
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = make_environment(tmp_path_factory.mktemp("serving"))
    make_bundle(environment)
    publish_values(environment)
    return environment


@pytest.fixture(scope="module")
def server(environment: Environment) -> Iterator[Server]:
    with start_server(environment) as running:
        yield running


@contextmanager
def collector(environment: Environment) -> Iterator[subprocess.Popen[bytes]]:
    with (environment.state.logs / "collector.log").open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "slipway.collector"],
            env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
            stderr=stream,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_progress(environment: Environment, moment: object, seconds: float = 60) -> float:
    """Seconds until the collector has reached `moment`."""
    ledger, began = open_ledger(environment), time.monotonic()
    while time.monotonic() - began < seconds:
        with ledger.read() as session:
            if progress.read(session).get("collector") == moment:
                return time.monotonic() - began
        time.sleep(0.01)
    raise AssertionError((environment.state.logs / "collector.log").read_text()[-3000:])


# Answers


def test_a_prediction_joins_online_features_and_says_who_answered(server: Server) -> None:
    answer = server.predict(instance(0), instance(1), x_prediction_id="flights-0001")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == "1"
    assert answer.headers["x-feature-defaults"] == "0"
    assert answer.json()["prediction_ids"] == ["flights-0001-0", "flights-0001-1"]


def test_the_answer_is_the_one_that_the_offline_features_give(environment: Environment, server: Server) -> None:
    import pandas as pd

    rows = pd.DataFrame([instance(number) for number in range(20)]).assign(event_timestamp=pd.Timestamp(NOW))
    offline = join(environment, "flight_delay_v1", rows)
    folder = environment.state.bundles / MODEL / "1"
    booster = lightgbm.Booster(model_file=str(folder / "model.txt"))
    expected = booster.predict(find_transforms("flight_delay_v1").matrix(offline))
    answer = server.predict(*[instance(number) for number in range(20)])
    assert answer.json()["predictions"] == expected.tolist()
    assert len(set(expected)) > 1


def test_the_socket_is_private_and_nothing_listens_on_a_port(server: Server) -> None:
    import psutil

    assert oct(server.socket.stat().st_mode) == "0o140600"
    pid = server.process.pid
    listening = [c for c in psutil.net_connections("inet") if c.pid == pid and c.status == "LISTEN"]
    assert listening == []


def test_hostile_requests_leave_the_server_serving(server: Server) -> None:
    path = f"/v1/models/{MODEL}:predict"
    with server.client() as client:
        for body in (b"{" * 50_000, b"\x00" * 1000, b'{"instances": [{"__class__": "os.system"}]}', b" " * 3_000_000):
            assert client.post(path, content=body).status_code in (400, 413, 422)
        assert client.post("/v2/repository/models/flight_delay/unload").status_code == 404
        assert (
            client.post(path, json={"instances": [instance()]}, headers={"x-prediction-id": "x" * 500}).status_code
            == 422
        )
    assert server.predict(instance()).status_code == 200


def test_a_second_server_of_the_revision_does_not_take_its_socket(environment: Environment, server: Server) -> None:
    # The lock is waited for longer than a stop takes; here it is enough that the first one goes on.
    second = subprocess.Popen(
        [sys.executable, "-m", "serving", "--model", MODEL, "--version", "1"],
        env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
        stderr=subprocess.PIPE,
    )
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert b"another server of flight_delay 1 is running" in errors
    assert server.predict(instance()).status_code == 200


# What is refused before anything is served


def refuse(environment: Environment, version: int, text: str) -> None:
    with pytest.raises(Refused, match=text):
        load_revision(environment, MODEL, version)


def test_a_bundle_made_with_other_transforms_is_refused(environment: Environment) -> None:
    make_bundle(environment, 11, transforms_hash="0" * 64)
    refuse(environment, 11, "other transforms")


def test_a_bundle_with_other_columns_is_refused(environment: Environment) -> None:
    make_bundle(environment, 12, columns=["carrier", "origin"])
    refuse(environment, 12, "columns")


def test_a_bundle_whose_golden_answers_are_not_given_is_refused(environment: Environment) -> None:
    from slipway.bundle import Golden

    golden = Golden(requests=[instance()], features=[{}], answers=[0.123456])
    make_bundle(environment, 13, golden=golden)
    refuse(environment, 13, "golden request 0 is answered")
    make_bundle(environment, 14, golden=Golden(requests=[], features=[], answers=[]))
    refuse(environment, 14, "golden requests are missing")


def test_a_process_with_a_changed_bundle_ends_before_it_listens(environment: Environment) -> None:
    make_bundle(environment, 15)
    model = environment.state.bundles / MODEL / "15" / "model.txt"
    model.write_bytes(model.read_bytes().replace(b"leaf_value=", b"leaf_value=9", 1))
    ended = subprocess.run(
        [sys.executable, "-m", "serving", "--model", MODEL, "--version", "15"],
        env={**os.environ, "SLIPWAY_ENVIRONMENT": str(environment.file)},
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert b"cannot serve" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert not (environment.state.sockets / f"{MODEL}-15.sock").exists()


# The feature store


def test_a_store_that_is_gone_or_locked_or_broken_fails_no_prediction(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    make_bundle(environment)
    publish_values(environment)
    online = environment.state.features / "online.db"
    with start_server(environment) as server:
        assert server.predict(instance()).headers["x-feature-defaults"] == "0"
        # In WAL no writer shuts readers out; what SQLite's own readers lock, taken by somebody else, does.
        with (environment.state.features / "online.db-shm").open("rb+") as shared:
            fcntl.lockf(shared, fcntl.LOCK_EX, 8, 120)
            answer = server.predict(instance())
            assert (answer.status_code, answer.headers["x-feature-defaults"]) == (200, "5")
            assert answer.elapsed.total_seconds() < 1
        online.write_bytes(os.urandom(8192))
        for leftover in ("online.db-wal", "online.db-shm"):
            (environment.state.features / leftover).unlink(missing_ok=True)
        for _ in range(5):
            assert server.predict(instance()).status_code == 200
        with server.client() as client:
            assert "slipway_feature_defaults_total" in client.get("/metrics").text


def test_a_server_starts_without_registry_and_without_store(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    make_bundle(environment)
    features = environment.state.features
    shutil.rmtree(features)
    features.write_text("not a folder")
    with start_server(environment) as server:
        answer = server.predict(instance())
        assert (answer.status_code, answer.headers["x-feature-defaults"]) == (200, "5")
        assert "the feature store is not open" in server.log()


# The log


def test_what_was_answered_is_in_parquet_within_half_a_second_of_the_barrier(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, flush_interval="60s")
    make_bundle(environment)
    publish_values(environment)
    with start_server(environment) as server, collector(environment):
        wait_for_progress(environment, NOW)
        spent = []
        for number in range(1, 6):
            ids = [f"flight-{number}-{row:04d}" for row in range(20)]
            for id_ in ids:
                assert server.predict(instance(), x_prediction_id=id_).status_code == 200
            moment = NOW + number * timedelta(hours=1)
            set_clock(environment, moment)
            spent.append(wait_for_progress(environment, moment))
            found = read_rows(environment, MODEL, NOW, NOW + DAY)
            assert set(ids) <= set(found["id"])
            assert set(found[found["id"].isin(ids)]["event_time"]) == {moment - timedelta(hours=1)}
        assert min(spent) < 0.5
    counted = count_losses(environment, MODEL)[1]
    assert (counted.rows, counted.gaps, counted.duplicates) == (100, 0, 0)


def test_a_killed_server_loses_at_most_the_interval(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, flush_interval="500ms")
    make_bundle(environment)
    publish_values(environment)
    answered: list[tuple[float, str]] = []
    with start_server(environment) as server:
        path = f"/v1/models/{MODEL}:predict"
        with server.client() as client:
            killed_at = time.monotonic() + 3
            while time.monotonic() < killed_at:
                id_ = f"flight-{len(answered):06d}"
                answer = client.post(path, json={"instances": [instance()], "prediction_ids": [id_]})
                assert answer.status_code == 200
                answered.append((time.monotonic(), id_))
            server.process.kill()
            server.process.wait()
    with collector(environment):
        wait_for_progress(environment, NOW)
    logged = set(read_rows(environment, MODEL, NOW, NOW + DAY, columns=["id"])["id"])
    lost = [moment for moment, id_ in answered if id_ not in logged]
    assert len(logged) > 50
    # Half a second, and what a loaded machine adds to it.
    assert all(moment > answered[-1][0] - 1.0 for moment in lost)
    assert count_losses(environment, MODEL)[1].gaps == 0


def test_a_stop_under_load_loses_no_request_and_no_row(tmp_path: Path) -> None:
    environment = make_environment(tmp_path)
    make_bundle(environment)
    publish_values(environment)
    answers: list[str] = []
    failures: list[str] = []

    def ask(server: Server, number: int) -> None:
        """One client, which opens a new connection after each answer that asks for it, until the server is gone."""
        body = json.dumps({"instances": [instance(number)]})
        connection = UnixConnection(server.socket, timeout=10)
        try:
            while True:
                connection.request("POST", f"/v1/models/{MODEL}:predict", body)
                answer = connection.getresponse()
                document = json.loads(answer.read())
                if answer.status != 200:
                    failures.append(str(document))
                answers.extend(document["prediction_ids"])
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # the server listens no more
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()

    with start_server(environment) as server:
        clients = [threading.Thread(target=ask, args=(server, number)) for number in range(4)]
        for client in clients:
            client.start()
        time.sleep(2)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(timeout=30)
        assert server.process.wait(timeout=15) == 0
    assert failures == []
    with collector(environment):
        wait_for_progress(environment, NOW)
    logged = set(read_rows(environment, MODEL, NOW, NOW + DAY, columns=["id"])["id"])
    assert len(answers) > 100
    assert set(answers) == logged


def test_a_full_disk_fails_no_prediction_and_the_log_recovers(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, flush_interval="200ms")
    make_bundle(environment)
    publish_values(environment)
    with start_server(environment) as server:
        server.predict(instance(), x_prediction_id="flight-before")
        limit = [f"--pid={server.process.pid}", "--fsize=1000:unlimited"]
        time.sleep(1)
        subprocess.run(["prlimit", *limit], check=True)
        for number in range(20):
            assert server.predict(instance(), x_prediction_id=f"flight-{number:06d}").status_code == 200
        time.sleep(1)
        with server.client() as client:
            metrics = client.get("/metrics").text
            assert client.post("/flush").status_code == 503
        assert "slipway_log_waiting 20.0" in metrics
        assert "slipway_log_write_failures_total 0.0" not in metrics
        assert len(server.spooled()) == 1
        subprocess.run(["prlimit", f"--pid={server.process.pid}", "--fsize=unlimited:unlimited"], check=True)
        deadline = time.monotonic() + 10
        while len(server.spooled()) < 2:
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        assert server.predict(instance()).status_code == 200
    with collector(environment):
        wait_for_progress(environment, NOW)
    counted = count_losses(environment, MODEL)[1]
    assert (counted.rows, counted.gaps) == (22, 0)


def test_a_killed_collector_goes_on_without_losing_or_doubling_a_row(tmp_path: Path) -> None:
    environment = make_environment(tmp_path, flush_interval="50ms")
    make_bundle(environment)
    with start_server(environment) as server:
        stop = threading.Event()
        asked: list[str] = []

        def ask() -> None:
            with server.client() as client:
                while not stop.is_set():
                    answer = client.post(f"/v1/models/{MODEL}:predict", json={"instances": [instance()] * 3})
                    asked.extend(answer.json()["prediction_ids"])

        asking = threading.Thread(target=ask)
        asking.start()
        for number in range(3):
            with collector(environment) as process:
                wait_for_progress(environment, NOW + number * timedelta(minutes=1))
                time.sleep(0.3 + 0.1 * number)
                set_clock(environment, NOW + (number + 1) * timedelta(minutes=1))
                time.sleep(0.07 * number)
                process.kill()
        stop.set()
        asking.join()
        with collector(environment):
            set_clock(environment, NOW + timedelta(hours=2))
            wait_for_progress(environment, NOW + timedelta(hours=2))
    assert [file for files in list_files(environment.state.spool).values() for file in files] == []
    counted = count_losses(environment, MODEL)[1]
    assert (counted.rows, counted.gaps, counted.duplicates) == (len(asked), 0, 0)


def test_online_and_offline_features_in_the_log_are_equal(environment: Environment, server: Server) -> None:
    """What the log holds is what the offline join gives for the same rows, value by value."""
    import pandas as pd

    server.predict(*[instance(number) for number in range(12)], x_prediction_id="skew-0001")
    with collector(environment):
        wait_for_progress(environment, NOW)
    rows = read_rows(environment, MODEL, NOW, NOW + DAY)
    rows = rows[rows["id"].str.startswith("skew-0001")]
    asked = pd.DataFrame({key: rows[f"in_{key}"] for key in ("carrier", "origin", "dest")})
    offline = join(
        environment, "flight_delay_v1", asked.assign(event_timestamp=rows["event_time"]), store=open_store(environment)
    )
    names = list(find_transforms("flight_delay_v1").defaults)
    online = rows[[f"ft_{name}" for name in names]].to_numpy(float)
    assert len(rows) == 12
    assert np.array_equal(online, offline[names].to_numpy(float), equal_nan=True)
    assert set(rows["age_weather"]) == {600.0}
