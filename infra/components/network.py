"""Who may talk to whom: peers as components name them, and the NetworkPolicies made of them.

Every namespace denies all traffic, in and out; a policy here adds what a part needs and nothing else.
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
_INSIDE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10")
"""Private, link-local (a cloud's metadata service) and shared addresses."""


@dataclass(frozen=True)
class Peer:
    """One end of a permitted connection. `ports` are the ports of pods, not of Services; none means all."""

    ports: tuple[int, ...] = ()
    namespace: str = ""
    """Empty: the namespace of the policy."""
    labels: tuple[tuple[str, str], ...] = ()
    """None: every pod of the namespace."""
    cidr: str = ""
    """An address range instead of pods."""
    except_cidrs: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("TCP",)

    def _selector(self) -> NetworkPolicyPeerArgs:
        if self.cidr:
            return NetworkPolicyPeerArgs(ip_block=IPBlockArgs(cidr=self.cidr, except_=list(self.except_cidrs) or None))
        return NetworkPolicyPeerArgs(
            namespace_selector=LabelSelectorArgs(match_labels={_NAMESPACE: self.namespace}) if self.namespace else None,
            pod_selector=LabelSelectorArgs(match_labels=dict(self.labels)),
        )

    def _ports(self) -> list[NetworkPolicyPortArgs] | None:
        ports = [NetworkPolicyPortArgs(port=port, protocol=kind) for port in self.ports for kind in self.protocols]
        return ports or None

    def ingress(self) -> NetworkPolicyIngressRuleArgs:
        return NetworkPolicyIngressRuleArgs(from_=[self._selector()], ports=self._ports())

    def egress(self) -> NetworkPolicyEgressRuleArgs:
        return NetworkPolicyEgressRuleArgs(to=[self._selector()], ports=self._ports())


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
    """Any address: for what the API server or the world calls, neither of which a selector can name."""
    return Peer(ports, cidr="0.0.0.0/0")


def internet(*ports: int) -> Peer:
    """Any address outside: never a neighbour, never the cloud's metadata service."""
    return Peer(ports, cidr="0.0.0.0/0", except_cidrs=_INSIDE)


DNS = Peer((53,), names.DNS[0], (("k8s-app", names.DNS[1]),), protocols=("UDP", "TCP"))
# 443 is the Service, 6443 what it usually stands for; policies see either, depending on the network plugin.
API_SERVER = anyone(443, 6443)


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
