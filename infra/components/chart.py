"""A Helm chart, or a manifest, by pinned reference or from a mirror's folder: how operators come.

Every object is Pulumi's own (diff, drift and policies see it), and each passes the hardening first. Helm's hooks are
not run: a part that relies on one makes what it needs itself. Values hold no outputs, since a chart renders nothing
while one is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pulumi
from pulumi_kubernetes.helm.v4 import Chart, RepositoryOptsArgs
from pulumi_kubernetes.kustomize.v2 import Directory
from pulumi_kubernetes.networking.v1 import NetworkPolicy
from pulumi_kubernetes.yaml.v2 import ConfigFile

from infra.components import network
from infra.components.component import Component, Site
from infra.components.hardening import Hardening
from infra.components.network import Peer
from infra.components.pods import Requests


@dataclass(frozen=True)
class OperatorArgs:
    """What charts and manifests have in common."""

    site: Site
    part: str
    pin: str
    """Name of the pin in versions.toml."""
    namespace: str
    pods: Mapping[str, Requests] = field(default_factory=dict)
    """Every workload that it brings, and what that requests: imposed, and counted in the table of requests."""
    disk: str = ""
    """Size of the volumes that its operator claims, for that table."""
    selector: Mapping[str, str] = field(default_factory=dict)
    """Labels of its pods, where others share the namespace; none: all that is there."""
    ingress_from: tuple[Peer, ...] = ()
    egress_to: tuple[Peer, ...] = ()
    restricted: bool = True
    """False for what must reach into the node; the policy pack then demands a named exception."""
    connected: bool = True
    """False for definitions alone: there is nothing that listens or calls."""
    brings_namespace: bool = False
    """Its objects include the namespace, which the definitions then leave out."""


@dataclass(frozen=True)
class HelmChartArgs(OperatorArgs):
    values: Mapping[str, Any] = field(default_factory=dict)
    skip_definitions: bool = False
    """Leave out the chart's `crds/` folder."""


@dataclass(frozen=True)
class ManifestArgs(OperatorArgs):
    overlay: str = ""
    """Folder of a kustomization of ours on top of the pinned base."""


class _Operator(Component):
    """Network policy and hardening of what follows in the namespace."""

    def __init__(self, name: str, args: OperatorArgs, version: str, opts: pulumi.ResourceOptions | None) -> None:
        pods = {workload: requests.as_dict() for workload, requests in args.pods.items()}
        super().__init__(
            args.part,
            name,
            args.site,
            opts,
            {"part": args.part, "pin": args.pin, "version": version, "pods": pods, "disk": args.disk},
        )
        self.policy = self._create_network_policy(args) if args.connected and not args.brings_namespace else None
        self._hardening = Hardening(
            self._labels(name), args.pods, args.site.foreign_image, args.site.name_images, restricted=args.restricted
        )

    def _create_network_policy(self, args: OperatorArgs, *after: pulumi.Resource) -> NetworkPolicy:
        return NetworkPolicy(
            f"{self.name}-network",
            metadata=self._metadata(self.name, args.namespace),
            spec=network.policy(
                dict(args.selector),
                ingress=args.ingress_from,
                egress=(network.DNS, network.API_SERVER, *args.egress_to),
            ),
            opts=self._options(*after),
        )

    def _hardened_options(self) -> pulumi.ResourceOptions:
        after = [self.policy] if self.policy else []
        return self._options(*after, transforms=[self._harden])

    def _harden(self, args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        if not isinstance(args.props.get("kind"), str) or "metadata" not in args.props:
            return None  # the chart itself
        return pulumi.ResourceTransformResult(self._hardening.apply(args.props), args.opts)


class HelmChart(_Operator):
    """A chart at its pinned version."""

    def __init__(self, name: str, args: HelmChartArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        pin = args.site.versions.chart(args.pin)
        super().__init__(name, args, pin.version, opts)
        mirror = args.site.settings.mirror.dir
        if mirror:
            chart, repository = str(mirror / pin.mirror_file), None
        elif pin.is_oci:
            chart, repository = f"{pin.source}/{pin.name}", None
        else:
            chart, repository = pin.name, RepositoryOptsArgs(repo=pin.source)
        self.chart = Chart(
            name,
            name=name,
            chart=chart,
            version=pin.version,
            namespace=args.namespace,
            repository_opts=repository,
            skip_crds=args.skip_definitions,
            values=dict(args.values),
            opts=self._hardened_options(),
        )
        self.register_outputs({"version": pin.version})


class Manifest(_Operator):
    """A manifest at its pinned version, or a kustomization of ours on a pinned base."""

    def __init__(self, name: str, args: ManifestArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        pin = args.site.versions.manifest(args.pin)
        super().__init__(name, args, pin.version, opts)
        mirror = args.site.settings.mirror.dir
        self.objects: ConfigFile | Directory
        if mirror:
            self.objects = ConfigFile(name, file=str(mirror / pin.mirror_file), opts=self._hardened_options())
        elif args.overlay:
            folder = Path(__file__).with_name(args.overlay)
            self.objects = Directory(name, directory=str(folder), opts=self._hardened_options())
        else:
            self.objects = ConfigFile(name, file=pin.source, opts=self._hardened_options())
        if args.brings_namespace:
            self.policy = self._create_network_policy(args, self.objects)
        self.register_outputs({"version": pin.version})
