"""What the platform's own pods are told, and that it is read as it was meant."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.components import platform_pod
from slipway import pod as pods
from slipway.endpoints import dashboard_url, gateway_url, registry_url
from slipway.environment import VARIABLE, Environment
from slipway.errors import InvalidSettings, NotReady
from slipway.pod import Pod, find_pod
from slipway.registry import authorization_of
from slipway.settings import Settings, load_settings
from slipway.targets.local.doors import door_of
from slipway.tokens import read_token
from tests.infra.recorded_stack import settings_of


def told(folder: Path, **kubernetes: object) -> Settings:
    file = folder / "environment.json"
    file.write_text(platform_pod.environment_file(settings_of(folder, **kubernetes)))
    return load_settings(str(file))[1]


def test_a_pod_reads_the_settings_that_were_given_but_for_what_is_of_another_machine(tmp_path: Path) -> None:
    given = {
        "provider": "existing",
        "context": "laptop",
        "kubeconfig": "/home/ann/.kube/config",
        "domain": "ml.example",
    }
    settings = told(tmp_path, **given)
    assert settings.kubernetes is not None
    assert (settings.kubernetes.kubeconfig, settings.kubernetes.context) == (None, "")
    assert settings.kubernetes.domain == "ml.example"
    assert settings.clock.source == "utc"
    assert str(settings.state_dir) == platform_pod.FOLDER


@pytest.mark.parametrize("profile", ["core", "full"])
def test_both_profiles_come_through_whole(profile: str, tmp_path: Path) -> None:
    before = settings_of(tmp_path, profile=profile).kubernetes
    after = told(tmp_path, profile=profile).kubernetes
    assert before is not None
    assert after is not None
    assert after.parts == before.parts


def test_every_variable_is_one_that_is_read() -> None:
    variables = platform_pod.variables("http://registry:5000", listen=8080)
    assert set(variables) == {"HOME", VARIABLE, pods.SECRETS, pods.REGISTRY, pods.LISTEN}
    pod = find_pod(variables)
    assert pod is not None
    assert pod.listen == ("0.0.0.0", 8080)  # noqa: S104 -- compared, not bound
    assert pod.registry_url == "http://registry:5000"


def test_without_its_variable_there_is_no_pod() -> None:
    assert find_pod({pods.LISTEN: "127.0.0.1:1"}) is None


@pytest.mark.parametrize("address", ["8080", ":8080", "host:", "host:0", "host:65536", "host:http"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InvalidSettings, match="is no address and port"):
        find_pod({pods.SECRETS: "/x", pods.LISTEN: address})


def test_a_secret_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"database/url: No such file"):
        _ = Pod(tmp_path).database_url


def test_a_pods_process_finds_everything_where_it_was_told(tmp_path: Path) -> None:
    secrets = {"database/url": "postgresql+psycopg2://u:p@h:5432/d?sslmode=require", "tokens/predict": "token-1\n"}
    secrets |= {"registry/username": "slipway", "registry/password": "hidden"}
    for name, text in secrets.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = Environment(
        tmp_path / "x", told(tmp_path, domain="ml.example"), Pod(tmp_path, "http://registry:5000")
    )
    assert environment.state.ledger_url == "postgresql+psycopg://u:p@h:5432/d?sslmode=require"
    assert environment.state.labels_url == environment.state.ledger_url
    assert read_token(environment, "predict") == "token-1"
    assert registry_url(environment) == "http://registry:5000"
    assert authorization_of(environment) == "Basic c2xpcHdheTpoaWRkZW4="
    assert gateway_url(environment) == "https://portal.ml.example"
    assert dashboard_url(environment, "mlflow") == "https://mlflow.ml.example"
    assert [door_of(environment, f"{name}.ml.example") for name in ("portal", "mlflow", "x")] == [
        "portal",
        "mlflow",
        None,
    ]


def test_a_process_is_alive_while_its_heartbeat_is_young(tmp_path: Path) -> None:
    command = [sys.executable, *platform_pod.alive("controller")[1:-2], str(tmp_path / "beat"), "300"]

    def asked() -> int:
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert asked() != 0, "it has not beaten yet"
    (tmp_path / "beat").touch()
    assert asked() == 0
    os.utime(tmp_path / "beat", (0, time.time() - 301))
    assert asked() != 0
