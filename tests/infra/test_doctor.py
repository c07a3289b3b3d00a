"""What `slipway doctor` says of clusters that are missing, old, closed or taken: asked over real TLS."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from slipway.environment import Environment
from slipway.errors import InvalidInput
from slipway.kubernetes_settings import KubernetesSettings
from slipway.settings import Settings
from slipway.targets.finding import Finding
from slipway.targets.kubernetes import doctor, machine_checks
from slipway.targets.kubernetes.cluster_checks import CHECKS
from slipway.targets.kubernetes.examined_cluster import ExaminedCluster, Unreachable, open_cluster
from slipway.targets.kubernetes.requirements import DEFINITIONS, RIGHTS
from slipway.targets.local.doctor import Finding as LocalFinding

TOKEN = "a-token-of-the-test"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"


class ApiServer:
    """Answers what a cluster of the given state would; one with room, rights and nothing installed at first."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.version = ("1", "35")
        self.refused: set[str] = set()
        """Rights that the user lacks, as `create namespaces`."""
        self.answers: dict[str, Any] = {
            "/api/v1/nodes": {"items": [node("4", "16Gi")]},
            "/apis/storage.k8s.io/v1/storageclasses": {"items": [storage_class("standard", default=True)]},
        }
        self.changes: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/version":
            return 200, {"major": self.version[0], "minor": self.version[1]}
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            return 201, {"status": {"allowed": f"{asked['verb']} {asked['resource']}" not in self.refused}}
        if method != "GET":
            self.changes.append(f"{method} {path}")
        found = self.answers.get(path)
        return (200, found) if found is not None else (404, {"kind": "Status", "code": 404})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for all questions
            wbufsize = 1 << 16  # and one packet for each answer

            def do_GET(self) -> None:
                self._reply("GET")

            def do_POST(self) -> None:
                self._reply("POST")

            def _reply(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, answer = 401, {"kind": "Status", "code": 401}
                else:
                    status, answer = server.answer(method, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def node(cpu: str, memory: str, ready: str = "True", **more: str) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, **more}
    return {"status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": ready}]}}


def storage_class(name: str, *, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": annotations}}


def definition(*served: str, labels: dict[str, str] | None = None, **annotations: str) -> dict[str, Any]:
    """A custom resource definition; `__` in an annotation's name stands for a slash, `_` for a dot or dash as given."""
    return {
        "metadata": {"labels": labels or {}, "annotations": annotations},
        "spec": {"versions": [{"name": name, "served": True} for name in served]},
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for loopback that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture
def server(certificate: tuple[Path, Path]) -> Iterator[ApiServer]:
    server = ApiServer(certificate)
    try:
        yield server
    finally:
        server.stop()


def kubeconfig(folder: Path, address: str, certificate: Path | None = None, token: str = TOKEN) -> Path:
    cluster: dict[str, str] = {"server": address}
    if certificate:
        cluster["certificate-authority-data"] = base64.b64encode(certificate.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("main", "other")],
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    return file


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"provider": "existing", **more})


@pytest.fixture
def cluster(server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path) -> ExaminedCluster:
    return open_cluster(settings(kubeconfig=kubeconfig(tmp_path, server.address, certificate[0])), tmp_path / "none")


def asked(cluster: ExaminedCluster, **more: Any) -> dict[str, Finding]:
    """Every check of the cluster, by name."""
    return {found.check: found for check in CHECKS for found in check(cluster, settings(**more), "test")}


def failures(cluster: ExaminedCluster, **more: Any) -> list[Finding]:
    return [found for found in asked(cluster, **more).values() if not found.ok]


def test_a_cluster_with_room_and_rights_passes_and_is_not_changed(cluster: ExaminedCluster, server: ApiServer) -> None:
    assert failures(cluster) == []
    assert server.changes == []


@pytest.mark.parametrize(("minor", "word"), [("33", "too old"), ("28+", "too old"), ("37", "too new")])
def test_a_kubernetes_that_is_not_supported_is_refused_by_the_parts_that_are_wanted(
    cluster: ExaminedCluster, server: ApiServer, minor: str, word: str
) -> None:
    server.version = ("1", minor)
    (found,) = failures(cluster, parts={"queueing": {"enabled": False}, "cert_manager": {"existing": True}})[:1]
    assert word in found.found
    assert "serving" in found.found
    assert "queueing" not in found.found
    assert "cert_manager" not in found.found
    assert "1.34 to 1.36" in found.remedy


def test_every_missing_right_is_named(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.refused = {"create namespaces", "escalate clusterroles"}
    (found,) = failures(cluster)
    assert found.found == "may not create namespaces, escalate clusterroles.rbac.authorization.k8s.io"
    assert "cluster administrator" in found.remedy


def test_no_right_is_asked_for_twice() -> None:
    assert len({str(right) for right in RIGHTS}) == len(RIGHTS)


def test_a_definition_of_another_release_is_named_with_its_owner_and_the_switch(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    server.answers[f"{CRDS}certificates.cert-manager.io"] = definition(
        "v1", **{"meta.helm.sh/release-name": "certs", "meta.helm.sh/release-namespace": "tools"}
    )
    (found,) = failures(cluster)
    assert found.found == "there already, of Helm release tools/certs"
    assert found.remedy.startswith("kubernetes.parts.cert_manager.existing = true")
    assert failures(cluster, parts={"cert_manager": {"existing": True}}) == []


def test_a_definition_that_no_switch_can_share_asks_for_another_cluster(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    server.answers[f"{CRDS}inferenceservices.serving.kserve.io"] = definition("v1beta1")
    (found,) = failures(cluster)
    assert found.remedy == "another cluster"


def test_a_definition_of_ours_is_no_obstacle_and_that_of_another_environment_is(
    cluster: ExaminedCluster, server: ApiServer
) -> None:
    path = f"{CRDS}rayjobs.ray.io"
    server.answers[path] = definition("v1", labels={"slipway.dev/environment": "test"})
    assert failures(cluster) == []
    server.answers[path] = definition("v1", labels={"slipway.dev/environment": "other"})
    (found,) = failures(cluster)
    assert found.found == "there already, of environment other"


@pytest.mark.parametrize("existing", [True, False])
def test_a_definition_of_an_older_version_is_refused_either_way(
    cluster: ExaminedCluster, server: ApiServer, existing: bool
) -> None:
    path = f"{CRDS}httproutes.gateway.networking.k8s.io"
    server.answers[path] = definition("v1", **{"gateway.networking.k8s.io/bundle-version": "v1.4.1"})
    (found,) = failures(cluster, parts={"gateway": {"existing": existing}})
    assert found.found == "is v1.4.1, older than v1.6.0"
    server.answers[path] = definition("v1beta1")
    (found,) = failures(cluster, parts={"gateway": {"existing": existing}})
    assert found.found == "serves v1beta1, not v1"


def test_what_is_said_to_exist_must_be_there(cluster: ExaminedCluster) -> None:
    (found,) = failures(cluster, parts={"monitoring": {"existing": True}})
    assert (found.check, found.found) == ("definition prometheuses.monitoring.coreos.com", "is not there")
    assert "existing = false" in found.remedy


def test_a_part_that_is_not_wanted_is_not_asked_for(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers[f"{CRDS}rayjobs.ray.io"] = definition("v1")
    assert failures(cluster, parts={"training": {"enabled": False}}) == []


def test_every_definition_belongs_to_a_part() -> None:
    for wanted in DEFINITIONS:
        settings().part(wanted.part)


def test_nodes_that_are_not_ready_give_nothing(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers["/api/v1/nodes"] = {"items": [node("4", "16Gi"), node("8", "32Gi", ready="Unknown")]}
    assert [found.found for found in failures(cluster)] == ["1 of 2"]
    server.answers["/api/v1/nodes"] = {"items": [node("3900m", "7000000Ki")]}
    assert [found.found for found in failures(cluster)] == ["3.9 CPUs, 6.7 GiB"]


def test_profile_full_needs_more_and_says_which_profile_needs_less(cluster: ExaminedCluster) -> None:
    (found,) = failures(cluster, profile="full")
    assert 'profile = "core"' in found.remedy


def test_gpu_workers_need_a_gpu_or_the_part_that_brings_it(cluster: ExaminedCluster, server: ApiServer) -> None:
    wanted = {"training": {"gpu_workers": 1}}
    assert [found.check for found in failures(cluster, parts=wanted)] == ["GPUs"]
    assert failures(cluster, parts=wanted | {"gpu": {"enabled": True}}) == []
    server.answers["/api/v1/nodes"] = {"items": [node("4", "16Gi", **{"nvidia.com/gpu": "2"})]}
    assert failures(cluster, parts=wanted) == []


def test_a_storage_class_must_be_there(cluster: ExaminedCluster, server: ApiServer) -> None:
    server.answers["/apis/storage.k8s.io/v1/storageclasses"] = {"items": [storage_class("slow")]}
    (found,) = failures(cluster)
    assert (found.found, found.remedy) == ("no default", "set kubernetes.storage_class; there are: slow")
    assert failures(cluster, storage_class="slow") == []
    (found,) = failures(cluster, storage_class="fast")
    assert found.found == "no fast"


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"kubernetes\.kubeconfig") as caught:
        open_cluster(settings(kubeconfig=tmp_path / "none"), tmp_path / "made")
    assert "set kubernetes.kubeconfig" in str(caught.value)


@pytest.mark.parametrize("text", ["", "contexts: 3", "{", "apiVersion: v1\nkind: Config\n"])
def test_what_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"kubernetes\.(kubeconfig|context)"):
        open_cluster(settings(kubeconfig=file), tmp_path / "made")


def test_an_unknown_context_is_named_with_those_that_exist(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="one of: main, other"):
        open_cluster(settings(kubeconfig=file, context="production"), tmp_path / "made")


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    cluster = open_cluster(settings(kubeconfig=kubeconfig(tmp_path, "https://127.0.0.1:1")), tmp_path / "made")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer: .*refused"):
        cluster.get("/version")


def test_a_cluster_of_another_authority_is_not_trusted(server: ApiServer, tmp_path: Path) -> None:
    cluster = open_cluster(settings(kubeconfig=kubeconfig(tmp_path, server.address)), tmp_path / "made")
    with pytest.raises(Unreachable, match="certificate"):
        cluster.get("/version")


def test_a_wrong_token_asks_for_a_new_login(server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, server.address, certificate[0], token="wrong")
    with pytest.raises(Unreachable, match="401") as caught:
        open_cluster(settings(kubeconfig=file), tmp_path / "made").get("/version")
    assert "log in again" in caught.value.hint
    assert "wrong" not in str(caught.value)


def opened(tmp_path: Path, **kubernetes: Any) -> Environment:
    document = {"name": "test", "target": "kubernetes", "state_dir": tmp_path / "state", "kubernetes": kubernetes}
    return Environment(tmp_path / "test.toml", Settings.model_validate(document))


@pytest.fixture
def no_other_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A PATH with nothing on it, and registries that nobody asks."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    monkeypatch.setattr(machine_checks, "_answers", lambda host: host != "ghcr.io")
    return folder


def tool(folder: Path, name: str, says: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\necho '{says}'\n")
    file.chmod(0o755)


def test_every_check_is_made_and_every_failure_has_a_remedy(
    server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path, no_other_tools: Path
) -> None:
    server.version = ("1", "20")
    found = doctor.examine(
        opened(tmp_path, provider="existing", kubeconfig=kubeconfig(tmp_path, server.address, certificate[0]))
    )
    failed = {item.check: item for item in found if not item.ok}
    assert {"pulumi", "kubectl", "image registries", "Kubernetes 1.34 to 1.36"} <= set(failed)
    assert failed["image registries"].found == "no answer from ghcr.io"
    assert all(item.remedy for item in failed.values())
    assert not any(item.remedy for item in found if item.ok)


def test_a_cluster_that_is_gone_is_one_finding(tmp_path: Path, no_other_tools: Path) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1")
    found = doctor.examine(opened(tmp_path, provider="existing", kubeconfig=file))
    (gone,) = [item for item in found if item.check.startswith("cluster of context")]
    assert "does not answer" in gone.found
    assert gone.remedy == "is the cluster up, and reachable from here?"


@pytest.mark.parametrize(
    ("says", "ok", "found"),
    [("v3.259.0", True, "3.259.0"), ("v3.100.2", False, "3.100.2"), ("nonsense", False, "says no version")],
)
def test_a_tool_that_is_too_old_is_not_enough(
    tmp_path: Path, no_other_tools: Path, says: str, ok: bool, found: str
) -> None:
    tool(no_other_tools, "pulumi", says)
    environment = opened(tmp_path, provider="existing")
    assert environment.settings.kubernetes is not None
    (pulumi, *_) = machine_checks.check_tools(environment, environment.settings.kubernetes)
    assert (pulumi.ok, pulumi.found) == (ok, found)


@pytest.mark.parametrize(
    ("provider", "network", "tools"),
    [
        ("kind", {}, {"docker", "kind"}),
        ("eks", {"region": "r"}, {"aws"}),
        ("gke", {"region": "r", "project": "your-project"}, {"gcloud", "gke-gcloud-auth-plugin"}),
        ("aks", {"region": "r", "subscription": "s"}, {"az", "kubelogin"}),
    ],
)
def test_each_provider_needs_its_own_tools_and_a_login(
    tmp_path: Path, no_other_tools: Path, provider: str, network: dict[str, str], tools: set[str]
) -> None:
    given = {"provider": provider} | ({"network": network} if network else {})
    failed = {item.check for item in doctor.examine(opened(tmp_path, **given)) if not item.ok}
    assert tools <= failed
    assert [check for check in failed if check.endswith(" answers")]
    assert ("no placeholder is left" in failed) == (provider == "gke")
    # Before the first `up` there is no cluster to ask: that is no failure.
    assert "kubeconfig" not in failed


def test_a_passphrase_that_others_can_read_is_found(tmp_path: Path, no_other_tools: Path) -> None:
    file = tmp_path / "passphrase"
    environment = opened(tmp_path, provider="existing", backend={"passphrase_file": file})
    assert environment.settings.kubernetes is not None
    check = machine_checks.check_passphrase
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.remedy.startswith("put it back")
    file.write_text("x")
    file.chmod(0o644)
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.remedy == f"chmod 600 {file}"
    file.chmod(0o600)
    (found,) = check(environment, environment.settings.kubernetes)
    assert found.ok


def test_an_incomplete_mirror_is_named_item_by_item(tmp_path: Path, no_other_tools: Path) -> None:
    environment = opened(tmp_path, provider="existing", mirror={"dir": tmp_path, "registry": "registry.example.com"})
    assert environment.settings.kubernetes is not None
    (found,) = machine_checks.check_mirror(environment, environment.settings.kubernetes)
    assert "charts.kueue" in found.found
    (registries,) = machine_checks.check_registries(environment, environment.settings.kubernetes)
    assert (registries.ok, registries.found) == (True, "1 answer")


def test_both_targets_report_alike() -> None:
    assert LocalFinding is Finding
