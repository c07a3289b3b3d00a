"""What is asked across namespaces is asked by TLS: servers have certificates, and clients know who signed them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from feast.repo_config import load_repo_config

from infra.components import cache, database, names, object_store, platform_pod, registry
from infra.components.cert_manager import AUTHORITY, AUTHORITY_FILE, AUTHORITY_FILES
from infra.components.workload import CERTIFICATE
from infra.recording import Recorded, Recording
from slipway import pod
from tests.infra.recorded_stack import CLOUDS, managed_by, recorded

Object = dict[str, Any]

SERVERS = {"cache": names.DATA, "object-store": names.DATA, "registry": names.SYSTEM}
IN_CLEAR = {
    # Samples, and no login: OpenCost's chart takes an address of Prometheus, which has no certificate.
    f"http://monitoring-prometheus.{names.MONITORING}.svc.cluster.local",
    # Kubeflow Pipelines speaks in clear in its namespace, and to the runner who comes there: docs/limits.md.
    f"http://ml-pipeline.{names.PIPELINES}.svc.cluster.local",
}
"""Addresses that are asked in clear all the same, and why."""


def texts(resource: Recorded) -> str:
    """All that an object says, Secrets' values included."""
    data = resource.inputs.get("data") or {} if resource.kind == "Secret" else {}
    return "\n".join([json.dumps(resource.inputs), *(base64.b64decode(value).decode() for value in data.values())])


def secret(stack: Recording, namespace: str, name: str) -> dict[str, str]:
    data = stack.find(f"Secret/{namespace}/{name}").inputs["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.mark.parametrize("profile", ["core", "full"])
def test_no_address_of_another_namespace_is_told_in_clear(profile: str) -> None:
    stack = recorded(profile=profile)
    found = {
        address
        for each in stack.resources
        for address in re.findall(r"\b(?:http|redis|ws|grpc)://[\w.-]+", texts(each))
        if ".svc" in address or address.rpartition("/")[2] in SERVERS
    }
    assert found == (IN_CLEAR if profile == "full" else set())


def test_a_server_that_speaks_tls_has_a_certificate_of_our_own_authority() -> None:
    stack = recorded(parts={"cert_manager": {"issuer": "public"}})
    for name, namespace in SERVERS.items():
        spec = stack.find(f"Certificate/{namespace}/{name}").inputs["spec"]
        assert spec["issuerRef"]["name"] == names.GATEWAY_NAME, "a public authority signs no name inside a cluster"
        assert set(spec["dnsNames"]) == set(names.service_names(name, namespace))
        template = stack.find(f"Deployment/{namespace}/{name}").inputs["spec"]["template"]["spec"]
        assert mounted(template)[CERTIFICATE]["secretName"] == spec["secretName"]
        probe = template["containers"][0]["readinessProbe"]
        assert "exec" in probe or probe["httpGet"]["scheme"] == "HTTPS", "a bare connection would fill its log"


def test_postgresql_shows_a_certificate_of_our_own_authority_and_logins_check_it() -> None:
    stack = recorded(parts={"cert_manager": {"issuer": "public"}})
    spec = stack.find(f"Certificate/{names.DATA}/{names.DATABASE}").inputs["spec"]
    assert spec["issuerRef"]["name"] == names.GATEWAY_NAME
    assert spec["secretTemplate"]["labels"] == {"cnpg.io/reload": "true"}, "or a renewed one is never shown"
    shown = stack.find(f"Cluster/{names.DATA}/{names.DATABASE}").inputs["spec"]["certificates"]
    assert shown == dict.fromkeys(("serverTLSSecret", "serverCASecret"), spec["secretName"])
    urls = [
        secret(stack, namespace, user.secret)["url"]
        for user in (database.REGISTRY, database.LEDGER, database.FEATURES)
        for namespace in user.namespaces
    ]
    urls += re.findall(r"postgresql\S+", secret(stack, names.SYSTEM, "registry-authentication")["basic_auth.ini"])
    assert len(urls) == 5
    for url in urls:
        address, _, query = url.partition("?")
        assert address.partition("@")[2].partition(":")[0] in spec["dnsNames"]
        assert query == f"sslmode=verify-full&sslrootcert={AUTHORITY_FILE}"


def test_what_a_server_is_told_leaves_no_port_in_clear() -> None:
    stack = recorded()
    configuration = secret(stack, names.DATA, "cache-configuration")["valkey.conf"].splitlines()
    assert "port 0" in configuration
    assert f"tls-port {cache.PORT}" in configuration
    arguments = stack.find(f"Deployment/{names.DATA}/object-store").inputs["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    assert f"-s3.port={object_store.PORT}" in arguments
    assert f"-s3.cert.file={CERTIFICATE}/tls.crt" in arguments
    assert not [each for each in arguments if each.startswith("-s3.port.https")], "the other one would speak in clear"


def mounted(template: Object) -> dict[str, Object]:
    """Mount path -> Secret, of the first container."""
    volumes = {each["name"]: each.get("secret") for each in template.get("volumes") or ()}
    mounts = template["containers"][0].get("volumeMounts") or ()
    return {each["mountPath"]: volumes[each["name"]] for each in mounts if volumes.get(each["name"])}


def told_by_variables(template: Object) -> set[str]:
    """Secrets that the first container's variables come from."""
    sources = [each.get("valueFrom") or {} for each in template["containers"][0].get("env") or ()]
    return {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}


def templates(stack: Recording) -> Iterator[tuple[str, str, Object]]:
    """(name, namespace, pod) of whatever the program makes pods of."""
    for each in stack.of_kind("Deployment", "Job", "CronJob", "ServingRuntime"):
        spec = each.inputs["spec"]
        if each.kind != "ServingRuntime":
            spec = (spec.get("jobTemplate", {}).get("spec") or spec)["template"]["spec"]
        yield each.where, each.metadata["namespace"], spec


def test_whoever_is_told_such_a_server_is_given_the_authority_and_no_key_of_it() -> None:
    stack = recorded()
    addresses = {cache.SECRET, registry.LOGIN, object_store.REGISTRY.secret, object_store.INFERENCE_LOG.secret}
    addresses |= {user.secret for user in (database.REGISTRY, database.LEDGER, database.FEATURES)}
    given = {each.metadata["namespace"] for each in stack.of_kind("Certificate") if AUTHORITY in each.where}
    seen = 0
    for where, namespace, template in templates(stack):
        read = mounted(template)
        if addresses & {*(each["secretName"] for each in read.values()), *told_by_variables(template)}:
            seen += 1
            authority = read[AUTHORITY_FILES.path]
            assert authority["secretName"] == AUTHORITY, where
            assert [item["key"] for item in authority["items"]] == ["ca.crt"], where
            assert namespace in given, where
    assert seen >= 10
    assert f"{platform_pod.MOUNTS}/{pod.AUTHORITY}/ca.crt" == AUTHORITY_FILE


def test_feasts_servers_are_given_the_authority_too() -> None:
    stack = recorded()
    services = stack.find(f"FeatureStore/{names.FEATURES}/features").inputs["spec"]["services"]
    (volume,), (mount,) = services["volumes"], services["onlineStore"]["server"]["volumeMounts"]
    assert services["registry"]["local"]["server"]["volumeMounts"] == [mount]
    assert volume["secret"]["secretName"] == AUTHORITY
    address = secret(stack, names.FEATURES, "feature-stores")["online-address"]
    assert f"ssl=true,ssl_ca_certs={mount['mountPath']}/ca.crt" in address
    address = secret(stack, names.FEATURES, "feature-stores")["registry-address"]
    assert address.endswith(f"?sslmode=verify-full&sslrootcert={mount['mountPath']}/ca.crt")
    assert stack.find(f"Certificate/{names.FEATURES}/{names.FEATURES}-{AUTHORITY}")


def test_feast_puts_the_addresses_with_passwords_into_its_configuration_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Feast's operator writes the configuration into its Deployment: what stands in there is no secret any more.
    stack = recorded()
    stores = secret(stack, names.FEATURES, "feature-stores")
    written = {
        "project": "slipway",
        "provider": "local",
        "online_store": {"type": "redis", **yaml.safe_load(stores["redis"])},
        "registry": {"registry_type": "sql", **yaml.safe_load(stores["sql"])},
    }
    file = tmp_path / "feature_store.yaml"
    file.write_text(yaml.safe_dump(written))
    passwords = {each.rpartition("=")[2] for each in stores["online-address"].split(",") if "password=" in each}
    passwords |= {stores["registry-address"].partition("@")[0].rpartition(":")[2]}
    assert len(passwords) == 2
    assert not any(password in file.read_text() for password in passwords)

    services = stack.find(f"FeatureStore/{names.FEATURES}/features").inputs["spec"]["services"]
    for server in (services["onlineStore"]["server"], services["registry"]["local"]["server"]):
        for variable in server["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            assert reference["name"] == "feature-stores"
            monkeypatch.setenv(variable["name"], stores[reference["key"]])
        found = load_repo_config(tmp_path, file)
        assert found.online_store.connection_string == stores["online-address"]
        assert found.registry.path == stores["registry-address"]


def test_the_gateway_asks_mlflow_by_the_name_that_it_shows() -> None:
    stack = recorded()
    spec = stack.find(f"BackendTLSPolicy/{names.SYSTEM}/registry").inputs["spec"]
    assert [each["name"] for each in spec["targetRefs"]] == ["registry"]
    certificate = stack.find(f"Certificate/{names.SYSTEM}/registry").inputs["spec"]
    assert spec["validation"]["hostname"] in certificate["dnsNames"]


def test_a_clouds_services_show_what_everybody_trusts() -> None:
    stack = recorded(**CLOUDS["eks"], **managed_by("eks"))
    store = secret(stack, names.SYSTEM, object_store.INFERENCE_LOG.secret)
    assert store["authority"] == ""
    assert "ca_bundle" not in store["aws"]
    assert secret(stack, names.SERVING, cache.SECRET)["address"].endswith(",ssl=true")
    assert secret(stack, names.SYSTEM, database.LEDGER.secret)["url"].endswith("?sslmode=require")
    own = recorded()
    store = secret(own, names.SYSTEM, object_store.INFERENCE_LOG.secret)
    assert store["authority"] == AUTHORITY_FILE
    assert f"ca_bundle = {AUTHORITY_FILE}\n" in store["aws"]
