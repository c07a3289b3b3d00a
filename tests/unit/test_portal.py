"""The portal: its decisions, its pages, the labels API, and browser sessions."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from slipway import tokens
from slipway.clock import ReplayClock
from slipway.environment import Environment
from slipway.ledger import alarms, events, monitors, open_ledger, progress, releases, versions
from slipway.portal.app import create_app
from slipway.portal.authorization import Asked, cookie_name, decide
from slipway.portal.overview import Event, Finding
from slipway.portal.pages import chart, title_of
from slipway.sessions import CODE_LIFETIME, SESSION_LIFETIME, Session, SessionStore
from slipway.settings import Settings

NOW = datetime(2013, 9, 14, 6, tzinfo=UTC)
HOST = "localhost:8080"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    found = Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))
    tokens.prepare(found)
    (found.state.secrets / "ray_token").write_text("rays-own-token\n")
    clock = found.clock
    assert isinstance(clock, ReplayClock)
    clock.set(NOW)
    return found


class Client:
    """Asks the application itself, without a server."""

    def __init__(self, environment: Environment) -> None:
        self.application = create_app(environment)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)


@pytest.fixture
def portal(environment: Environment) -> Client:
    return Client(environment)


def bearer(environment: Environment, role: tokens.Role) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens.read_token(environment, role)}"}


def status(environment: Environment, method: str = "GET", path: str = "/", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return decide(environment, SessionStore(environment), Asked(method, path, {"host": HOST, **named})).status


# --- authorization ------------------------------------------------------------------------------------------------


def test_a_page_is_for_readers_and_operators(environment: Environment) -> None:
    assert status(environment) == 401
    assert status(environment, authorization="Bearer wrong") == 401
    assert status(environment, authorization="Basic abc") == 401
    found = {role: status(environment, **bearer(environment, role)) for role in tokens.ROLES}
    assert found == {"predict": 403, "labels": 403, "read": 200, "operate": 200, "internal": 403}


def test_a_wrong_token_is_not_helped_by_a_good_cookie(environment: Environment) -> None:
    value, _ = log_in(environment)
    cookie = f"{cookie_name(environment)}={value}"
    assert status(environment, cookie=cookie) == 200
    assert status(environment, cookie=cookie, authorization="Bearer wrong") == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_a_foreign_host_or_origin_is_refused_before_anything_else(environment: Environment, method: str) -> None:
    token = bearer(environment, "operate")
    assert status(environment, method, host="evil.example", **token) == 421
    for origin in ("http://evil.example", "null", "", f"https://{HOST}", "http://localhost", f"http://x@{HOST}"):
        assert status(environment, method, origin=origin, **token) == 403, origin
    assert status(environment, method, origin=f"http://{HOST}", **token) != 403
    assert status(environment, method, sec_fetch_site="cross-site", sec_fetch_mode="cors", **token) == 403


def test_one_dashboard_may_not_call_another(environment: Environment) -> None:
    headers = {**bearer(environment, "operate"), "host": "mlflow.localhost:8080", "origin": "http://ray.localhost:8080"}
    assert status(environment, "POST", "/api/x", **headers) == 403


def test_rays_token_is_added_for_ray_alone(environment: Environment) -> None:
    token = bearer(environment, "read")
    for door, expected in (("ray", {"x-ray-authorization": "Bearer rays-own-token"}), ("mlflow", {})):
        decision = decide(
            environment, SessionStore(environment), Asked("GET", "/", {"host": f"{door}.localhost:8080", **token})
        )
        assert decision.upstream_headers == expected


def test_an_unknown_path_is_told_to_those_who_may_look(environment: Environment) -> None:
    assert status(environment, path="/nowhere") == 401
    assert status(environment, path="/nowhere", **bearer(environment, "read")) == 404
    assert status(environment, "DELETE", "/", **bearer(environment, "read")) == 405
    assert status(environment, path="/authorize/", **bearer(environment, "operate")) == 404


# --- sessions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(environment: Environment) -> Iterator[SessionStore]:
    found = SessionStore(environment)
    yield found
    found.close()


def log_in(environment: Environment, role: tokens.Role = "read", door: str = "portal") -> tuple[str, Session]:
    store = SessionStore(environment)
    found = store.exchange(store.issue_code(role, door), door)
    store.close()
    assert found is not None
    return found


def test_a_code_works_once_at_its_own_door(store: SessionStore) -> None:
    code = store.issue_code("read")
    assert store.exchange(code, "portal") is not None
    assert store.exchange(code, "portal") is None
    other = store.issue_code("read", "mlflow")
    assert store.exchange(other, "portal") is None
    assert store.exchange(other, "mlflow") is None  # tried at the wrong door: spent
    assert store.exchange("guessed", "portal") is None


def test_of_many_who_spend_a_code_at_once_one_gets_in(environment: Environment, store: SessionStore) -> None:
    code = store.issue_code("read")
    start = threading.Barrier(8)

    def spend(_: int) -> object:
        mine = SessionStore(environment)  # as every portal has its own
        start.wait()
        found = mine.exchange(code, "portal")
        mine.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert sum(found is not None for found in pool.map(spend, range(8))) == 1


def test_codes_and_sessions_expire(
    environment: Environment, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = store.issue_code("read")
    value, _ = log_in(environment)
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + CODE_LIFETIME + 1)
    assert store.exchange(code, "portal") is None
    assert store.find(value, "portal") is not None
    monkeypatch.setattr(time, "time", lambda: start + SESSION_LIFETIME + 1)
    assert store.find(value, "portal") is None


def test_nothing_on_disk_lets_a_reader_of_the_disk_in(environment: Environment, store: SessionStore) -> None:
    code = store.issue_code("read")
    value, _ = log_in(environment)
    files = list(environment.state.secrets.glob("sessions.db*"))
    assert files
    held = b"".join(path.read_bytes() for path in files)
    assert b"portal" in held
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
    for secret in (code, value, tokens.read_token(environment, "read")):
        assert secret.encode() not in held


def test_logging_out_of_the_portal_ends_the_dashboards_sessions(environment: Environment, store: SessionStore) -> None:
    value, root = log_in(environment)
    spent = store.exchange(store.issue_code("read", "mlflow", parent=root), "mlflow")
    assert spent is not None
    child = spent[0]
    late = store.issue_code("read", "reports", parent=root)
    assert store.find(child, "mlflow") is not None
    assert store.find(child, "portal") is None
    other, _ = log_in(environment)
    store.end(root)
    assert store.find(value, "portal") is None
    assert store.find(child, "mlflow") is None
    assert store.exchange(late, "reports") is None
    assert store.find(other, "portal") is not None


def test_rotating_a_role_logs_its_browsers_out(environment: Environment, store: SessionStore) -> None:
    reader, _ = log_in(environment, "read")
    operator, _ = log_in(environment, "operate")
    spent = store.exchange(store.issue_code("read"), "portal")
    unused = store.issue_code("read")
    tokens.rotate(environment, ["read"])
    assert spent is not None
    assert store.find(reader, "portal") is None
    assert store.find(spent[0], "portal") is None
    assert store.find(operator, "portal") is not None
    opened = store.exchange(unused, "portal")
    assert opened is None or store.find(opened[0], "portal") is None


def test_a_token_makes_a_login_of_its_own_role_and_a_cookie_makes_none(
    environment: Environment, portal: Client, store: SessionStore
) -> None:
    for role in ("read", "operate"):
        answer = portal.post("/api/login", headers=bearer(environment, role))
        spent = store.exchange(answer.json()["code"], "portal")
        assert spent is not None
        assert spent[1].role == role
    value, _ = log_in(environment, "operate")
    cookie = {"cookie": f"{cookie_name(environment)}={value}"}
    for refused in (cookie, {}, bearer(environment, "predict"), {"authorization": "Bearer wrong"}):
        assert portal.post("/api/login", headers=refused).status_code == 403
    assert status(environment, "POST", "/api/login", **bearer(environment, "labels")) == 403
    assert status(environment, "POST", "/api/login") == 401


def test_tokens_count_while_the_database_of_logins_is_away(
    environment: Environment, portal: Client, store: SessionStore
) -> None:
    value, _ = log_in(environment)
    for file in environment.state.secrets.glob("sessions.db*"):
        file.unlink()
    (environment.state.secrets / "sessions.db").mkdir()
    asked = "/authorize/"
    assert portal.get(asked, headers=bearer(environment, "read")).status_code == 200
    answer = portal.get(asked, headers={"cookie": f"{cookie_name(environment)}={value}"})
    assert answer.status_code == 503
    assert value not in answer.text


# --- pages --------------------------------------------------------------------------------------------------------


def fill(environment: Environment) -> None:
    ledger = open_ledger(environment)
    gate: dict[str, Any] = {"metric": "auc", "value": 0.741, "interval": [0.73, 0.752], "reasons": []}
    with ledger.transaction() as session:
        versions.add(session, "flight_delay", 1, digest="a" * 64, gate=gate, passed=True, as_of=NOW)
        releases.promote(
            session, "flight_delay", 1, epoch=0, actor="<b>mallory</b>", reason="<script>x</script>", as_of=NOW
        )
        for week in range(3):
            start = NOW - timedelta(days=7 * (4 - week))
            monitors.store(
                session, model="flight_delay", kind="performance", version=1, epoch=1, window_start=start,
                window_end=start + timedelta(days=7), verdict="good", metric=0.7 + week / 100,
                numbers={"reason": "AUC 0.7 <i>"}, report="", as_of=NOW,
            )  # fmt: skip
        alarms.raise_alarm(session, key="k", model="flight_delay", kind="starving", message="a & b", as_of=NOW)
        progress.report(session, "monitor", NOW)
    ledger.close()


def test_the_page_shows_what_is_released_and_why(environment: Environment, portal: Client) -> None:
    fill(environment)
    page = portal.get("/").text
    for shown in ("flight_delay", "v1", "0.741", "Version 1 promoted to champion", "a &amp; b", "2013-09-14 06:00"):
        assert shown in page
    assert "<svg" in page
    assert portal.get("/models/flight_delay").status_code == 200


def test_pages_escape_everything_and_run_no_script(environment: Environment, portal: Client) -> None:
    fill(environment)
    answer = portal.get("/")
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "<b>mallory" not in answer.text
    assert " style=" not in answer.text  # the policy would drop it
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    for name in ("x-content-type-options", "referrer-policy", "x-frame-options"):
        assert name in answer.headers


def test_status_tells_the_same_facts_as_json(environment: Environment, portal: Client) -> None:
    fill(environment)
    facts = portal.get("/api/status").json()
    (model,) = (entry for entry in facts["models"] if entry["name"] == "flight_delay")
    assert (model["champion"], model["epoch"], model["challenger"]) == (1, 1, None)
    assert [entry["metric"] for entry in model["performance"]] == [0.7, 0.71, 0.72]
    assert facts["as_of"] == "2013-09-14T06:00:00+00:00"


def test_an_empty_platform_has_a_page_too(portal: Client) -> None:
    assert "Nothing has happened yet" in portal.get("/").text


def test_a_missing_page_is_told_in_the_form_that_was_asked_for(portal: Client) -> None:
    assert portal.get("/models/nobody").json()["error"] == "model 'nobody' does not exist"
    page = portal.get("/models/nobody", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (404, "text/html")


def test_a_chart_needs_two_numbers_and_stays_inside_its_frame() -> None:
    def finding(day: int, metric: float | None) -> Finding:
        moment = NOW + timedelta(days=day)
        return Finding("performance", "good", metric, 1, moment, moment, "", "")

    assert chart([finding(0, 0.7), finding(7, None)], 0.75) == {}
    drawn = chart([finding(0, 0.7), finding(7, 0.71), finding(14, 0.69)], 0.75)
    assert len(drawn["dots"]) == 3
    assert all(0 <= dot["x"] <= drawn["width"] and 0 <= dot["y"] <= drawn["height"] for dot in drawn["dots"])
    assert drawn["line"] < min(dot["y"] for dot in drawn["dots"])


def test_every_event_has_a_title() -> None:
    assert title_of(Event(1, "promoted", "x", NOW, {"version": 3})) == "Version 3 promoted to champion"
    assert title_of(Event(1, "promoted", "x", NOW, {})) == "Promoted"
    assert title_of(Event(1, "brand_new_kind", "x", NOW, {})) == "Brand new kind"


# --- labels -------------------------------------------------------------------------------------------------------


def label(**changes: object) -> dict[str, object]:
    known_at = (NOW - timedelta(hours=1)).isoformat()
    return {"model": "flight_delay", "prediction_id": "prediction-1", "value": 1, "known_at": known_at, **changes}


def post(portal: Client, *labels: dict[str, object]) -> tuple[int, dict[str, Any]]:
    answer = portal.post("/api/labels", json={"labels": list(labels)})
    return answer.status_code, answer.json()


def test_a_label_is_taken_and_the_same_again_changes_nothing(portal: Client) -> None:
    assert post(portal, label()) == (
        200, {"accepted": 1, "repeated": 0, "pending": 1, "late": 0, "refused": 0, "problems": []},
    )  # fmt: skip
    code, again = post(portal, label())
    assert (code, again["accepted"], again["repeated"]) == (200, 1, 1)


def test_good_labels_count_although_others_in_the_call_are_wrong(portal: Client) -> None:
    code, found = post(portal, label(), label(prediction_id="prediction-2", value=2), label(model="nobody"))
    assert (code, found["accepted"], found["refused"]) == (200, 1, 2)
    assert {problem["where"] for problem in found["problems"]} == {"labels.1.value", "labels.2.model"}
    assert "one of: flight_delay" in next(p["text"] for p in found["problems"] if p["where"] == "labels.2.model")


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "1"},
        {"value": True},
        {"value": 0.5},
        {"known_at": "2013-09-14T05:00:00"},
        {"known_at": "yesterday"},
        {"known_at": (NOW + timedelta(days=1)).isoformat()},
        {"prediction_id": ""},
        {"prediction_id": "../../etc/passwd"},
        {"model": "../flight_delay"},
        {"surprise": 1},
    ],
)
def test_a_wrong_label_is_refused_with_its_reason(portal: Client, wrong: dict[str, object]) -> None:
    code, found = post(portal, label(**wrong))
    assert (code, found["accepted"], found["refused"]) == (422, 0, 1)
    assert found["problems"][0]["text"]


@pytest.mark.parametrize("body", ["", "{", "[]", '{"labels": 1}', '{"labels": [], "x": 1}', "[" * 100_000, "\xff"])
def test_a_body_that_is_no_list_of_labels_is_told_so(portal: Client, body: str) -> None:
    answer = portal.post("/api/labels", content=body.encode("latin-1"))
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["where"] in ("body", "labels")


def test_too_many_labels_and_too_large_bodies_are_refused(portal: Client) -> None:
    many = json.dumps({"labels": [label()] * 10_001})
    assert portal.post("/api/labels", content=many).status_code == 422
    assert portal.post("/api/labels", content=b"x" * ((8 << 20) + 1)).status_code == 413


def test_the_ledger_hears_nothing_of_labels(environment: Environment, portal: Client) -> None:
    post(portal, label())
    ledger = open_ledger(environment)
    with ledger.read() as session:
        assert events.count(session) == 0
    ledger.close()
