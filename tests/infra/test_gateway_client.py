"""`slipway token login` where no portal is reached: what is said, and what to do."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from slipway import tokens
from slipway.environment import Environment
from slipway.errors import InvalidInput, NotReady
from slipway.gateway_client import request_code
from slipway.settings import Settings
from slipway.targets.kubernetes import names
from tests.infra.api_server import ApiServer, kubeconfig
from tests.infra.recorded_stack import settings_of

SECRET = f"/api/v1/namespaces/{names.GATEWAY_NAMESPACE}/secrets/{names.TLS}"
GATEWAY = f"/apis/gateway.networking.k8s.io/v1/namespaces/{names.GATEWAY_NAMESPACE}/gateways/{names.GATEWAY}"
NOWHERE = "ml.example.invalid"
"""No name below it is ever resolved."""


def environment_of(folder: Path, **kubernetes: Any) -> Environment:
    found = Environment(folder / "test.toml", settings_of(folder / "state", domain=NOWHERE, **kubernetes))
    tokens.prepare(found)
    return found


@pytest.fixture
def environment(tmp_path: Path, server: ApiServer, certificate: tuple[Path, Path]) -> Environment:
    return environment_of(tmp_path, kubeconfig=str(kubeconfig(tmp_path, server.address, certificate[0])))


def test_before_the_first_up_there_is_no_token_to_ask_with(tmp_path: Path) -> None:
    never_up = Environment(tmp_path / "test.toml", settings_of(tmp_path / "state"))
    with pytest.raises(NotReady, match=r"no token for role read\nhint: slipway up"):
        request_code(never_up, "read")


def test_a_cluster_without_our_gateway_is_not_up(environment: Environment) -> None:
    with pytest.raises(NotReady, match=r"test is not up: its cluster has no gateway\nhint: slipway up"):
        request_code(environment, "read")


def test_a_cluster_of_ours_that_was_not_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"kubeconfig is not there\n  hint: make up"):
        request_code(environment_of(tmp_path, provider="kind"), "read")


@pytest.mark.parametrize(
    ("addresses", "hint"),
    [(["192.0.2.7", "192.0.2.8"], "192.0.2.7, 192.0.2.8"), ([], "the gateway, which has no address yet: kubectl -n")],
)
def test_a_name_that_leads_nowhere_is_said_with_where_it_must_lead(
    environment: Environment, server: ApiServer, certificate: tuple[Path, Path], addresses: list[str], hint: str
) -> None:
    server.answers[SECRET] = {"data": {"ca.crt": b64encode(certificate[0].read_bytes()).decode()}}
    server.answers[GATEWAY] = {"status": {"addresses": [{"value": value} for value in addresses]}}
    with pytest.raises(NotReady) as error:
        request_code(environment, "read")
    assert f"does not answer at https://portal.{NOWHERE}" in error.value.message
    assert error.value.hint.startswith(f"*.{NOWHERE} must lead to {hint}")
    assert tokens.read_token(environment, "read") not in str(error.value)


def test_a_gateway_of_this_machine_that_does_not_run_is_not_ready(tmp_path: Path) -> None:
    local = Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"))
    tokens.prepare(local)
    (local.state.run / "ports.json").write_text('{"gateway": 9, "registry": 9, "ray_dashboard": 9}')
    with pytest.raises(NotReady, match="hint: slipway status"):
        request_code(local, "read")
