"""The evaluator of NetworkPolicies against what the documentation of Kubernetes says of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.infra.network_rules import Address, Network, Pod, selects

NAMESPACES = {"default": {}, "other": {}, "myproject": {"project": "myproject"}}
DB = Pod("db", "default", {"role": "db"}, {"redis": 6379}, "10.1.0.1")
FRONTEND = Pod("frontend", "default", {"role": "frontend"}, ip="10.1.0.2")
OF_PROJECT = Pod("of-project", "myproject", {"role": "anything"}, ip="10.1.0.3")
ELSEWHERE = Pod("elsewhere", "other", {"role": "frontend"}, ip="10.1.0.4")
INSIDE, EXCEPTED = Address("inside", "172.17.0.9"), Address("excepted", "172.17.1.9")
OUTSIDE, RANGE = Address("outside", "93.184.216.34"), Address("range", "10.0.0.7")


def policy(spec: dict[str, Any], namespace: str = "default") -> dict[str, Any]:
    return {"metadata": {"name": "policy", "namespace": namespace}, "spec": {"podSelector": {}} | spec}


def network(*specs: dict[str, Any], blocks_take_pods: bool = True) -> Network:
    return Network(NAMESPACES, [policy(each) for each in specs], blocks_take_pods=blocks_take_pods)


DOCUMENTED = {
    "podSelector": {"matchLabels": {"role": "db"}},
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [
        {
            "from": [
                {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                {"podSelector": {"matchLabels": {"role": "frontend"}}},
            ],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }
    ],
    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 5978}]}],
}
"""`test-network-policy`, the example of the documentation."""


@pytest.mark.parametrize(
    ("source", "target", "port", "passes"),
    [
        (FRONTEND, DB, 6379, True),
        (OF_PROJECT, DB, 6379, True),
        (INSIDE, DB, 6379, True),
        (EXCEPTED, DB, 6379, False),
        (ELSEWHERE, DB, 6379, False),
        (OUTSIDE, DB, 6379, False),
        (FRONTEND, DB, 6380, False),
        (DB, RANGE, 5978, True),
        (DB, RANGE, 5979, False),
        (DB, OUTSIDE, 5978, False),
        (DB, FRONTEND, 5978, False),
        (FRONTEND, OUTSIDE, 443, True),
    ],
)
def test_the_example_of_the_documentation(source: Any, target: Any, port: int, passes: bool) -> None:
    assert network(DOCUMENTED).passes(source, target, port) is passes


def test_without_a_policy_everything_passes() -> None:
    assert network().passes(OUTSIDE, DB, 6379)
    assert network().passes(DB, OUTSIDE, 443)


@pytest.mark.parametrize(
    ("spec", "comes_in", "goes_out"),
    [
        ({"policyTypes": ["Ingress"]}, False, True),
        ({"policyTypes": ["Ingress"], "ingress": [{}]}, True, True),
        ({"policyTypes": ["Egress"]}, True, False),
        ({"policyTypes": ["Egress"], "egress": [{}]}, True, True),
        ({"policyTypes": ["Ingress", "Egress"]}, False, False),
        # Nothing said: ingress always, egress where it has rules.
        ({}, False, True),
        ({"egress": []}, False, True),
        ({"egress": [{"to": [{"podSelector": {}}]}]}, False, False),
    ],
)
def test_default_policies(spec: dict[str, Any], comes_in: bool, goes_out: bool) -> None:
    assert network(spec).passes(OUTSIDE, DB, 6379) is comes_in
    assert network(spec).passes(DB, OUTSIDE, 443) is goes_out


def test_a_policy_is_its_namespaces_own() -> None:
    assert network({"policyTypes": ["Ingress"]}).passes(DB, ELSEWHERE, 80)


def test_policies_add_up_and_never_conflict() -> None:
    denied = {"policyTypes": ["Ingress", "Egress"]}
    assert not network(denied).passes(FRONTEND, DB, 6379)
    both = network(denied, DOCUMENTED)
    assert both.refuses(FRONTEND, DB, 6379) == ["egress of frontend"], "both ends have to allow it"
    assert network(denied, DOCUMENTED, {"egress": [{"to": [{"podSelector": {}}]}]}).passes(FRONTEND, DB, 6379)


def test_two_selectors_in_one_peer_are_both_meant_and_in_two_peers_either() -> None:
    of_project, anything = {"matchLabels": {"project": "myproject"}}, {"matchLabels": {"role": "frontend"}}
    one = network({"ingress": [{"from": [{"namespaceSelector": of_project, "podSelector": anything}]}]})
    two = network({"ingress": [{"from": [{"namespaceSelector": of_project}, {"podSelector": anything}]}]})
    assert (one.passes(OF_PROJECT, DB, 1), one.passes(FRONTEND, DB, 1)) == (False, False)
    assert (two.passes(OF_PROJECT, DB, 1), two.passes(FRONTEND, DB, 1)) == (True, True)


def test_an_empty_namespace_selector_takes_every_namespace_and_no_address() -> None:
    everywhere = network({"ingress": [{"from": [{"namespaceSelector": {}}]}]})
    assert everywhere.passes(ELSEWHERE, DB, 1)
    assert not everywhere.passes(OUTSIDE, DB, 1)


def test_a_namespace_is_known_by_its_name() -> None:
    named = {"matchLabels": {"kubernetes.io/metadata.name": "other"}}
    assert network({"ingress": [{"from": [{"namespaceSelector": named}]}]}).passes(ELSEWHERE, DB, 1)


@pytest.mark.parametrize(
    ("port", "asked", "protocol", "passes"),
    [
        ({"port": 32000, "endPort": 32768}, 32000, "TCP", True),
        ({"port": 32000, "endPort": 32768}, 32768, "TCP", True),
        ({"port": 32000, "endPort": 32768}, 32769, "TCP", False),
        ({"port": "redis"}, 6379, "TCP", True),
        ({"port": "redis"}, 6380, "TCP", False),
        ({"port": "unknown"}, 6379, "TCP", False),
        ({"protocol": "UDP"}, 53, "UDP", True),
        ({"protocol": "UDP"}, 53, "TCP", False),
        ({"port": 53}, 53, "UDP", False),
    ],
)
def test_ports(port: dict[str, Any], asked: int, protocol: str, passes: bool) -> None:
    assert network({"ingress": [{"ports": [port]}]}).passes(FRONTEND, DB, asked, protocol) is passes


@pytest.mark.parametrize(
    ("expression", "taken"),
    [
        ({"key": "role", "operator": "In", "values": ["db", "x"]}, True),
        ({"key": "role", "operator": "In", "values": ["x"]}, False),
        ({"key": "role", "operator": "NotIn", "values": ["x"]}, True),
        ({"key": "role", "operator": "NotIn", "values": ["db"]}, False),
        ({"key": "absent", "operator": "NotIn", "values": ["db"]}, True),
        ({"key": "role", "operator": "Exists"}, True),
        ({"key": "absent", "operator": "Exists"}, False),
        ({"key": "role", "operator": "DoesNotExist"}, False),
        ({"key": "absent", "operator": "DoesNotExist"}, True),
    ],
)
def test_expressions_of_a_selector(expression: dict[str, Any], taken: bool) -> None:
    assert selects({"matchExpressions": [expression]}, DB.labels) is taken
    assert not selects({"matchLabels": {"absent": "x"}, "matchExpressions": [expression]}, DB.labels)


def test_an_operator_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no operator"):
        selects({"matchExpressions": [{"key": "role", "operator": "Like"}]}, {})


def test_whether_a_range_takes_pods_is_the_plugins_choice() -> None:
    ranged = {"ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}]}
    assert network(ranged).passes(FRONTEND, DB, 6379)
    assert not network(ranged, blocks_take_pods=False).passes(FRONTEND, DB, 6379)
    assert network(ranged, blocks_take_pods=False).passes(Address("node", "10.1.9.9"), DB, 6379)


def test_a_range_of_one_kind_of_address_takes_none_of_the_other() -> None:
    ranged = {"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]}
    assert not network(ranged).passes(Address("six", "2001:db8::1"), DB, 6379)
