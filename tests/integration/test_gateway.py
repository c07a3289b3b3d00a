"""The gateway with a real Envoy and a real portal; what stands behind them are tiny HTTP servers on unix sockets."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from slipway import tokens
from slipway.endpoints import gateway_url, ray_token_file, registry_url, revision_socket, socket_of
from slipway.environment import Environment, open_environment
from slipway.errors import InvalidInput, NotReady
from slipway.sessions import SessionStore
from slipway.targets import Traffic
from slipway.targets.local import envoy, traffic
from slipway.targets.local.ports import keep_ports
from slipway.targets.local.routes import DOORS, OPEN, ROUTES, Route

pytestmark = pytest.mark.integration

LOCAL = [route for route in ROUTES if route.door in (*DOORS, "registry")]

# Answers any request with what it received; the test's own headers ask for a delay (seconds) or a status.
TINY_SERVER = """
import asyncio, json, os, sys

name, path, record = sys.argv[1:4]

async def handle(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode("latin-1").split("\\r\\n")
            pairs = (line.partition(": ") for line in head[1:] if line)
            headers = {key.lower(): value for key, _, value in pairs}
            await reader.readexactly(int(headers.get("content-length", 0)))
            with open(record, "a") as log:
                log.write(json.dumps({"server": name, "request": head[0], "headers": headers}) + "\\n")
            await asyncio.sleep(float(headers.get("x-test-delay", 0)))
            body = json.dumps({"server": name, "headers": headers}).encode()
            status = headers.get(f"x-test-status-{name}", "200")
            answer = [f"HTTP/1.1 {status} -", f"content-length: {len(body)}", f"x-test-server: {name}", "", ""]
            writer.write("\\r\\n".join(answer).encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    if os.path.exists(path):
        os.unlink(path)
    await (await asyncio.start_unix_server(handle, path)).serve_forever()

asyncio.run(main())
"""


@dataclass
class Platform:
    """One environment with its processes; everything it starts it ends by process id."""

    environment: Environment
    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            variables = {**os.environ, "SLIPWAY_ENVIRONMENT": str(self.environment.file)}
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=variables)

    def start_tiny(self, name: str, socket: Path) -> None:
        self.start(name, [sys.executable, "-c", TINY_SERVER, name, str(socket), str(self.record(name))])
        wait_for(socket.exists, f"{name} listens")

    def start_version(self, model: str, *versions: int) -> None:
        for version in versions:
            self.start_tiny(f"{model}-{version}", revision_socket(self.environment, model, version))

    def start_envoy(self) -> None:
        traffic.render(self.environment)
        self.start("envoy", envoy.command(self.environment))
        wait_for(lambda: envoy.is_ready(self.environment), "envoy is ready")

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def requests(self, name: str) -> list[dict[str, str]]:
        """The headers of every request that this server got."""
        if not self.record(name).exists():
            return []
        return [json.loads(line)["headers"] for line in self.record(name).read_text().splitlines()]

    def bearer(self, role: tokens.Role) -> dict[str, str]:
        return {"authorization": f"Bearer {tokens.read_token(self.environment, role)}"}

    def host(self, door: str) -> str:
        port = gateway_url(self.environment).rsplit(":", 1)[1]
        return f"localhost:{port}" if door == "portal" else f"{door}.localhost:{port}"

    def ask(
        self, route_or_path: Route | str, method: str = "GET", door: str = "portal", **options: Any
    ) -> httpx.Response:
        path = route_or_path if isinstance(route_or_path, str) else sample(route_or_path)
        url = registry_url(self.environment) if door == "registry" else gateway_url(self.environment)
        headers = {} if door == "registry" else {"host": self.host(door)}
        headers |= options.pop("headers", {})
        return httpx.request(method, url + path, headers=headers, timeout=20, **options)


def sample(route: Route) -> str:
    """A path that the route takes."""
    path = route.path.replace("{model}", "alpha").replace("{door}", "mlflow")
    return path.replace("*", "slipway.css" if "static" in path else "some/page")


def wait_for(condition: Callable[[], bool], what: str, limit: float = 40) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("gateway")
    settings = folder / "gateway.toml"
    settings.write_text(f'name = "gateway"\nstate_dir = "{folder / "state"}"\nclock.source = "utc"\n')
    environment = open_environment(str(settings))
    environment.state.prepare()
    ports = keep_ports(environment)
    tokens.prepare(environment)
    ray_token_file(environment).write_text("rays-own-token\n")
    found = Platform(environment, folder)
    try:
        found.start("portal", [sys.executable, "-m", "slipway.portal"])
        for name in ("mlflow", "reports"):
            found.start_tiny(name, socket_of(environment, name))
        # Ray's dashboard has a port, not a socket: a socket's server behind one that passes bytes on.
        found.start_tiny("ray", folder / "ray.sock")
        found.start(
            "ray-port", [sys.executable, "-c", PORT_TO_SOCKET, str(ports["ray_dashboard"]), str(folder / "ray.sock")]
        )
        found.start_version("alpha", 1, 2, 3)
        found.start_envoy()
        wait_for(lambda: found.ask("/login").status_code == 200, "the portal answers")
        yield found
    finally:
        for process in found.processes.values():
            process.kill()
        for process in found.processes.values():
            process.wait(10)


PORT_TO_SOCKET = """
import asyncio, sys

async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()

async def handle(reader, writer):
    back_reader, back_writer = await asyncio.open_unix_connection(sys.argv[2])
    await asyncio.gather(copy(reader, back_writer), copy(back_reader, writer))

async def main():
    await (await asyncio.start_server(handle, "127.0.0.1", int(sys.argv[1]))).serve_forever()

asyncio.run(main())
"""


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", LOCAL, ids=lambda route: route.name)
def test_a_route_lets_in_its_roles_and_nobody_else(platform: Platform, route: Route) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    method = route.methods[0] if route.methods else "DELETE"

    def status(headers: dict[str, str]) -> int:
        return platform.ask(route, method, route.door, headers=headers).status_code

    given: dict[str, dict[str, str]] = {role: platform.bearer(role) for role in tokens.ROLES}
    found = {role: status(headers) for role, headers in given.items()}
    found["none"] = status({})
    found["wrong"] = status({"authorization": "Bearer " + "x" * 43})
    if route.name in OPEN:
        assert not {401, 403} & set(found.values())
        return
    assert (found["none"], found["wrong"]) == (401, 401)
    assert {role for role in tokens.ROLES if found[role] != 403} == set(route.roles)
    assert {found[role] for role in route.roles} <= {200, 303, 400, 404, 422}, found


@pytest.mark.parametrize(
    "path", ["/authorize/", "/v2/repository/models/alpha/unload", "/metrics", "/openapi.json", "/docs"]
)
def test_what_is_not_in_the_table_does_not_exist(platform: Platform, path: str) -> None:
    assert platform.ask(path).status_code == 401
    for role in tokens.ROLES:
        answer = platform.ask(path, headers=platform.bearer(role))
        assert answer.status_code in (403, 404)
        assert "x-test-server" not in answer.headers


def test_a_hidden_path_does_not_reach_a_route_in_disguise(platform: Platform) -> None:
    connection_path = "/v1/models/alpha:predict/../../../v2/repository/models/alpha/unload"
    for path in (connection_path, "/v1%2fmodels/alpha:predict", "//v2/repository/models/alpha/unload"):
        url = httpx.URL(gateway_url(platform.environment)).copy_with(raw_path=path.encode())
        answer = httpx.post(url, headers=platform.bearer("predict"))
        assert answer.status_code in (400, 401, 404), path


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "registry.localhost", "169.254.169.254"])
def test_another_host_name_is_refused_on_every_method(platform: Platform, method: str, host: str) -> None:
    for path in ("/", "/v1/models/alpha:predict", "/api/status"):
        headers = {"host": host, **platform.bearer("operate")}
        assert platform.ask(path, method, headers=headers).status_code == 421


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("door", ["portal", "mlflow", "reports", "ray"])
def test_another_origin_is_refused_on_every_method(platform: Platform, method: str, door: str) -> None:
    path = {"GET": "/", "POST": "/logout"}.get(method, "/some/page")
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost.evil:{platform.host('portal')}",
        "http://localhost:1",
    ):
        headers = {"origin": origin, **platform.bearer("operate")}
        assert platform.ask(path, method, door, headers=headers).status_code == 403
    own = {"origin": f"http://{platform.host(door)}", **platform.bearer("operate")}
    assert platform.ask(path, method, door, headers=own).status_code != 403


def test_a_dashboard_sees_no_credentials_and_the_host_that_it_trusts(platform: Platform) -> None:
    for door in ("mlflow", "reports", "ray"):
        sent = {"cookie": "a=b", "origin": f"http://{platform.host(door)}", "x-ray-authorization": "Bearer forged"}
        seen = platform.ask("/some/page", door=door, headers={**sent, **platform.bearer("read")}).json()
        assert seen["server"] == door
        assert not {"authorization", "cookie", "origin"} & seen["headers"].keys()
        assert seen["headers"]["host"] == "localhost"
        if door == "ray":
            assert seen["headers"]["x-ray-authorization"] == "Bearer rays-own-token"


def test_tokens_do_not_reach_the_servers_of_a_model_or_the_registry(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    predicted = platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict"))
    registered = platform.ask("/api/2.0/mlflow/x", "POST", "registry", headers=platform.bearer("internal"))
    for answer in (predicted, registered):
        assert answer.status_code == 200
        assert "authorization" not in answer.json()["headers"]


def test_a_client_cannot_set_timeouts_and_retries(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    headers = {"x-envoy-upstream-rq-timeout-ms": "1", "x-test-delay": "0.3", **platform.bearer("predict")}
    assert platform.ask("/v1/models/alpha:predict", "POST", headers=headers).status_code == 200


def test_a_rotated_token_is_refused_at_once(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    old = platform.bearer("predict")
    assert platform.ask("/v1/models/alpha:predict", "POST", headers=old).status_code == 200
    tokens.rotate(platform.environment, ["predict"])
    traffic.render(platform.environment)
    wait_for(lambda: platform.ask("/v1/models/alpha:predict", "POST", headers=old).status_code == 401, "refused", 2)
    assert platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict")).status_code == 200


def test_files_and_sockets_are_this_users_alone(platform: Platform) -> None:
    folder = envoy.folder_of(platform.environment)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {"bootstrap.json", "clusters.json", "gateway.json", "registry.json"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("envoy-admin", "portal"):
        assert stat.S_IMODE(socket_of(platform.environment, name).stat().st_mode) == 0o600


def test_a_body_beyond_the_limit_is_refused(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    big = b"x" * (3 << 20)
    answer = platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict"), content=big)
    assert answer.status_code == 413


def test_an_unknown_model_and_a_wrong_method_are_told(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    unknown = platform.ask("/v1/models/nobody:predict", "POST", headers=platform.bearer("predict"))
    assert (unknown.status_code, "alpha" in unknown.json()["error"]) == (404, True)
    assert platform.ask("/v1/models/alpha:predict", "PUT", headers=platform.bearer("predict")).status_code == 405


# --- browsers -----------------------------------------------------------------------------------------------------


def test_a_browser_logs_in_once_by_a_one_time_address_and_opens_every_dashboard(platform: Platform) -> None:
    code = SessionStore(platform.environment).issue_code("read")
    entered = platform.ask(f"/login?code={code}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert "domain" not in cookie.lower()
    assert platform.ask(f"/login?code={code}").status_code == 403  # spent

    mine = {"cookie": cookie.split(";")[0]}
    page = platform.ask("/", headers={"accept": "text/html", **mine})
    assert page.status_code == 200
    assert "script" not in page.headers["content-security-policy"]
    theirs = {}
    for door in ("mlflow", "reports", "ray"):
        assert platform.ask("/", door=door, headers=mine).status_code == 401  # the portal's cookie opens nothing else
        sent_on = platform.ask(f"/open/{door}", headers=mine)
        assert sent_on.headers["location"].startswith(f"http://{platform.host(door)}/.slipway/login?code=")
        path = sent_on.headers["location"].removeprefix(f"http://{platform.host(door)}")
        own = platform.ask(path, door=door)
        theirs[door] = {"cookie": own.headers["set-cookie"].split(";")[0]}
        assert platform.ask("/", door=door, headers=theirs[door]).json()["server"] == door
        assert platform.ask("/", "DELETE", door=door, headers=theirs[door]).status_code == 403  # read, not operate

    origin = {"origin": f"http://{platform.host('portal')}"}
    assert platform.ask("/logout", "POST", headers={**mine, **origin}).status_code == 303
    assert platform.ask("/", headers=mine).status_code == 401
    for door, held in theirs.items():
        assert platform.ask("/", door=door, headers=held).status_code == 401


def test_a_page_of_another_site_cannot_use_a_browsers_session(platform: Platform) -> None:
    code = SessionStore(platform.environment).issue_code("operate")
    cookie = {"cookie": platform.ask(f"/login?code={code}").headers["set-cookie"].split(";")[0]}
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    fetched = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}
    framed = {**followed, "sec-fetch-dest": "iframe"}
    assert platform.ask("/", headers={**cookie, **followed}).status_code == 200
    assert platform.ask("/api/status", headers={**cookie, **fetched}).status_code == 403
    assert platform.ask("/", headers={**cookie, **framed}).status_code == 403
    assert platform.ask("/logout", "POST", headers={**cookie, **followed}).status_code == 403


def test_a_person_without_session_gets_a_page_that_says_how_to_log_in(platform: Platform) -> None:
    for door in ("portal", "mlflow"):
        answer = platform.ask("/", door=door, headers={"accept": "text/html"})
        assert answer.status_code == 401
        assert "slipway token login" in answer.text


# --- traffic ------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What an open-loop load got back: requests leave on time whether or not earlier ones were answered."""

    statuses: collections.Counter[int | str] = field(default_factory=collections.Counter)
    servers: collections.Counter[str] = field(default_factory=collections.Counter)

    @property
    def failed(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != 200)


def run_load(platform: Platform, model: str, *, count: int, rate: float, during: Callable[[], None]) -> Load:
    """Send `count` predictions at `rate` a second while `during` works in a thread of its own."""
    load = Load()

    async def send(client: httpx.AsyncClient, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            answer = await client.post(f"/v1/models/{model}:predict", json={"instances": [{}]})
        except httpx.HTTPError as error:
            load.statuses[type(error).__name__] += 1
            return
        load.statuses[answer.status_code] += 1
        load.servers[answer.headers.get("x-test-server", "")] += 1

    async def run() -> None:
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        async with httpx.AsyncClient(
            base_url=gateway_url(platform.environment), headers=platform.bearer("predict"), limits=limits, timeout=20
        ) as client:
            changes = asyncio.create_task(asyncio.to_thread(during))
            await asyncio.gather(*(send(client, number / rate) for number in range(count)))
            await changes

    asyncio.run(run())
    return load


def test_changes_of_traffic_under_load_lose_no_request(platform: Platform) -> None:
    platform.start_version("beta", 1, 2, 3)
    environment = platform.environment
    traffic.set_traffic(environment, "beta", Traffic(1))

    def change() -> None:
        for wanted in (
            Traffic(1, 2, 10), Traffic(1, 2, 50), Traffic(2, None, 0, 1), Traffic(2, 3, 25, 1), Traffic(2, None, 0, 1),
            Traffic(2, 3, 0, 1), Traffic(2, 3, 99, 1), Traffic(3, None, 0, 2), Traffic(1, None, 0, None), Traffic(2),
        ):  # fmt: skip
            traffic.set_traffic(environment, "beta", wanted)
            assert traffic.read_traffic(environment, "beta") == wanted
            time.sleep(0.2)

    load = run_load(platform, "beta", count=900, rate=150, during=change)
    assert load.failed == 0, load.statuses
    assert {"beta-1", "beta-2", "beta-3"} == set(load.servers)


def test_the_new_version_answers_as_soon_as_traffic_is_set(platform: Platform) -> None:
    platform.start_version("gamma", 1, 2)
    for version in (1, 2, 1, 2):
        traffic.set_traffic(platform.environment, "gamma", Traffic(version))
        answers = [
            platform.ask("/v1/models/gamma:predict", "POST", headers=platform.bearer("predict")).headers[
                "x-test-server"
            ]
            for _ in range(10)
        ]
        assert answers == [f"gamma-{version}"] * 10


def test_answers_are_counted_per_version_exactly_and_mirrored_copies_are_not(platform: Platform) -> None:
    platform.start_version("delta", 1, 2)
    environment = platform.environment
    traffic.set_traffic(environment, "delta", Traffic(1, 2, 30))
    load = run_load(platform, "delta", count=400, rate=200, during=lambda: None)
    assert load.failed == 0
    wait_for(lambda: len(platform.requests("delta-1")) + len(platform.requests("delta-2")) == 800, "all mirrored", 10)
    counts = traffic.count_answers(environment, "delta")
    assert {version: count.total for version, count in counts.items()} == {
        1: load.servers["delta-1"],
        2: load.servers["delta-2"],
    }
    assert {count.errors for count in counts.values()} == {0}
    # The share is a coin thrown 400 times: six standard deviations are 55.
    assert abs(load.servers["delta-2"] - 120) < 55
    wait_for(lambda: traffic.count_answers(environment, "delta")[1].latency_p95 is not None, "latency is counted", 10)
    count = traffic.count_answers(environment, "delta")[1]
    assert 0 < (count.latency_p50 or 0) <= (count.latency_p95 or 0) < 5


def test_each_request_is_mirrored_to_the_other_version_under_the_same_prediction_id(platform: Platform) -> None:
    platform.start_version("epsilon", 1, 2)
    traffic.set_traffic(platform.environment, "epsilon", Traffic(1, 2, 50))
    bearer = platform.bearer("predict")
    forged = {"x-slipway-mirrored": "1"}
    for number in range(40):
        own = {"x-prediction-id": f"own-{number}"} if number % 2 else {}
        # Without an id of its own a client may still send the tracing id of its whole batch: it must not become the id.
        headers = {**bearer, **own, **forged, "x-request-id": "a2b7c3d4-0000-4000-8000-000000000000"}
        assert platform.ask("/v1/models/epsilon:predict", "POST", headers=headers).status_code == 200
    wait_for(lambda: all(len(platform.requests(f"epsilon-{v}")) == 40 for v in (1, 2)), "both saw all", 10)
    delivered: list[str] = []
    mirrored: list[str] = []
    for version in (1, 2):
        for headers in platform.requests(f"epsilon-{version}"):
            assert headers["host"] == platform.host("portal")
            (mirrored if headers.get("x-slipway-mirrored") == "1" else delivered).append(headers["x-prediction-id"])
    assert len(delivered) == len(set(delivered)) == 40
    assert sorted(delivered) == sorted(mirrored)
    assert {f"own-{number}" for number in range(1, 40, 2)} <= set(delivered)
    made = [name for name in delivered if not name.startswith("own-")]
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in made)


@pytest.mark.parametrize("victim", ["challenger", "champion"])
def test_a_killed_versions_share_is_answered_by_another(platform: Platform, victim: str) -> None:
    model = f"zeta_{victim}"
    platform.start_version(model, 1, 2, 3)
    environment = platform.environment
    traffic.set_traffic(environment, model, Traffic(2, 3, 50, 1))
    version = {"challenger": 3, "champion": 2}[victim]

    def kill() -> None:
        time.sleep(1.0)
        platform.kill(f"{model}-{version}")

    load = run_load(platform, model, count=600, rate=150, during=kill)
    assert load.failed <= 6, load.statuses  # what was being answered in the moment of the kill
    # A dead challenger's share goes to the champion, a dead champion's to the previous one, never to the challenger.
    heir = {"challenger": f"{model}-2", "champion": f"{model}-1"}[victim]
    assert load.servers[heir] > 150, load.servers
    counts = traffic.count_answers(environment, model)
    assert counts[version].errors > 100
    assert all(count.errors <= load.failed for other, count in counts.items() if other != version)


def test_a_failing_version_is_counted_by_attempt_although_clients_get_answers(platform: Platform) -> None:
    platform.start_version("eta", 1, 2)
    traffic.set_traffic(platform.environment, "eta", Traffic(1, 2, 99))
    headers = {**platform.bearer("predict"), "x-test-status-eta-2": "500"}
    for _ in range(30):
        answer = platform.ask("/v1/models/eta:predict", "POST", headers=headers)
        assert (answer.status_code, answer.headers["x-test-server"]) == (200, "eta-1")
    counts = traffic.count_answers(platform.environment, "eta")
    assert counts[2].errors == counts[2].total >= 20
    assert counts[1].errors == 0
    assert counts[1].total == 30


def test_a_request_in_flight_is_answered_by_the_version_that_leaves(platform: Platform) -> None:
    platform.start_version("theta", 1, 2)
    environment = platform.environment
    traffic.set_traffic(environment, "theta", Traffic(1))

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(base_url=gateway_url(environment), timeout=20) as client:
            headers = {**platform.bearer("predict"), "x-test-delay": "1.5"}
            slow = asyncio.create_task(client.post("/v1/models/theta:predict", headers=headers))
            await asyncio.sleep(0.4)
            await asyncio.to_thread(traffic.set_traffic, environment, "theta", Traffic(2))
            assert not slow.done()
            return await slow

    answer = asyncio.run(run())
    assert (answer.status_code, answer.headers["x-test-server"]) == (200, "theta-1")
    with pytest.raises(NotReady):
        traffic.remove_traffic(environment, "theta")
        traffic.count_answers(environment, "theta")


def test_traffic_that_makes_no_sense_changes_nothing(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    for wrong in (Traffic(1, 2, 101), Traffic(1, None, 10), Traffic(1, 1, 10)):
        with pytest.raises(InvalidInput):
            traffic.set_traffic(platform.environment, "alpha", wrong)
    assert traffic.read_traffic(platform.environment, "alpha") == Traffic(1)


def test_routes_that_envoy_refuses_leave_the_former_ones_in_force(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = platform.environment
    traffic.set_traffic(environment, "alpha", Traffic(1))
    before = (envoy.folder_of(environment) / "gateway.json").read_text()
    real = envoy.documents

    def with_an_unknown_cluster(*given: Any) -> dict[str, Any]:
        documents = real(*given)
        if given[1]["alpha"].champion == 2:
            text = json.dumps(documents["gateway.json"]).replace("alpha-2-first", "nowhere")
            documents["gateway.json"] = {**json.loads(text), "version_info": "broken"}
        return documents

    monkeypatch.setattr(envoy, "documents", with_an_unknown_cluster)
    with pytest.raises(NotReady, match=r"refuses gateway\.json"):
        traffic.set_traffic(environment, "alpha", Traffic(2))
    monkeypatch.undo()
    assert traffic.read_traffic(environment, "alpha") == Traffic(1)
    assert (envoy.folder_of(environment) / "gateway.json").read_text() == before
    answer = platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict"))
    assert answer.headers["x-test-server"] == "alpha-1"
    traffic.set_traffic(environment, "alpha", Traffic(3))


def test_predictions_go_on_while_the_portal_and_the_registry_are_down(platform: Platform) -> None:
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))
    for name in ("portal", "mlflow"):
        platform.kill(name)
    try:
        answer = platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict"))
        assert answer.status_code == 200
        assert platform.ask("/", headers=platform.bearer("read")).status_code == 503
    finally:
        platform.start("portal", [sys.executable, "-m", "slipway.portal"])
        platform.start_tiny("mlflow", socket_of(platform.environment, "mlflow"))
        wait_for(lambda: platform.ask("/login").status_code == 200, "the portal answers")


def test_a_killed_envoy_comes_back_with_the_traffic_that_was_in_force(platform: Platform) -> None:
    environment = platform.environment
    wanted = Traffic(2, 3, 40, 1)
    traffic.set_traffic(environment, "alpha", wanted)
    before = traffic.count_answers(environment, "alpha")[2].counting_since
    platform.kill("envoy")
    with pytest.raises(NotReady):
        traffic.set_traffic(environment, "alpha", Traffic(1))
    with pytest.raises(NotReady):
        traffic.count_answers(environment, "alpha")
    platform.start_envoy()
    assert traffic.read_traffic(environment, "alpha") == wanted
    servers = {
        platform.ask("/v1/models/alpha:predict", "POST", headers=platform.bearer("predict")).headers["x-test-server"]
        for _ in range(40)
    }
    assert servers == {"alpha-2", "alpha-3"}
    after = traffic.count_answers(environment, "alpha")[2].counting_since
    assert before is not None
    assert after is not None
    assert after > before


def test_a_hanging_versions_share_is_answered_by_another_and_counted_against_it(platform: Platform) -> None:
    platform.start_version("iota", 1, 2)
    traffic.set_traffic(platform.environment, "iota", Traffic(1, None, 0, 2))
    platform.processes["iota-1"].send_signal(signal.SIGSTOP)
    try:
        answer = platform.ask("/v1/models/iota:predict", "POST", headers=platform.bearer("predict"))
        assert (answer.status_code, answer.headers["x-test-server"]) == (200, "iota-2")
        assert traffic.count_answers(platform.environment, "iota")[1].errors == 1
    finally:
        platform.processes["iota-1"].send_signal(signal.SIGCONT)


def test_with_a_certificate_the_gateway_speaks_tls_only(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "ml.example.org")
    settings = tmp_path / "tls.toml"
    paths = f'tls_certificate = "{certificate}"\ntls_key = "{key}"'
    settings.write_text(f'name = "tls"\nstate_dir = "{tmp_path / "state"}"\n[gateway]\n{paths}\n')
    environment = open_environment(str(settings))
    environment.state.prepare()
    keep_ports(environment)
    found = Platform(environment, tmp_path)
    try:
        found.start_envoy()
        address = gateway_url(environment)
        trusted = ssl.create_default_context(cafile=str(certificate))
        trusted.check_hostname = False  # it is reached by its address
        with httpx.Client(verify=trusted, base_url=address) as client:
            for name, status in (("ml.example.org", 401), ("localhost", 401), ("evil.example", 421)):
                assert client.post("/v1/models/m:predict", headers={"host": name}).status_code == status
        with pytest.raises(httpx.HTTPError):
            httpx.get(address.replace("https", "http") + "/login")
    finally:
        found.kill("envoy")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), 1, now, now + timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    signed = builder.add_extension(names, critical=False).sign(private, hashes.SHA256())
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, *plain))
    return certificate, key


def test_draining_waits_for_requests_in_flight(platform: Platform) -> None:
    """The last test: afterwards Envoy takes no more connections."""
    traffic.set_traffic(platform.environment, "alpha", Traffic(1))

    async def run() -> int:
        async with httpx.AsyncClient(base_url=gateway_url(platform.environment), timeout=20) as client:
            headers = {**platform.bearer("predict"), "x-test-delay": "1.2"}
            slow = asyncio.create_task(client.post("/v1/models/alpha:predict", headers=headers))
            await asyncio.sleep(0.3)
            await asyncio.to_thread(envoy.drain, platform.environment)
            platform.processes["envoy"].terminate()
            return (await slow).status_code

    assert asyncio.run(run()) == 200
