"""A revision's process as its pod runs it: a port, mounted secrets, online values in a real Valkey, its log in S3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from flight_revision import MODEL, instance, make_bundle, make_environment, publish_values

from feature_repo.store import ONLINE
from slipway import pod
from slipway.environment import Environment, open_environment
from slipway.signing import public_key_of
from slipway.spool import list_files, read_file
from slipway.targets.kubernetes.routes import ANSWERED_BY
from slipway.targets.local.ports import choose_ports
from tests.integration.valkey_server import valkey_server
from tests.s3_server import credentials, s3_server

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

PREDICT = f"/v1/models/{MODEL}:predict"
READY = f"/v2/models/{MODEL}/ready"


@dataclass(frozen=True)
class Stage:
    """A pod's files and variables."""

    environment: Environment
    variables: dict[str, str]
    url: str


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("pod")
    with valkey_server(root) as address, s3_server() as objects:
        environment = make_environment(root)
        make_bundle(environment)
        secrets = root / "secrets"
        for name, text in {
            ONLINE: address,
            f"{pod.IDENTITY}/signing.pub": public_key_of(environment).read_text(),
            **credentials(objects),
        }.items():
            (secrets / name).parent.mkdir(parents=True, exist_ok=True)
            (secrets / name).write_text(text)
        port = choose_ports(0, {})["gateway"]
        variables = {
            "SLIPWAY_ENVIRONMENT": str(environment.file),
            pod.SECRETS: str(secrets),
            pod.LISTEN: f"127.0.0.1:{port}",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            told = open_environment()
            publish_values(told)
        # What the pod has not: the other half of the key, and the values in files.
        shutil.rmtree(environment.state.secrets)
        yield Stage(told, variables, f"http://127.0.0.1:{port}")


@contextmanager
def running(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    log = stage.environment.state.logs / "pod.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", f"--model={MODEL}", "--version=1"],
            env={**os.environ, **stage.variables},
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + 300
        while not _is_ready(stage):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=30)


def _is_ready(stage: Stage) -> bool:
    """As the kubelet asks."""
    try:
        return httpx.get(stage.url + READY, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_pods_revision_answers_on_its_port_with_features_from_valkey(stage: Stage) -> None:
    with running(stage) as process, httpx.Client(base_url=stage.url, trust_env=False) as client:

        def predict(number: int, answered_by: str) -> httpx.Response:
            asked = {"x-request-id": f"5f1c2c54-0d55-9a3e-8f0a-{number:012d}", ANSWERED_BY: answered_by}
            return client.post(PREDICT, json={"instances": [instance()]}, headers=asked)

        answers = []
        for number in range(50):
            answers.append(predict(number, "1"))
            # On a busy machine a look-up may take longer than the contract lets it, and is then not made for a while.
            if answers[-1].headers["x-feature-defaults"] != "0":
                time.sleep(0.3)
        assert {answer.status_code for answer in answers} == {200}
        assert "0" in {answer.headers["x-feature-defaults"] for answer in answers}, "every view was in Valkey"
        assert {answer.headers["x-model-version"] for answer in answers} == {"1"}
        assert answers[7].json()["prediction_ids"] == ["5f1c2c54-0d55-9a3e-8f0a-000000000007"]
        assert predict(50, "2").status_code == 200
        assert client.get("/metrics").status_code == 200
        process.terminate()
        assert process.wait(timeout=30) == 0
    (files,) = list_files(stage.environment.state.spool).values()
    rows = [row for file in files for row in read_file(file).to_pylist()]
    assert [row["delivered"] for row in sorted(rows, key=lambda row: row["sequence"])] == [True] * 50 + [False]


def test_a_pod_that_is_stopped_answers_what_was_asked_before_the_end(stage: Stage) -> None:
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        # As the gateway does: it goes on until it hears that the pod takes no more.
        with httpx.Client(base_url=stage.url, trust_env=False) as client:
            while not stopped.is_set():
                statuses.append(client.post(PREDICT, json={"instances": [instance()]}).status_code)
                if client.get(READY).status_code != 200:
                    return

    with running(stage) as process:
        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        process.terminate()
        for thread in asking:
            thread.join(timeout=20)
        stopped.set()
        assert process.wait(timeout=30) == 0
    assert statuses
    assert set(statuses) == {200}
