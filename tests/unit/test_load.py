"""The bounded load of the demonstration, against a small server that plays the gateway."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pipelines.flight_delay.demo import load as module
from pipelines.flight_delay.demo.load import Load, Question
from pipelines.flight_delay.demo.stage import prepare_environment
from slipway.environment import VARIABLE, Environment
from slipway.errors import SlipwayError


class Gateway(BaseHTTPRequestHandler):
    """Answers by version 2 until told otherwise, and remembers the ids it was asked with."""

    version = 2
    status = 200
    asked: set[str] = set()
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        Gateway.asked.add(self.headers["x-prediction-id"])
        body = json.dumps({"predictions": [0.5]}).encode()
        self.send_response(Gateway.status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-model-version", str(Gateway.version))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    monkeypatch.setenv(VARIABLE, "local")
    made = prepare_environment(tmp_path / "run")
    Gateway.version, Gateway.status, Gateway.asked = 2, 200, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(module, "gateway_url", lambda _: f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(module, "read_token", lambda *_: "token")
    yield made
    server.shutdown()
    server.server_close()


def questions(count: int = 8) -> list[Question]:
    return [Question(f"flight-{i}", {"origin": "JFK"}) for i in range(count)]


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_first_answer_of_the_other_version_is_found(environment: Environment) -> None:
    with Load(environment, "flight_delay", questions()) as load:
        _wait(lambda: len(Gateway.asked) == 8)
        switched = time.monotonic()
        Gateway.version = 1
        _wait(lambda: load.first_answer_by(1, switched) is not None)
    first, earlier = load.first_answer_by(1, switched), load.first_answer_by(2, 0.0)
    assert first is not None
    assert earlier is not None
    assert earlier < switched < first
    assert not load.failures
    assert Gateway.asked == {f"flight-{i}" for i in range(8)}


def test_an_answer_that_is_no_success_is_a_failure(environment: Environment) -> None:
    Gateway.status = 503
    with Load(environment, "flight_delay", questions()) as load:
        _wait(lambda: bool(load.answers))
    assert {failure.failure for failure in load.failures} == {"HTTP 503"}
    assert load.first_answer_by(2, 0.0) is None


def test_a_load_without_requests_says_so(environment: Environment) -> None:
    with pytest.raises(SlipwayError, match="no logged requests"), Load(environment, "flight_delay", []):
        pass
