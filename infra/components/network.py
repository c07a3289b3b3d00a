"""Who may talk to whom: peers as components name them, and the NetworkPolicies made of them.

Every namespace denies all traffic, in and out; a policy here adds what a part needs and nothing else. Pods are named
by labels and never by an address range: some network plugins (Cilium, and so GKE's and AKS's) take no pod for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pulumi_kubernetes.meta.v1 import LabelSelectorArgs
from pulumi_kubernetes.networking.v1 import (
    IPBlockArgs,
    NetworkPolicyEgressRuleArgs,
    NetworkPolicyIngressRuleArgs,
    NetworkPolicyPeerArgs,
    NetworkPolicyPortArgs,
    NetworkPolicySpecArgs,
)

from infra.components import names

_NAMESPACE = "kubernetes.io/metadata.name"
_EVERYWHERE = "0.0.0.0/0"
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"""Private and shared addresses."""
_LINK_LOCAL = "169.254.0.0/16"
"""Where a cloud's metadata service is."""
ANY_NAMESPACE = "*"


@dataclass(frozen=True)
class Peer:
    """One end of a permitted connection. `ports` are the ports of pods, not of Services; none means all."""

    ports: tuple[int, ...] = ()
    namespace: str = ""
    """Empty: the namespace of the policy; ANY_NAMESPACE: all of them."""
    labels: tuple[tuple[str, str], ...] = ()
    """None: every pod of the namespace."""
    cidrs: tuple[str, ...] = ()
    """Address ranges instead of pods."""
    except_cidrs: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("TCP",)

    def _selectors(self) -> list[NetworkPolicyPeerArgs]:
        if self.cidrs:
            excepted = list(self.except_cidrs) or None
            return [NetworkPolicyPeerArgs(ip_block=IPBlockArgs(cidr=each, except_=excepted)) for each in self.cidrs]
        of_namespace = {} if self.namespace == ANY_NAMESPACE else {_NAMESPACE: self.namespace}
        return [
            NetworkPolicyPeerArgs(
                namespace_selector=LabelSelectorArgs(match_labels=of_namespace) if self.namespace else None,
                pod_selector=LabelSelectorArgs(match_labels=dict(self.labels)),
            )
        ]

    def _ports(self) -> list[NetworkPolicyPortArgs] | None:
        ports = [NetworkPolicyPortArgs(port=port, protocol=kind) for port in self.ports for kind in self.protocols]
        return ports or None

    def ingress(self) -> NetworkPolicyIngressRuleArgs:
        return NetworkPolicyIngressRuleArgs(from_=self._selectors(), ports=self._ports())

    def egress(self) -> NetworkPolicyEgressRuleArgs:
        return NetworkPolicyEgressRuleArgs(to=self._selectors(), ports=self._ports())


def app(name: str, *ports: int, namespace: str = "") -> Peer:
    """The pods of one workload."""
    return Peer(ports, namespace, (("app.kubernetes.io/name", name),))


def pods(labels: dict[str, str], *ports: int, namespace: str = "") -> Peer:
    """Pods by labels that an operator gives them."""
    return Peer(ports, namespace, tuple(labels.items()))


def namespace(name: str, *ports: int) -> Peer:
    """Every pod of a namespace."""
    return Peer(ports, name)


def anyone(*ports: int) -> Peer:
    """Any address: for what the world calls, which no selector can name."""
    return Peer(ports, cidrs=(_EVERYWHERE,))


def from_api_server(*ports: int) -> tuple[Peer, ...]:
    """For webhooks and APIs that the API server calls: from an address of its own or, where a cloud keeps it in another
    network, through a proxy among the cluster's own pods."""
    return anyone(*ports), namespace(names.CLUSTER, *ports)


def somewhere(*ports: int) -> Peer:
    """An address that nobody knows beforehand, the API server's or a node's; never the cloud's metadata service."""
    return Peer(ports, cidrs=(_EVERYWHERE,), except_cidrs=(_LINK_LOCAL,))


def inside(*ports: int) -> Peer:
    """A service of the cloud by an address inside its network; never the cloud's metadata service."""
    return Peer(ports, cidrs=_PRIVATE)


def internet(*ports: int) -> Peer:
    """Any address outside: never a neighbour, never the cloud's metadata service."""
    return Peer(ports, cidrs=(_EVERYWHERE,), except_cidrs=(*_PRIVATE, _LINK_LOCAL))


DNS = Peer((53,), names.CLUSTER, (("k8s-app", names.DNS),), protocols=("UDP", "TCP"))
# 443 is the Service, 6443 what it usually stands for; policies see either, depending on the network plugin.
API_SERVER = somewhere(443, 6443)


def policy(
    selector: dict[str, str], *, ingress: Sequence[Peer] = (), egress: Sequence[Peer] = ()
) -> NetworkPolicySpecArgs:
    """Deny both directions for the selected pods, but for these peers."""
    return NetworkPolicySpecArgs(
        pod_selector=LabelSelectorArgs(match_labels=selector),
        policy_types=["Ingress", "Egress"],
        ingress=[peer.ingress() for peer in ingress],
        egress=[peer.egress() for peer in egress],
    )
