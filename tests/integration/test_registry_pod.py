"""The platform and the kubelet ask MLflow as its pod runs it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.components.workload import CERTIFICATE
from slipway import pod as pods
from slipway.bundle import verify_bundle
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.pod import Pod
from slipway.registry import Registry
from slipway.signing import public_key_of
from tests.cluster.lab.certificates import Authority
from tests.infra.recorded_stack import recorded
from tests.integration.registry_pod import NAME, RegistryPod, registry_pod
from tests.postgres_server import PostgresServer
from tests.s3_server import s3_server
from tests.unit.test_bundle import open_environment, write

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryPod]:
    folder = tmp_path_factory.mktemp("mlflow")
    with (
        PostgresServer() as postgres,
        s3_server() as objects,
        registry_pod(folder, recorded(), postgres.make_database(), objects) as started,
    ):
        yield started


def client(stage: RegistryPod, folder: Path, authority: Path) -> Registry:
    """A pod's, which is given this authority."""
    environment = open_environment(folder)
    secrets = folder / "secrets"
    told = {f"{pods.AUTHORITY}/ca.crt": authority.read_text()}
    told |= {f"{pods.LOGIN}/{name}": name for name in ("username", "password")}
    for name, text in told.items():
        (secrets / name).parent.mkdir(parents=True, exist_ok=True)
        (secrets / name).write_text(text)
    pod = Pod(secrets, stage.url)
    return Registry(Environment(environment.file, environment.settings, pod))


def test_a_bundle_goes_to_the_store_and_comes_back(stage: RegistryPod, tmp_path: Path) -> None:
    registry = client(stage, tmp_path, stage.authority.certificate)
    environment = open_environment(tmp_path)
    version = registry.register("parcels", "run-1", lambda number: write(environment, tmp_path / "bundle", number))
    assert [each.version for each in registry.list_versions("parcels")] == [version]
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    registry.download("parcels", version, fetched)
    verify_bundle(fetched, model="parcels", version=version, public_key=public_key_of(environment))


def test_who_trusts_another_authority_asks_nothing(stage: RegistryPod, tmp_path: Path) -> None:
    other = Authority(tmp_path / "pki", "authority")
    with pytest.raises(NotReady, match="certificate verify failed"):
        client(stage, tmp_path, other.certificate).list_versions("parcels")


def test_nobody_is_answered_in_clear(stage: RegistryPod) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://127.0.0.1:{stage.pod.port}/health", timeout=10)


def test_a_pod_without_the_authority_says_so(tmp_path: Path) -> None:
    environment = open_environment(tmp_path)
    pod = Pod(tmp_path / "secrets", "https://127.0.0.1:1")
    (pod.secrets / pods.LOGIN).mkdir(parents=True)
    for name in ("username", "password"):
        (pod.secrets / pods.LOGIN / name).write_text(name)
    with pytest.raises(NotReady, match=r"authority/ca\.crt: No such file"):
        Registry(Environment(environment.file, environment.settings, pod)).list_versions("parcels")


def test_the_kubelet_starts_a_server_anew_that_shows_an_old_certificate(stage: RegistryPod) -> None:
    assert stage.pod.asked(stage.pod.liveness)
    renewed = stage.authority.sign(f"{NAME}-renewed", hosts=["127.0.0.1"])
    mounted = stage.pod.folder / CERTIFICATE.lstrip("/")
    before = json.dumps({name: (mounted / name).read_text() for name in ("tls.crt", "tls.key")})
    for name, file in (("tls.crt", renewed.certificate), ("tls.key", renewed.key)):
        place = (mounted / name).resolve()
        place.chmod(0o600)
        place.write_text(file.read_text())
    try:
        assert not stage.pod.asked(stage.pod.liveness)
    finally:
        for name, text in json.loads(before).items():
            (mounted / name).write_text(text)
    assert stage.pod.asked(stage.pod.liveness)
