"""CloudNativePG's own operator, given the database that our infrastructure declares.

It makes everything up to the first instance's pod, then asks that pod how PostgreSQL is: nobody answers.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from infra.components import database, names
from infra.components.database import FEATURES, INSTANCE, LEDGER, REGISTRY
from slipway.mirror.versions import Versions, load_versions
from slipway.settings import Settings
from tests.cluster.lab import rules
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.processes import LabError, wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "authority", "database_operator")]

Object = dict[str, Any]

OF_CLUSTER = f"cnpg.io/cluster={names.DATABASE}"
CLUSTER = "clusters.postgresql.cnpg.io"
MADE = "pods,jobs,services,secrets,persistentvolumeclaims,serviceaccounts,roles,rolebindings,poddisruptionbudgets"


@pytest.fixture(scope="module")
def versions(settings: Settings) -> Versions:
    assert settings.kubernetes is not None
    return load_versions(mirror=settings.kubernetes.mirror.dir)


@pytest.fixture(scope="module")
def declared(stack: Stack) -> list[Object]:
    """Secrets first: the Cluster names them."""
    kinds = ("Secret", "Cluster", "Database")
    return [item for kind in kinds for item in stack.objects(kind, namespace=names.DATA) if _is_of_database(item)]


@pytest.fixture(scope="module")
def first_pod(control_plane: ControlPlane, declared: list[Object]) -> Iterator[Object]:
    """Of the Job that makes the data folder, bound to a node."""
    control_plane.apply(declared)
    claim = wait_until("the operator has made a claim", lambda: _first(control_plane, "pvc"), 90)
    control_plane.apply([_volume_for(claim)])
    yield wait_until("the Job's pod is bound", lambda: _bound(_first(control_plane, "pods")), 90)
    for item in reversed(declared):
        kind = "secret" if item["kind"] == "Secret" else f"{item['kind'].lower()}s.postgresql.cnpg.io"
        control_plane.delete(kind, item["metadata"]["name"], names.DATA)
    control_plane.delete("pv", names.DATABASE)


@pytest.fixture(scope="module")
def instance(control_plane: ControlPlane, first_pod: Object) -> Object:
    """The first pod of PostgreSQL itself, which comes when that Job has ended well."""
    ended = json.dumps({"status": {"phase": "Succeeded"}})
    name = first_pod["metadata"]["name"]
    control_plane.kubectl(
        "-n", names.DATA, "patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={ended}"
    )

    def made() -> Object | None:
        found = control_plane.get("pod", f"{names.DATABASE}-1", names.DATA)
        return _bound(found) if found else None

    return wait_until("the first instance is bound", made, 90)


def test_what_we_declare_is_taken_as_it_stands(
    control_plane: ControlPlane, declared: list[Object], first_pod: Object
) -> None:
    for item in declared:
        if item["kind"] != "Secret":
            kind = f"{item['kind'].lower()}s.postgresql.cnpg.io"
            live = control_plane.get(kind, item["metadata"]["name"], names.DATA)
            assert live is not None
            assert _changed(item["spec"], live["spec"]) == [], "no default of the operator's replaces what we say"


def test_the_job_that_makes_the_data_folder_keeps_to_every_rule(
    control_plane: ControlPlane, stack: Stack, first_pod: Object
) -> None:
    (job,) = control_plane.list("jobs", names.DATA, OF_CLUSTER)
    assert rules.findings([job, first_pod], _beside(control_plane, stack)) == []


def test_postgresql_is_of_the_version_in_the_image(
    control_plane: ControlPlane, versions: Versions, first_pod: Object
) -> None:
    found = control_plane.get(CLUSTER, names.DATABASE, names.DATA)
    assert found is not None
    pin = versions.image("postgresql")
    assert found["status"]["image"] == pin.address()
    assert found["status"]["pgDataImageInfo"] == {"image": pin.address(), "majorVersion": int(pin.tag.split(".")[0])}


def test_every_container_has_our_images_and_requests(versions: Versions, first_pod: Object, instance: Object) -> None:
    images = {versions.image(name).address() for name in ("postgresql", "cloudnative_pg_operator")}
    for pod in (first_pod, instance):
        containers = pod["spec"]["initContainers"] + pod["spec"]["containers"]
        assert {container["image"] for container in containers} == images
        assert all(container["resources"] == INSTANCE.as_dict() for container in containers)


def test_the_instance_and_all_that_is_made_for_it_keep_to_every_rule(
    control_plane: ControlPlane, stack: Stack, instance: Object
) -> None:
    made = _owned(control_plane.list(MADE, names.DATA))
    kinds = {"Pod", "Job", "Service", "Secret", "PersistentVolumeClaim", "ServiceAccount", "Role", "RoleBinding"}
    assert {item["kind"] for item in made} == kinds
    # The Secrets of its certificates are the only objects that it gives no labels of ours.
    unlabelled = {f"Secret/{names.DATA}/{names.DATABASE}-{name}" for name in ("ca", "replication")}
    found = rules.findings(made, stack.objects(*rules.NEEDED))
    assert {tuple(each.split(": ")[:2]) for each in found} == {("labelled_for_cost", name) for name in unlabelled}
    assert instance["metadata"]["name"] in {item["metadata"]["name"] for item in made if item["kind"] == "Pod"}


def test_nothing_keeps_a_node_from_being_drained(control_plane: ControlPlane, instance: Object) -> None:
    # A budget for the only instance would: no other can take over.
    assert control_plane.list("poddisruptionbudgets", names.DATA) == []


def test_our_network_policy_selects_both_pods(stack: Stack, first_pod: Object, instance: Object) -> None:
    policy = stack.find(f"NetworkPolicy/{names.DATA}/{names.DATABASE}")
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    for pod in (first_pod, instance):
        assert wanted <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in instance["spec"]["containers"][0]["ports"]}
    assert (ports["postgresql"], ports["status"]) == (database.PORT, 8000)


def test_labels_of_ours_and_labels_of_the_operators_do_not_fight(
    control_plane: ControlPlane, stack: Stack, instance: Object
) -> None:
    (cluster,) = stack.objects("Cluster")
    ours = cluster["spec"]["inheritedMetadata"]["labels"].items()
    for item in _owned(control_plane.list("pods,jobs,services,persistentvolumeclaims", names.DATA)):
        labels = item["metadata"]["labels"]
        assert ours <= labels.items(), f"{item['kind']} {item['metadata']['name']}"
        # Of those of its own that it puts right whenever it looks.
        assert (labels["app.kubernetes.io/managed-by"], labels["app.kubernetes.io/name"]) == (
            "cloudnative-pg",
            "postgresql",
        )


def test_every_login_leads_to_a_service_that_the_operator_makes(
    control_plane: ControlPlane, stack: Stack, instance: Object
) -> None:
    service = control_plane.get("service", f"{names.DATABASE}-rw", names.DATA)
    assert service is not None
    host = names.service(service["metadata"]["name"], names.DATA)
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (database.PORT, database.PORT)
    assert service["spec"]["selector"] == {"cnpg.io/cluster": names.DATABASE, "cnpg.io/instanceRole": "primary"}
    for user in (REGISTRY, LEDGER, FEATURES):
        for namespace in user.namespaces:
            login = _data(stack.find(f"Secret/{namespace}/{user.secret}"))
            assert login["host"] == host
            assert f"@{host}:{port['port']}/{user.name}?sslmode=verify-full&" in login["url"]


def test_every_role_has_the_password_of_its_login_and_owns_its_database(
    control_plane: ControlPlane, stack: Stack, first_pod: Object
) -> None:
    live = control_plane.get(CLUSTER, names.DATABASE, names.DATA)
    assert live is not None
    secrets = {role["name"]: role["passwordSecret"]["name"] for role in live["spec"]["managed"]["roles"]}
    for user in (REGISTRY, LEDGER, FEATURES):
        secret = control_plane.get("secret", secrets.pop(user.name), names.DATA)
        assert secret is not None
        role, login = _data(secret), _data(stack.find(f"Secret/{user.namespaces[0]}/{user.secret}"))
        assert role == {"username": user.name, "password": login["password"]}
        owned = control_plane.get("databases.postgresql.cnpg.io", user.name, names.DATA)
        assert owned is not None
        assert (owned["spec"]["name"], owned["spec"]["owner"]) == (user.name, user.name)
    assert secrets == {}


def test_it_shows_our_certificate_and_makes_none(
    control_plane: ControlPlane, stack: Stack, authority: Path, instance: Object
) -> None:
    live = control_plane.get(CLUSTER, names.DATABASE, names.DATA)
    assert live is not None
    ours = stack.find(f"Certificate/{names.DATA}/{names.DATABASE}")["spec"]["secretName"]
    said = live["status"]["certificates"]
    assert (said["serverTLSSecret"], said["serverCASecret"]) == (ours, ours)
    # Their own clients' are of an authority that it makes.
    assert (said["clientCASecret"], said["replicationTLSSecret"]) == (
        f"{names.DATABASE}-ca",
        f"{names.DATABASE}-replication",
    )
    assert control_plane.get("secret", f"{names.DATABASE}-server", names.DATA) is None
    assert ours in said["expirations"], "it has read it"
    secret = control_plane.get("secret", ours, names.DATA)
    assert secret is not None
    assert secret["metadata"]["labels"] == {"cnpg.io/reload": "true"}
    assert _data(secret)["ca.crt"] == authority.read_text()
    certificate = x509.load_pem_x509_certificate(_data(secret)["tls.crt"].encode())
    good_for = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    services = {item["metadata"]["name"] for item in control_plane.list("services", names.DATA, OF_CLUSTER)}
    assert services
    wanted = {names.service(service, names.DATA) for service in services}
    assert wanted <= set(good_for.get_values_for_type(x509.DNSName))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"imageName": "ghcr.io/cloudnative-pg/postgresql:latest"}, "Can't use 'latest' as image tag"),
        ({"storage": {"size": "1Mi"}}, "can't shrink existing storage"),
        ({"postgresql": {"parameters": {"listen_addresses": "127.0.0.1"}}}, "Can't set fixed configuration parameter"),
    ],
)
def test_its_webhook_refuses_what_would_not_work(
    control_plane: ControlPlane, declared: list[Object], first_pod: Object, change: Object, words: str
) -> None:
    (cluster,) = (copy.deepcopy(item) for item in declared if item["kind"] == "Cluster")
    cluster["spec"] |= change
    with pytest.raises(LabError, match=f'The Cluster "{names.DATABASE}" is invalid.*{words}'):
        control_plane.apply([cluster])


def test_it_waits_for_an_answer_of_the_first_instance(control_plane: ControlPlane, instance: Object) -> None:
    def waits() -> bool:
        found = control_plane.get(CLUSTER, names.DATABASE, names.DATA) or {}
        return "HTTP communication issue" in found["status"]["phase"] and "currentPrimary" not in found["status"]

    wait_until("it cannot ask its instance", waits, 60)
    for item in control_plane.list("databases.postgresql.cnpg.io", names.DATA):
        assert "applied" not in item.get("status", {}), "the instance would make it"


def _is_of_database(item: Object) -> bool:
    return item["kind"] != "Secret" or item["metadata"]["name"].startswith("role-")


def _volume_for(claim: Object) -> Object:
    """Nobody makes volumes here: one for this very claim."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": names.DATABASE},
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"],
            "accessModes": claim["spec"]["accessModes"],
            "claimRef": {"name": claim["metadata"]["name"], "namespace": names.DATA},
            "hostPath": {"path": "/nonexistent"},
        },
    }


def _first(control_plane: ControlPlane, kind: str) -> Object | None:
    return next(iter(control_plane.list(kind, names.DATA, OF_CLUSTER)), None)


def _bound(pod: Object | None) -> Object | None:
    return pod if pod and pod["spec"].get("nodeName") else None


def _owned(objects: Iterable[Object]) -> list[Object]:
    """Of the Cluster, or of its Job."""
    owners = {"Cluster", "Job"}
    return [
        item
        for item in objects
        if any(owner["kind"] in owners for owner in item["metadata"].get("ownerReferences", []))
    ]


def _beside(control_plane: ControlPlane, stack: Stack) -> list[Object]:
    """What the rules look at beside a pod: ours, and the account that the operator made."""
    theirs = _owned(control_plane.list("serviceaccounts,roles,rolebindings", names.DATA))
    return [*stack.objects(*rules.NEEDED), *theirs]


def _changed(said: Any, live: Any, where: str = "spec") -> list[str]:
    """Where what is live says other than what we said."""
    if isinstance(said, dict) and isinstance(live, dict):
        return [each for key, value in said.items() for each in _changed(value, live.get(key), f"{where}.{key}")]
    if isinstance(said, list) and isinstance(live, list) and len(said) == len(live):
        pairs = enumerate(zip(said, live, strict=True))
        return [each for n, (ours, theirs) in pairs for each in _changed(ours, theirs, f"{where}[{n}]")]
    return [] if said == live else [f"{where}: {said!r} became {live!r}"]


def _data(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
