"""Our own processes: the controller, the collector, the portal, and the Job that brings the ledger to their release.

One controller decides at a time: a lone pod that is replaced only when it is gone, or two that share a Lease.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import database, names, network, object_store, platform_pod, registry
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Requests, Scratch
from infra.components.serving import PORT as REVISION_PORT
from infra.components.workload import Rule, Workload, WorkloadArgs
from slipway.targets.local.doors import cluster_hosts
from slipway.tokens import ROLES

PORT = 8080


@dataclass(frozen=True)
class ControlPlaneArgs:
    site: Site
    registry: str
    """Address of MLflow."""


class ControlPlane(Component):
    """What decides, records and shows."""

    def __init__(self, name: str, args: ControlPlaneArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("control_plane", name, args.site, opts)
        self.args = args
        # The same files that the command line reads on the machine that stands the stack up.
        self._create_secret(
            platform_pod.TOKENS, names.SYSTEM, {role: args.site.secrets.read(f"tokens/{role}") for role in ROLES}
        )
        migration = self._create_migration()
        self._create_controller(migration)
        self._create_collector(migration)
        self._create_portal(migration)
        self._create_login_route()
        self.register_outputs({})

    def _create_migration(self) -> Workload:
        return Workload(
            "ledger-migration",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                kind="Job",
                command=("python", "-m", "slipway.ledger"),
                env=platform_pod.variables(),
                volumes=(Scratch(platform_pod.STATE), *platform_pod.files(database.LEDGER.secret)),
                requests=Requests("50m", "128Mi", memory_limit="256Mi"),
                egress_to=(database.peer(self.site.settings),),
            ),
            self._options(),
        )

    def _create_controller(self, migration: Workload) -> Workload:
        standby = self.site.settings.parts.control_plane.standby
        return Workload(
            "controller",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                command=("python", "-m", "slipway.controller"),
                alive=platform_pod.alive("controller"),
                env=platform_pod.variables(self.args.registry),
                volumes=(Scratch(platform_pod.STATE, "256Mi"), *platform_pod.files(*_GIVEN, platform_pod.SIGNING)),
                requests=Requests("50m", "256Mi", memory_limit="512Mi"),
                replicas=2 if standby else 1,
                egress_to=(
                    *self._data(),
                    registry.PEER,
                    # What the gateway's Envoys counted.
                    network.pods(names.ENVOYS, 19001, namespace=names.GATEWAY),
                    # The webhook of alarms, wherever it is.
                    network.internet(443),
                ),
                rules=(
                    Rule(names.SERVING, ("serving.kserve.io",), ("inferenceservices",), _WRITE),
                    Rule(names.SERVING, ("serving.kserve.io",), ("servingruntimes",), ("get",)),
                    Rule(names.SERVING, ("gateway.networking.k8s.io",), ("httproutes",), _WRITE),
                    Rule(names.SERVING, ("",), ("pods", "services", "endpoints"), ("get", "list", "watch")),
                    # Where the gateway's Envoys are, to ask them what they counted.
                    Rule(names.GATEWAY, ("",), ("pods",), ("get", "list")),
                    Rule(names.SYSTEM, ("coordination.k8s.io",), ("leases",), ("get", "create", "update")),
                ),
            ),
            self._options(migration),
        )

    def _create_collector(self, migration: Workload) -> Workload:
        return Workload(
            "collector",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                command=("python", "-m", "slipway.collector"),
                alive=platform_pod.alive("collector"),
                env=platform_pod.variables(),
                volumes=(Scratch(platform_pod.STATE, "2Gi"), *platform_pod.files(*_STORES)),
                requests=Requests("50m", "256Mi", memory_limit="512Mi", scratch="256Mi"),
                egress_to=(*self._data(), network.namespace(names.SERVING, REVISION_PORT)),
                # Where the revisions are, to have them write what they have in memory.
                rules=(Rule(names.SERVING, ("",), ("pods",), ("get", "list")),),
            ),
            self._options(migration),
        )

    def _create_portal(self, migration: Workload) -> Workload:
        portal = Workload(
            "portal",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.SYSTEM,
                image="platform",
                command=("python", "-m", "slipway.portal"),
                env=platform_pod.variables(self.args.registry, listen=PORT),
                ports={"http": PORT},
                health="/.slipway/health",
                volumes=(Scratch(platform_pod.STATE, "256Mi"), *platform_pod.files(*_GIVEN, platform_pod.TOKENS)),
                requests=Requests("50m", "192Mi", memory_limit="384Mi"),
                # While the portal is away nobody passes the gateway.
                replicas=2 if self.site.settings.parts.control_plane.standby else 1,
                succession="overlap",
                ingress_from=(network.namespace(names.GATEWAY, PORT),),
                egress_to=(*self._data(), registry.PEER),
            ),
            self._options(migration),
        )
        self._create_route("portal", names.SYSTEM, "portal", PORT, hidden=())
        return portal

    def _data(self) -> tuple[Peer, ...]:
        """The ledger and the log of answers."""
        return database.peer(self.site.settings), object_store.peer(self.site.settings)

    def _create_login_route(self) -> None:
        """Every dashboard's host lets a browser in by the portal, which gives it a cookie for that host."""
        hosts = [host for door, host in cluster_hosts(self.site.settings).items() if door != "portal"]
        paths = (("Exact", "/.slipway/login"), ("PathPrefix", "/.slipway/static"))
        if hosts:
            self._create_custom(
                "gateway.networking.k8s.io/v1",
                "HTTPRoute",
                "login",
                names.SYSTEM,
                {
                    "parentRefs": [{"name": names.GATEWAY_NAME, "namespace": names.GATEWAY, "sectionName": "https"}],
                    "hostnames": hosts,
                    "rules": [
                        {
                            "matches": [{"path": {"type": kind, "value": path}} for kind, path in paths],
                            "backendRefs": [{"name": "portal", "port": PORT, "weight": 1}],
                        }
                    ],
                },
            )


_STORES = (database.LEDGER.secret, object_store.INFERENCE_LOG.secret)
_GIVEN = (*_STORES, registry.LOGIN)
_WRITE = ("get", "list", "watch", "create", "update", "patch", "delete")
