"""Our own processes: the controller, the collector, the portal, and the Job that brings the ledger to their release.

One controller decides at a time: a lone pod that is replaced only when it is gone, or two that share a Lease.
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from infra.components import database, names, network, object_store, registry
from infra.components.component import Component, Site
from infra.components.pipelines import platform_environment
from infra.components.pods import FromSecret, Requests, Scratch, SecretFiles
from infra.components.serving import PORT as REVISION_PORT
from infra.components.workload import Rule, Workload, WorkloadArgs
from slipway.tokens import ROLES

PORT = 8080
TOKENS = "tokens"
_MIGRATE = (
    "from slipway.environment import open_environment; from slipway.ledger import open_ledger; "
    "open_ledger(open_environment())"
)


@dataclass(frozen=True)
class ControlPlaneArgs:
    site: Site
    registry: str
    """Address of MLflow."""


class ControlPlane(Component):
    """What decides, records and shows."""

    def __init__(self, name: str, args: ControlPlaneArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("control_plane", name, args.site, opts)
        self.environment = {
            **platform_environment(args.site, args.registry),
            "SLIPWAY_LISTEN": f"0.0.0.0:{PORT}",
        }
        # The same files that the command line reads on the machine that stands the stack up.
        self._create_secret(TOKENS, names.SYSTEM, {role: args.site.secrets.read(f"tokens/{role}") for role in ROLES})
        migration = self._create_migration()
        self._create_controller(migration)
        self._create_collector(migration)
        self._create_portal(migration)
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
                command=("python", "-c", _MIGRATE),
                env=self.environment,
                volumes=(Scratch("/state"),),
                requests=Requests("50m", "128Mi", memory_limit="256Mi"),
                egress_to=(_DATABASE,),
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
                env={**self.environment, "SLIPWAY_LEASE": f"{names.SYSTEM}/controller"},
                volumes=(Scratch("/state", "256Mi"), SecretFiles("/etc/tokens", TOKENS)),
                requests=Requests("50m", "256Mi", memory_limit="512Mi"),
                replicas=2 if standby else 1,
                egress_to=(
                    _DATABASE,
                    _REGISTRY,
                    network.namespace(names.SERVING, REVISION_PORT),
                    network.namespace(names.GATEWAY, 19001),
                    network.internet(443),
                ),
                rules=(
                    Rule(names.SERVING, ("serving.kserve.io",), ("inferenceservices",), _WRITE),
                    Rule(names.SERVING, ("serving.kserve.io",), ("servingruntimes",), ("get",)),
                    Rule(names.SERVING, ("gateway.networking.k8s.io",), ("httproutes",), _WRITE),
                    Rule(names.SERVING, ("",), ("pods", "services", "endpoints"), ("get", "list", "watch")),
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
                env=self.environment,
                volumes=(Scratch("/state", "2Gi"), SecretFiles("/etc/tokens", TOKENS)),
                requests=Requests("50m", "256Mi", memory_limit="512Mi", scratch="256Mi"),
                egress_to=(
                    _DATABASE,
                    network.namespace(names.DATA, object_store.PORT),
                    network.namespace(names.SERVING, REVISION_PORT),
                    network.internet(443),
                ),
                # Which revisions there are.
                rules=(Rule(names.SERVING, ("",), ("services", "endpoints"), ("get", "list", "watch")),),
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
                env={
                    **self.environment,
                    "SLIPWAY_TOKENS": "/etc/tokens",
                    "SLIPWAY_SESSION_KEY": FromSecret("portal-sessions", "key"),
                },
                ports={"http": PORT},
                volumes=(Scratch("/state", "256Mi"), SecretFiles("/etc/tokens", TOKENS)),
                requests=Requests("50m", "192Mi", memory_limit="384Mi"),
                # While the portal is away nobody passes the gateway.
                replicas=2 if self.site.settings.parts.control_plane.standby else 1,
                ingress_from=(network.namespace(names.GATEWAY, PORT),),
                egress_to=(_DATABASE, _REGISTRY, network.namespace(names.DATA, object_store.PORT)),
            ),
            self._options(
                migration,
                self._create_secret(
                    "portal-sessions", names.SYSTEM, {"key": self.site.secrets.read("portal/session-key")}
                ),
            ),
        )
        self._create_route("portal", names.SYSTEM, "portal", PORT)
        return portal


_WRITE = ("get", "list", "watch", "create", "update", "patch", "delete")
_DATABASE = network.anyone(database.PORT)
_REGISTRY = network.app("registry", registry.PORT)
