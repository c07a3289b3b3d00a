"""What pods of the stack are kept from, what charts are, and which Secrets each pod reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.components.contents import digest_of
from infra.components.hardening import Hardening
from infra.components.pods import Requests
from infra.components.workload import Rule
from infra.policies.objects import KubeObject
from infra.policies.pack import examine_object
from infra.quantity import parse_quantity
from infra.recording import Recording, record
from infra.services.program import stand_up
from slipway.mirror.versions import load_versions
from tests.infra.recorded_stack import fill_mirror, recorded, settings_of

PROFILES = ("core", "full")
MIRROR = "registry.example.com/mirror"


def test_an_unsafe_workload_would_be_found() -> None:
    deployment = recorded().find("Deployment/slipway-system/portal").inputs
    deployment = {**deployment, "spec": {"template": {"spec": {"containers": [{"name": "x", "image": "x:latest"}]}}}}
    rules = {each.rule for each in examine_object(KubeObject(deployment))}
    assert {"pod_security_restricted", "read_only_root", "requests_and_limits"} <= rules


def test_a_token_is_mounted_only_where_rights_were_asked_for() -> None:
    mounted = {
        each.metadata["name"]
        for each in recorded(profile="full").of_kind("Deployment")
        if each.inputs["spec"]["template"]["spec"]["automountServiceAccountToken"]
    }
    assert mounted == {"runner", "controller", "collector"}


def test_a_wildcard_right_is_refused() -> None:
    with pytest.raises(ValueError, match="wildcard"):
        Rule("slipway-system", ("",), ("*",), ("get",))


def _chart_deployment() -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "manager", "labels": {"app.kubernetes.io/name": "theirs"}},
        "spec": {
            "template": {
                "spec": {
                    "hostNetwork": True,
                    "containers": [
                        {"name": "proxy", "image": "example/proxy:1", "securityContext": {"privileged": True}},
                        {"name": "manager", "image": "kserve/kserve-controller:v0.20.0"},
                    ],
                    "initContainers": [{"name": "first", "image": "busybox:1.37"}],
                }
            }
        },
    }


def test_what_a_chart_leaves_open_is_closed_init_containers_included() -> None:
    given = _chart_deployment()
    hardened = Hardening({"app.kubernetes.io/name": "ours", "slipway.dev/team": "platform"}).apply(given)
    pod = hardened["spec"]["template"]["spec"]
    assert "hostNetwork" not in pod
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in container["securityContext"]
        assert {"name": "slipway-tmp", "mountPath": "/tmp"} in container["volumeMounts"]
        assert container["resources"]["limits"]["memory"]
    assert hardened["metadata"]["labels"] == {"app.kubernetes.io/name": "theirs", "slipway.dev/team": "platform"}
    assert given == _chart_deployment(), "the chart's own object is not changed"


def test_requests_are_imposed_on_the_container_that_is_named() -> None:
    wanted = Requests("70m", "70Mi")
    pod = Hardening({}, {"manager/manager": wanted}).apply(_chart_deployment())["spec"]["template"]["spec"]
    assert [each["resources"]["requests"]["cpu"] for each in pod["containers"]] == ["10m", "70m"]


CPU = st.one_of(st.integers(1, 64), st.builds("{}m".format, st.integers(1, 64_000)), st.sampled_from(["0.5", "1e-2"]))
MEMORY = st.one_of(
    st.builds("{}{}".format, st.integers(1, 4096), st.sampled_from(["Ki", "Mi", "Gi", "M", "G", "k"])),
    st.sampled_from([134217728, "129e6", "1.5Gi"]),
)
AMOUNTS = st.fixed_dictionaries({}, optional={"cpu": CPU, "memory": MEMORY, "ephemeral-storage": MEMORY})


@given(resources=st.fixed_dictionaries({}, optional={"requests": AMOUNTS, "limits": AMOUNTS | st.none()}))
def test_no_request_of_a_hardened_container_is_above_its_limit(resources: dict[str, Any]) -> None:
    deployment = _chart_deployment()
    deployment["spec"]["template"]["spec"]["containers"][0]["resources"] = resources
    imposed = Hardening({}).apply(deployment)["spec"]["template"]["spec"]["containers"][0]["resources"]
    for name in ("cpu", "memory", "ephemeral-storage"):
        request, limit = (parse_quantity(imposed[kind][name]) for kind in ("requests", "limits"))
        assert request <= limit
        asked, allowed = ((resources.get(kind) or {}).get(name) for kind in ("requests", "limits"))
        if asked is not None:
            assert request == parse_quantity(asked), "a chart knows what it needs"
        elif allowed is not None:
            assert limit == parse_quantity(allowed), "and what it may have"


def test_images_that_an_operator_is_told_of_are_named_like_its_own(tmp_path: Path) -> None:
    """In variables, arguments, files and fields; names, labels and Secrets are no such place."""
    versions = load_versions(mirror=fill_mirror(tmp_path))
    hardening = Hardening(
        {}, image=lambda image: versions.pinned(image, MIRROR), text=lambda text: versions.pinned_in(text, MIRROR)
    )
    digest = f"sha256:{'0' * 64}"
    driver, executor = "ghcr.io/kubeflow/kfp-driver:2.17.0", "quay.io/argoproj/argoexec:v4.0.5"
    ours = {each: f"{MIRROR}/{each.partition('/')[2]}@{digest}" for each in (driver, executor)}
    given = _chart_deployment()
    container = given["spec"]["template"]["spec"]["containers"][0]
    container |= {"env": [{"name": "V2_DRIVER_IMAGE", "value": driver}], "args": ["--executor-image", executor]}
    told = hardening.apply(given)["spec"]["template"]["spec"]["containers"]
    assert told[0]["env"] == [{"name": "V2_DRIVER_IMAGE", "value": ours[driver]}]
    assert told[0]["args"] == ["--executor-image", ours[executor]]
    assert told[1]["image"] == f"{MIRROR}/kserve/kserve-controller:v0.20.0@{digest}"

    config = {"kind": "ConfigMap", "metadata": {"name": executor}, "data": {"a.json": f'{{"image" : "{driver}"}}'}}
    assert hardening.apply(config)["data"] == {"a.json": f'{{"image" : "{ours[driver]}"}}'}
    assert hardening.apply(config)["metadata"]["name"] == executor
    custom = {"kind": "EnvoyProxy", "metadata": {"name": "x"}, "spec": {"containers": [{"image": driver}]}}
    assert hardening.apply(custom)["spec"] == {"containers": [{"image": ours[driver]}]}
    secret = {"kind": "Secret", "metadata": {"name": "x"}, "stringData": {"a": driver}}
    assert hardening.apply(secret)["stringData"] == {"a": driver}
    assert hardening.apply(hardening.apply(given)) == hardening.apply(given)


def test_hardening_twice_changes_nothing_more() -> None:
    hardening = Hardening({"a": "b"}, {"manager": Requests()})
    once = hardening.apply(_chart_deployment())
    assert hardening.apply(once) == once


def test_hardening_takes_the_prose_out_of_definitions_and_nothing_else() -> None:
    kept = {
        "description": {"type": "string"},
        "size": {"type": "object", "default": {"description": "data"}, "enum": ["a"]},
    }
    told = kept | {"size": kept["size"] | {"description": "Of what is meant."}}
    versions = [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": told}}}]
    given = {"kind": "CustomResourceDefinition", "metadata": {"name": "x"}, "spec": {"versions": versions}}
    applied = Hardening({}).apply(given)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert applied == {"type": "object", "properties": kept}
    assert versions[0]["schema"]["openAPIV3Schema"]["properties"] is told  # type: ignore[index]


def test_what_must_reach_into_the_node_keeps_its_rights_and_gets_the_rest() -> None:
    pod = Hardening({}, restricted=False).apply(_chart_deployment())["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"] == {"privileged": True}
    assert pod["containers"][0]["resources"]["requests"]["memory"] == "32Mi"


ISSUED = {"cert-manager.io/v1"}
"""Makes Secrets of its own from what stands in the program."""


def _read_by(pod: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, name) of each Secret and ConfigMap that a pod mounts or takes variables from."""
    for volume in pod.get("volumes") or ():
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
    for container in pod["containers"]:
        for variable in container.get("env") or ():
            if "valueFrom" in variable:
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def _templates(stack: Recording) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, namespace, pod template) of our workloads."""
    for each in stack.of_kind("Deployment", "Job", "CronJob"):
        spec = each.inputs["spec"]
        template = (spec.get("jobTemplate", {}).get("spec") or spec)["template"]
        yield template["metadata"]["labels"]["app.kubernetes.io/name"], each.metadata["namespace"], template


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_pod_reads_is_created_by_the_program(profile: str) -> None:
    stack = recorded(profile=profile)
    created = {
        (each.kind, each.metadata["namespace"], each.metadata["name"]) for each in stack.of_kind("Secret", "ConfigMap")
    }
    created |= {
        ("Secret", each.metadata["namespace"], each.inputs["spec"]["secretName"])
        for each in stack.of_kind("Certificate")
        if each.inputs["apiVersion"] in ISSUED
    }
    for name, namespace, template in _templates(stack):
        for kind, read in _read_by(template["spec"]):
            assert (kind, namespace, read) in created, f"{name} reads {kind}/{namespace}/{read}"


def _fingerprints(state: Path) -> dict[str, str]:
    stack = record(lambda: stand_up(settings_of(state)))
    return {
        name: template["metadata"]["annotations"]["slipway.dev/configuration"]
        for name, _, template in _templates(stack)
    }


def test_a_rotated_secret_starts_anew_exactly_the_pods_that_read_it(tmp_path: Path) -> None:
    before = _fingerprints(tmp_path)
    assert _fingerprints(tmp_path) == before, "nothing changed, nothing starts anew"
    (tmp_path / "secrets" / "cache" / "password").unlink()
    after = _fingerprints(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    reading = {
        name
        for name, _, template in _templates(record(lambda: stand_up(settings_of(tmp_path))))
        if {("Secret", "cache"), ("Secret", "cache-configuration")} & set(_read_by(template["spec"]))
    }
    assert changed == reading >= {"cache"}


def test_a_fingerprint_hides_no_pod_from_a_diff() -> None:
    assert {each.where for each in recorded().of_kind("Deployment", "Job", "CronJob") if each.secret_keys} == set()


def test_a_fingerprint_tells_nothing_of_the_secret() -> None:
    """Two environments with one password: what stands in the annotation differs, so nobody can try passwords on it."""
    values = {"password": "hunter2"}
    assert digest_of("one key", values) != digest_of("another key", values)
    assert digest_of("one key", values) == digest_of("one key", dict(values))
    assert digest_of("one key", {"password": "hunter3"}) != digest_of("one key", values)
