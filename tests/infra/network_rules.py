"""What NetworkPolicies let through: the rules of networking.k8s.io/v1, without a cluster.

Says nothing of the node that a pod runs on: whatever policies say, it reaches the pod, as the kubelet's probes do.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """One pod, or several that differ in nothing that a policy sees."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    """Of its containers, by name."""
    ip: str = "10.244.1.1"


@dataclass(frozen=True)
class Address:
    """An end of a connection that is no pod."""

    name: str
    ip: str


End = Pod | Address


@dataclass(frozen=True)
class Grant:
    """The place that lets a connection through: what a policy's rule says of one peer and one port."""

    policy: str
    way: str
    rule: int
    peer: int
    port: int


class Network:
    """The pods' network under these policies.

    `blocks_take_pods`: whether an address range stands for pods in it, too. The API leaves that to the network plugin.
    """

    def __init__(
        self, namespaces: Mapping[str, Mapping[str, str]], policies: Sequence[Object], *, blocks_take_pods: bool = True
    ) -> None:
        self._namespaces = {name: {"kubernetes.io/metadata.name": name, **of} for name, of in namespaces.items()}
        self._policies = policies
        self._blocks_take_pods = blocks_take_pods

    def passes(self, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
        return not self.refuses(source, target, port, protocol)

    def refuses(self, source: End, target: End, port: int, protocol: str = "TCP") -> list[str]:
        """The ends that do not let the connection through: none where it passes."""
        return [
            f"{way} of {here.name}"
            for way, here, there in (("egress", source, target), ("ingress", target, source))
            if isinstance(here, Pod)
            and self._isolates(here, way)
            and not any(self.grants(way, here, there, target, port, protocol))
        ]

    def grants(self, way: str, here: Pod, there: End, target: End, port: int, protocol: str = "TCP") -> Iterator[Grant]:
        """Whatever allows it at the end `here`; a port's name is looked up at the target."""
        for policy in self._selecting(here, way):
            own = policy["metadata"]["namespace"]
            for number, rule in enumerate(policy["spec"].get(way) or ()):
                for peer in self._peers(rule.get("from" if way == "ingress" else "to"), own, there):
                    for place in _ports(rule.get("ports"), target, port, protocol):
                        yield Grant(f"{own}/{policy['metadata']['name']}", way, number, peer, place)

    def allowances(self) -> dict[Grant, str]:
        """Everything that any policy allows, in words that are the same wherever in its policy it stands."""
        return {
            Grant(
                f"{own}/{name}", way, number, peer, port
            ): f"{own}/{name} {way} {_word(peers, peer)} {_word(ports, port)}"
            for policy in self._policies
            for own, name in [(policy["metadata"]["namespace"], policy["metadata"]["name"])]
            for way, side in (("ingress", "from"), ("egress", "to"))
            for number, rule in enumerate(policy["spec"].get(way) or ())
            for peers, ports in [(rule.get(side) or [], rule.get("ports") or [])]
            for peer in range(max(1, len(peers)))
            for port in range(max(1, len(ports)))
        }

    def _isolates(self, pod: Pod, way: str) -> bool:
        return any(self._selecting(pod, way))

    def _selecting(self, pod: Pod, way: str) -> Iterator[Object]:
        for policy in self._policies:
            spec = policy["spec"]
            if (
                policy["metadata"]["namespace"] == pod.namespace
                and way in _ways(spec)
                and selects(spec.get("podSelector") or {}, pod.labels)
            ):
                yield policy

    def _peers(self, peers: Sequence[Object] | None, own: str, there: End) -> Iterator[int]:
        """Positions of those that `there` is one of; nobody named is everybody."""
        if not peers:
            yield 0
        for position, peer in enumerate(peers or ()):
            if self._is(peer, own, there):
                yield position

    def _is(self, peer: Object, own: str, there: End) -> bool:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            inside = _contains(block["cidr"], there.ip) and not any(
                _contains(each, there.ip) for each in block.get("except") or ()
            )
            return inside and (isinstance(there, Address) or self._blocks_take_pods)
        if isinstance(there, Address):
            return False
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"], self._namespaces[there.namespace]):
                return False
        elif there.namespace != own:
            return False
        return selects(peer.get("podSelector") or {}, there.labels)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """A label selector; an empty one takes everything."""
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":  # also of what has no such label
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"{expression['operator']!r} is no operator of a selector")


def _ways(spec: Object) -> set[str]:
    """The directions that a policy isolates; unsaid, egress only where it has rules of it."""
    given = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return {str(each).lower() for each in given}


def _ports(ports: Sequence[Object] | None, target: End, port: int, protocol: str) -> Iterator[int]:
    """Positions of those that the port is one of; none named are all."""
    if not ports:
        yield 0
    for position, each in enumerate(ports or ()):
        if each.get("protocol", "TCP") != protocol:
            continue
        wanted = each.get("port")
        if isinstance(wanted, str):
            wanted = target.ports.get(wanted) if isinstance(target, Pod) else None
            if wanted is None:
                continue
        if wanted is None or int(wanted) <= port <= int(each.get("endPort", wanted)):
            yield position


def _word(things: Sequence[Object], position: int) -> str:
    return json.dumps(things[position], sort_keys=True) if things else "any"


def _contains(cidr: str, ip: str) -> bool:
    network, address = ipaddress.ip_network(cidr), ipaddress.ip_address(ip)
    return network.version == address.version and address in network
