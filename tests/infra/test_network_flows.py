"""What must flow between the pods of the whole program does, and nothing else: every policy against every need.

Two readings of an address range, since network plugins differ: one that takes pods for it and one that does not. What
is needed passes under both, what is not needed under neither. No plugin enforces anything here.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.infra.network_flows import OPEN, Flow, flows_of
from tests.infra.network_pods import ADDRESSES, INSIDE, PodNetwork
from tests.infra.network_rules import Pod
from tests.infra.recorded_stack import CLOUDS, GPU, GPU_POOL, managed_by, recorded

ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "existing-core": {"provider": "existing"},
    "existing-full": {"provider": "existing", "profile": "full", **GPU},
    "kind": {"provider": "kind"},
    "eks-managed": {**CLOUDS["eks"], **managed_by("eks"), "profile": "full"},
    "aks-gpu": {**CLOUDS["aks"], **managed_by("aks"), **GPU_POOL, **GPU},
    "monitored-elsewhere": {"provider": "existing", "parts": {"monitoring": {"existing": True}}},
}
ANYWHERE = ("api-server", "node")
"""Nobody knows their addresses beforehand: the way there is one to every address on that port, but for LINK_LOCAL."""
LINK_LOCAL = ("metadata", "pod-identity")
OFFERED = "slipway-features/features ingress"
"""To pods of people's own: the feature store answers them, and none of ours asks it."""
PORTS = (22, 53, 80, 443, 2379, 5432, 6379, 6443, 8080, 8333, 10250)
"""Tried at every address that is no pod's."""


@functools.cache
def network_of(environment: str) -> PodNetwork:
    return PodNetwork(recorded(**ENVIRONMENTS[environment]))


@functools.cache
def needed_in(environment: str) -> frozenset[Flow]:
    return frozenset(flows_of(network_of(environment)))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_address_that_a_pod_is_given_leads_to_a_service(environment: str) -> None:
    network = network_of(environment)
    told = network.told()
    assert len(told) > 10 or "managed" in environment
    for each in told:
        network.behind(each.service, each.namespace, each.port)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_what_must_flow_flows(environment: str) -> None:
    network = network_of(environment)
    needed = needed_in(environment)
    assert len(needed) > 100
    refused = {}
    for flow in needed:
        ends = network.end(flow.source), network.end(flow.target)
        for reading in (network.with_blocks, network.without_blocks):
            if by := reading.refuses(*ends, flow.port, flow.protocol):
                refused[str(flow)] = f"{flow.why}: {' and '.join(by)}"
    assert refused == {}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nothing_else_flows_between_pods(environment: str) -> None:
    network = network_of(environment)
    needed = {(flow.source, flow.target, flow.port) for flow in needed_in(environment)}
    # What is open to whoever calls from outside, and whose way out is to an address that nobody knows beforehand.
    doors = {(target, port) for source, target, port in needed if source in ("internet", "api-server")}
    wide = {(source, port) for source, target, port in needed if target in ANYWHERE}
    ours = {pod.name for pod in network.ours()}
    passing = {
        f"{source.name} -> {target.name}:{port}"
        for source in network.pods.values()
        for target in network.pods.values()
        for port in target.ports.values()
        if {source.name, target.name} & ours
        and (source.name, target.name, port) not in needed
        and not (source.namespace == target.namespace and source.namespace in OPEN)
        and not ((target.name, port) in doors and (source.name not in ours or (source.name, port) in wide))
        and network.with_blocks.passes(source, target, port)
    }
    assert passing == set()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nothing_else_flows_out(environment: str) -> None:
    network = network_of(environment)
    needed = needed_in(environment)
    passing = {
        f"{pod.name} -> {address}:{port}"
        for pod in network.ours()
        for address in ADDRESSES
        for port in PORTS
        if network.with_blocks.passes(pod, ADDRESSES[address], port)
        and not any((flow.source, flow.port) == (pod.name, port) and _reaches(flow.target, address) for flow in needed)
    }
    assert passing == set()


def _reaches(needed: str, address: str) -> bool:
    """Whether the way to one address is the way to another, too."""
    if needed in ANYWHERE:
        return address not in LINK_LOCAL
    if needed in INSIDE:
        return address in (*INSIDE, *ANYWHERE)
    return address == needed or {address, needed} == {"internet", "cloud-outside"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_from_outside_only_the_gateway_is_open_and_what_the_api_server_calls(environment: str) -> None:
    network = network_of(environment)
    open_ports = {
        (pod.name, port)
        for pod in network.ours()
        for port in pod.ports.values()
        if network.with_blocks.passes(ADDRESSES["internet"], pod, port)
    }
    called = {(flow.target, flow.port) for flow in needed_in(environment) if flow.source == "api-server"}
    assert open_ports - called == {("envoy", 10080), ("envoy", 10443)}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nobody_reaches_the_clouds_metadata(environment: str) -> None:
    network = network_of(environment)
    assert [
        (pod.name, port)
        for pod in network.ours()
        for port in (*PORTS, 988)
        if network.with_blocks.passes(pod, ADDRESSES["metadata"], port)
    ] == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("revision", "database"),
        ("revision", "revision"),
        ("revision", "portal"),
        ("revision", "internet"),
        ("ray-worker", "database"),
        ("ray-worker", "portal"),
        ("ray-worker", "api-server"),
        ("pipeline-run", "portal"),
        ("pipeline-run", "api-server"),
        ("envoy", "api-server"),
        ("envoy", "database"),
        ("envoy", "cache"),
        ("envoy", "object-store"),
        ("controller", "cache"),
        ("portal", "cache"),
        ("portal", "api-server"),
        ("monitor-flight-delay", "api-server"),
        ("cache", "registry"),
        ("stranger", "ray-head"),
        ("stranger-in-slipway-training", "ray-head"),
        ("stranger-in-slipway-serving", "cache"),
        ("stranger-in-slipway-system", "database"),
        ("stranger-in-slipway-data", "object-store"),
    ],
)
def test_what_would_do_harm_is_closed_at_one_end_at_least(source: str, target: str) -> None:
    """Said again by name, so that a line in the table of needs cannot open it."""
    network = network_of("existing-full")
    end = network.end(target)
    ports = end.ports.values() if isinstance(end, Pod) else PORTS
    assert [port for port in ports if network.with_blocks.passes(network.end(source), end, port)] == []


def test_everything_that_is_allowed_is_needed_somewhere() -> None:
    """Each peer and each port of each rule lets through something that somebody needs in one of the environments."""
    allowed, used = set[str](), set[str]()
    for environment in ENVIRONMENTS:
        network = network_of(environment)
        said = network.with_blocks.allowances()
        allowed |= set(said.values())
        for flow in needed_in(environment):
            source, target = network.end(flow.source), network.end(flow.target)
            for way, here, there in (("egress", source, target), ("ingress", target, source)):
                if isinstance(here, Pod):
                    granted = network.with_blocks.grants(way, here, there, target, flow.port, flow.protocol)
                    used |= {said[each] for each in granted}
    assert {each for each in allowed - used if not each.startswith(OFFERED)} == set()
