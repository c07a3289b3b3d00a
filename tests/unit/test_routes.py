"""The route table and the configuration that is generated from it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, get_args

import pytest

from slipway.environment import Environment
from slipway.settings import GatewaySettings, Settings
from slipway.targets import Traffic
from slipway.targets.local import routes, xds
from slipway.targets.local.bootstrap import bootstrap
from slipway.targets.local.doors import door_of, hosts_of
from slipway.tokens import ROLES

KEY_CHECK, PORTAL_CHECK = "envoy.filters.http.api_key_auth", "envoy.filters.http.ext_authz"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))


@pytest.fixture
def gateway(environment: Environment) -> xds.Gateway:
    traffic = {"flight_delay": Traffic(3, 4, 10, 2), "taxi": Traffic(1)}
    versions = [f"{model}-{v}" for model, share in traffic.items() for v in xds.versions_of(share)]
    sockets = {name: Path(f"/run/{name}.sock") for name in ("portal", "mlflow", "reports", *versions)}
    tokens = {role: f"token-of-{role}" for role in ROLES}
    return xds.Gateway(hosts_of(environment), tokens, traffic, sockets, ray_port=8265)


def generated(gateway: xds.Gateway) -> list[dict[str, Any]]:
    tables = (xds.gateway_routes(gateway), xds.registry_routes(gateway))
    return [route for table in tables for host in table["virtual_hosts"] for route in host["routes"]]


def test_every_route_has_a_rule() -> None:
    for route in routes.ROUTES:
        assert (route.name in routes.OPEN) == (route.check == "open")
        assert bool(route.roles) == (route.check != "open"), f"{route.name} names no role and is not declared open"
        assert set(route.roles) <= set(ROLES)
        assert route.door in get_args(routes.Door)
    names = [route.name for route in routes.ROUTES]
    assert len(names) == len(set(names))
    assert set(names) >= routes.OPEN


def test_what_is_open_takes_only_get_and_changes_nothing_but_a_login() -> None:
    for route in routes.ROUTES:
        if route.check == "open":
            assert set(route.methods) <= {"GET", "HEAD"}
            assert "login" in route.path or "static" in route.path
            assert route.upstream == "portal"


def test_every_generated_route_is_guarded_by_one_check_unless_it_is_declared_open(gateway: xds.Gateway) -> None:
    open_paths = {
        route.regex if not route.is_literal else route.path for route in routes.ROUTES if route.check == "open"
    }
    for route in generated(gateway):
        filters = route["typed_per_filter_config"]
        by_key = "allowed_clients" in filters.get(KEY_CHECK, {})
        by_portal = PORTAL_CHECK not in filters
        path = route["match"].get("path") or route["match"].get("safe_regex", {}).get("regex")
        if path in open_paths or route.get("direct_response", {}).get("status") == 421:
            assert not by_key
            assert not by_portal
        else:
            assert by_key != by_portal, path
        if by_key:
            assert filters[KEY_CHECK]["allowed_clients"]
            assert filters[KEY_CHECK]["forwarding"] == {"hide_credentials": True}


def test_no_rule_is_hidden_behind_an_earlier_one() -> None:
    for door in get_args(routes.Door):
        for earlier, later in itertools.combinations(routes.routes_of(door), 2):
            covers = earlier.path == later.path or (earlier.path == "/*" and later.path != "/*")
            takes_all = not earlier.methods or (later.methods and set(later.methods) <= set(earlier.methods))
            assert not (covers and takes_all), f"{later.name} is never reached: {earlier.name} comes first"


@pytest.mark.parametrize(
    ("door", "method", "path", "name"),
    [
        ("portal", "POST", "/v1/models/flight_delay:predict", "predict-v1"),
        ("portal", "POST", "/v2/models/flight_delay/infer", "predict-v2"),
        ("portal", "GET", "/v2/models/flight_delay", "model-facts-v2"),
        ("portal", "GET", "/v1/models/flight_delay:predict", None),
        ("portal", "POST", "/v2/repository/models/flight_delay/unload", None),
        ("portal", "POST", "/v1/models/Flight:predict", None),
        ("portal", "GET", "/authorize/", None),
        ("portal", "GET", "/open/mlflow", "dashboard"),
        ("portal", "GET", "/open/elsewhere", None),
        ("portal", "GET", "/models/flight_delay/../x", None),
        ("mlflow", "POST", "/ajax-api/2.0/mlflow/runs/search", "mlflow-ajax-api/2.0/mlflow/runs/search"),
        ("mlflow", "POST", "/ajax-api/2.0/mlflow/runs/delete", "mlflow-change"),
        ("mlflow", "GET", "/", "mlflow-read"),
        ("ray", "POST", "/api/jobs/", "ray-change"),
        ("ray", "OPTIONS", "/", "ray-change"),
        ("registry", "PUT", "/api/2.0/mlflow-artifacts/artifacts/x", "registry"),
    ],
)
def test_a_request_meets_the_rule_that_was_meant(door: routes.Door, method: str, path: str, name: str | None) -> None:
    route = routes.find_route(door, method, path)
    assert (route.name if route else None) == name


def test_a_dashboard_is_changed_by_operators_only() -> None:
    for door in ("mlflow", "reports", "ray"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            route = routes.find_route(door, method, "/api/anything")
            assert route is not None
            assert route.roles == ("operate",)


@pytest.mark.parametrize(
    ("host", "door"),
    [
        ("localhost", "portal"),
        ("localhost:8080", "portal"),
        ("LOCALHOST:8080", "portal"),
        ("127.0.0.1:1", "portal"),
        ("[::1]:8080", "portal"),
        ("mlflow.localhost:8080", "mlflow"),
        ("ray.localhost", "ray"),
        ("evil.example", None),
        ("localhost.evil.example:8080", None),
        ("registry.localhost", None),
        ("mlflow.localhost.evil", None),
        ("", None),
    ],
)
def test_only_our_own_host_names_lead_to_a_door(environment: Environment, host: str, door: str | None) -> None:
    assert door_of(environment, host) == door


def test_names_of_the_certificate_are_served_and_wildcards_are_not(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, ["ml.example.org", "*.example.org"])
    settings = GatewaySettings(host="192.0.2.7", tls_certificate=certificate, tls_key=key)
    environment = Environment(tmp_path / "x.toml", Settings(name="test", state_dir=tmp_path, gateway=settings))
    assert door_of(environment, "ml.example.org") == "portal"
    assert door_of(environment, "reports.ml.example.org:443") == "reports"
    assert door_of(environment, "192.0.2.7") == "portal"
    assert door_of(environment, "other.example.org") is None


def test_another_address_than_loopback_is_served_with_tls_only_and_the_registry_never(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, ["ml.example.org"])
    settings = GatewaySettings(host="192.0.2.7", tls_certificate=certificate, tls_key=key)
    environment = Environment(tmp_path / "x.toml", Settings(name="test", state_dir=tmp_path, gateway=settings))
    ports = {"gateway": 443, "registry": 5000}
    document = bootstrap(environment, folder=tmp_path, admin=tmp_path / "admin.sock", ports=ports)
    front, registry = document["static_resources"]["listeners"]
    assert front["address"]["socket_address"]["address"] == "192.0.2.7"
    assert front["filter_chains"][0]["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    assert registry["address"]["socket_address"]["address"] == "127.0.0.1"


def test_listeners_do_not_share_their_ports_and_the_admin_side_is_private(environment: Environment) -> None:
    ports = {"gateway": 1, "registry": 2}
    document = bootstrap(environment, folder=Path("/x"), admin=Path("/x/admin.sock"), ports=ports)
    assert document["admin"]["address"]["pipe"]["mode"] == 0o600
    for listener in document["static_resources"]["listeners"]:
        assert listener["enable_reuse_port"] is False
        assert listener["address"]["socket_address"]["address"] == "127.0.0.1"
        filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        on = [entry["name"] for entry in filters if not entry.get("disabled")]
        assert on == [KEY_CHECK, PORTAL_CHECK, "envoy.filters.http.router"]


def make_certificate(folder: Path, names: list[str]) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(private, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    form, nobody = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(private.private_bytes(encoding, form, nobody))
    return folder / "cert.pem", folder / "key.pem"
