"""Every pod of the stack against the policy pack, and every permitted connection against both of its ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recorded_stack import GPU, fill_mirror, recorded

from infra.components.hardening import Hardening
from infra.components.pods import Requests
from infra.components.workload import Rule
from infra.policies.objects import KubeObject
from infra.policies.pack import examine_object
from infra.recording import Recording

PROFILES = ("core", "full")
NAMESPACE = "kubernetes.io/metadata.name"
ALLOWED = {
    # The device plugin mounts the kubelet's socket folder.
    ("namespace_enforces_restricted", "Namespace/gpu-operator"),
}


@pytest.mark.parametrize("profile", PROFILES)
def test_no_object_of_ours_breaks_a_policy(profile: str, tmp_path: Path) -> None:
    stack = recorded(profile=profile, mirror={"dir": str(fill_mirror(tmp_path))}, **GPU)
    found = [each for thing in stack.objects() for each in examine_object(KubeObject(thing.inputs))]
    assert [str(each) for each in found if (each.rule, each.thing.where) not in ALLOWED] == []


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


def _pods(stack: Recording) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(name, namespace, labels) of the pods that our workloads make."""
    for each in stack.of_kind("Deployment", "Job", "CronJob"):
        spec = each.inputs["spec"]
        template = (spec.get("jobTemplate", {}).get("spec") or spec)["template"]
        # A Job's own name ends in a fingerprint; the label is the workload's.
        labels = template["metadata"]["labels"]
        yield labels["app.kubernetes.io/name"], each.metadata["namespace"], labels


def _policies(stack: Recording, namespace: str, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    for each in stack.of_kind("NetworkPolicy"):
        wanted = each.inputs["spec"]["podSelector"].get("matchLabels") or {}
        if each.metadata["namespace"] == namespace and wanted.items() <= labels.items():
            yield each.inputs["spec"]


def _admits(peer: dict[str, Any], own: str, namespace: str, labels: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        return True
    wanted = (peer.get("namespaceSelector") or {}).get("matchLabels", {}).get(NAMESPACE, own)
    return wanted == namespace and (peer["podSelector"].get("matchLabels") or {}).items() <= labels.items()


def _passes(
    policies: Iterator[dict[str, Any]], way: str, own: str, namespace: str, labels: dict[str, str], port: int
) -> bool:
    key = "from" if way == "ingress" else "to"
    return any(
        any(_admits(peer, own, namespace, labels) for peer in rule[key])
        and (not rule.get("ports") or port in {each["port"] for each in rule["ports"]})
        for policy in policies
        for rule in policy[way]
    )


CONNECTIONS = [
    ("controller", "registry", 5000),
    ("portal", "registry", 5000),
    ("runner", "registry", 5000),
    ("pipeline-run", "registry", 5000),
    ("monitor-flight-delay", "registry", 5000),
    ("monitor-flight-delay", "reports", 8000),
    ("monitor-flight-delay", "object-store", 8333),
    ("collector", "object-store", 8333),
    ("registry", "object-store", 8333),
    ("pipeline-run", "object-store", 8333),
    ("pipeline-run", "cache", 6379),
    ("object-store-buckets", "object-store", 9333),
]


@pytest.mark.parametrize(("client", "server", "port"), CONNECTIONS)
def test_what_a_program_needs_to_reach_is_open_at_both_ends(client: str, server: str, port: int) -> None:
    stack = recorded()
    pods = {name: (where, labels) for name, where, labels in _pods(stack)}
    (here, mine), (there, theirs) = pods[client], pods[server]
    assert _passes(_policies(stack, here, mine), "egress", here, there, theirs, port), "it may not go out"
    assert _passes(_policies(stack, there, theirs), "ingress", there, here, mine, port), "it is not let in"


@pytest.mark.parametrize(
    ("client", "server", "port"),
    [
        ("portal", "cache", 6379),
        ("controller", "cache", 6379),
        ("portal", "reports", 8000),
        ("cache", "registry", 5000),
    ],
)
def test_what_a_program_does_not_need_is_closed(client: str, server: str, port: int) -> None:
    stack = recorded()
    pods = {name: (where, labels) for name, where, labels in _pods(stack)}
    (here, mine), (there, theirs) = pods[client], pods[server]
    out = _passes(_policies(stack, here, mine), "egress", here, there, theirs, port)
    inside = _passes(_policies(stack, there, theirs), "ingress", there, here, mine, port)
    assert not (out and inside)


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


def test_hardening_twice_changes_nothing_more() -> None:
    hardening = Hardening({"a": "b"}, {"manager": Requests()})
    once = hardening.apply(_chart_deployment())
    assert hardening.apply(once) == once


def test_what_must_reach_into_the_node_keeps_its_rights_and_gets_the_rest() -> None:
    pod = Hardening({}, restricted=False).apply(_chart_deployment())["spec"]["template"]["spec"]
    assert pod["containers"][0]["securityContext"] == {"privileged": True}
    assert pod["containers"][0]["resources"]["requests"]["memory"] == "32Mi"
