"""Rules about namespaces, network policies and what is open to the outside."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.components import names
from infra.policies.objects import KubeObject, items, mapping

ENFORCE = "pod-security.kubernetes.io/enforce"
EVERYWHERE = {"0.0.0.0/0", "::/0"}
_METADATA = ipaddress.ip_address("169.254.169.254")


def namespace_enforces_restricted(thing: KubeObject) -> Iterator[str]:
    """A namespace refuses pods that are not `restricted`: what an operator makes at night is held to it, too."""
    if thing.kind == "Namespace" and thing.labels.get(ENFORCE) != "restricted":
        yield f"label {ENFORCE} is {thing.labels.get(ENFORCE) or 'not there'}; set it to restricted"


def namespace_denies_by_default(objects: Sequence[KubeObject]) -> Iterator[tuple[KubeObject, str]]:
    """A namespace has NetworkPolicies that select every pod, both ways: what none of them names is denied."""
    denied: dict[str, set[str]] = {}
    for thing in objects:
        if thing.kind == "NetworkPolicy" and _selects_all(thing):
            # What such a policy allows beside that is another rule's business: it has to be narrow.
            directions = {str(direction) for direction in items(thing.spec.get("policyTypes"))}
            denied.setdefault(thing.namespace, set()).update(directions)
    for thing in objects:
        if thing.kind == "Namespace":
            for direction in sorted({"Ingress", "Egress"} - denied.get(thing.name, set())):
                yield thing, f"no NetworkPolicy denies {direction.lower()} by default; add one that selects every pod"


def network_policy_is_narrow(thing: KubeObject) -> Iterator[str]:
    """What a NetworkPolicy allows has a peer; an allowance for every address names its ports, and a way out by address
    never leads to the cloud's metadata service, which hands out the node's credentials."""
    if thing.kind != "NetworkPolicy" or thing.group != "networking.k8s.io":
        return
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for position, rule in enumerate(map(mapping, items(thing.spec.get(direction)))):
            peers = items(rule.get(side))
            where = f"spec.{direction}[{position}]"
            if not peers:
                yield f"{where} allows everybody; name `{side}`"
            elif not rule.get("ports") and any(_is_everywhere(peer) for peer in peers):
                yield f"{where} allows every address on every port; name `ports`"
            elif direction == "egress" and any(_leads_to_metadata(peer) for peer in peers):
                yield f"{where} allows the cloud's metadata service; leave 169.254.0.0/16 out by `except`"


def service_is_internal(thing: KubeObject) -> Iterator[str]:
    """Nothing is open to the outside but the gateway: every other Service is a ClusterIP."""
    if thing.kind == "Service" and not thing.group:
        yield from _opened(thing.spec, "spec")
    if (thing.group, thing.kind) == ("gateway.envoyproxy.io", "EnvoyProxy") and thing.namespace != names.GATEWAY:
        provider = mapping(mapping(thing.spec.get("provider")).get("kubernetes"))
        # What it says nothing about becomes a LoadBalancer.
        service = {"type": "LoadBalancer", **mapping(provider.get("envoyService"))}
        yield from _opened(service, "spec.provider.kubernetes.envoyService")
    if thing.kind == "Ingress":
        yield "an Ingress is a second door; use an HTTPRoute of the one gateway"


def _opened(service: Mapping[str, Any], where: str) -> Iterator[str]:
    if service.get("type", "ClusterIP") in ("LoadBalancer", "NodePort"):
        yield f"{where}.type is {service['type']}; use ClusterIP and an HTTPRoute of the gateway"
    if service.get("externalIPs"):
        yield f"{where}.externalIPs takes addresses of others; leave it out"


def _selects_all(policy: KubeObject) -> bool:
    selector = mapping(policy.spec.get("podSelector"))
    return not selector.get("matchLabels") and not selector.get("matchExpressions")


def _leads_to_metadata(peer: Any) -> bool:
    block = mapping(mapping(peer).get("ipBlock"))
    excepted = items(block.get("except"))
    return _has_metadata(block.get("cidr")) and not any(_has_metadata(each) for each in excepted)


def _has_metadata(cidr: Any) -> bool:
    try:
        return _METADATA in ipaddress.ip_network(str(cidr))
    except ValueError:  # not known yet, or none: the API server's business
        return False


def _is_everywhere(peer: Any) -> bool:
    return mapping(mapping(peer).get("ipBlock")).get("cidr") in EVERYWHERE
