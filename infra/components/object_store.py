"""The object store: SeaweedFS on one volume, or the cloud's own. One bucket and one credential for each part.

A part reads its credential from the Secret `objects-<user>` in its own namespace. No second copy of the volume is kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.component import Component, Site
from infra.components.pods import Claim, Requests, SecretFiles
from infra.components.workload import Workload, WorkloadArgs

PORT = 8333
_INTERNAL = (9333, 19333, 8888, 18888, 8080, 18080)
"""Master, filer and volume server, each with its gRPC port: for the Job that makes the buckets."""


@dataclass(frozen=True)
class ObjectUser:
    """A credential, the bucket (or prefix) of the same name that it may use, and the namespaces whose pods use it."""

    name: str
    namespaces: tuple[str, ...]

    @property
    def secret(self) -> str:
        return f"objects-{self.name}"


REGISTRY = ObjectUser("registry", (names.SYSTEM,))
INFERENCE_LOG = ObjectUser("inference-log", (names.SYSTEM, names.SERVING, names.TRAINING))
FEATURES = ObjectUser("features", (names.DATA, names.TRAINING))
PIPELINES = ObjectUser("pipelines", (names.TRAINING, names.PIPELINES))


@dataclass(frozen=True)
class ManagedObjectStore:
    """A bucket of the cloud, as the cluster's project exports it; parts share it, each below its own prefix."""

    url: pulumi.Input[str]
    region: pulumi.Input[str]
    bucket: pulumi.Input[str]
    access_key: pulumi.Input[str]
    secret_key: pulumi.Input[str]


@dataclass(frozen=True)
class ObjectStoreArgs:
    site: Site
    users: tuple[ObjectUser, ...] = (REGISTRY, INFERENCE_LOG, FEATURES)
    managed: ManagedObjectStore | None = None


class ObjectStore(Component):
    """An S3 endpoint, buckets, and everybody's credential."""

    def __init__(self, name: str, args: ObjectStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("object_store", name, args.site, opts)
        self.args = args
        self.url: pulumi.Input[str]
        if args.managed:
            self.url = args.managed.url
        else:
            self.url = f"http://{names.service(name, names.DATA)}:{PORT}"
            server = self._create_server()
            self._create_buckets(server)
        for user in args.users:
            self._create_credential(user)
        self.register_outputs({"url": self.url})

    def _keys(self, user: ObjectUser) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        return self.site.secrets.read(f"objects/{user.name}-id"), self.site.secrets.read(f"objects/{user.name}-key")

    def _create_server(self) -> Workload:
        configuration = f"{self.name}-identities"
        keys = pulumi.Output.all(*(key for user in self.args.users for key in self._keys(user)))
        identities = keys.apply(lambda values: identities_json([user.name for user in self.args.users], values))
        self._create_secret(configuration, names.DATA, {"identities.json": identities})
        users = sorted({namespace for user in self.args.users for namespace in user.namespaces})
        return Workload(
            self.name,
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.DATA,
                image="seaweedfs",
                command=("weed",),
                arguments=(
                    "-logtostderr=true",
                    "server",
                    "-dir=/data",
                    "-ip.bind=0.0.0.0",
                    f"-ip={names.service(self.name, names.DATA)}",
                    "-volume.max=0",
                    "-master.volumeSizeLimitMB=1024",
                    "-filer",
                    "-s3",
                    f"-s3.port={PORT}",
                    "-s3.config=/etc/identities/identities.json",
                ),
                ports={"s3": PORT} | {f"internal-{port}": port for port in _INTERNAL},
                volumes=(
                    SecretFiles("/etc/identities", configuration),
                    Claim("/data", self.site.settings.parts.object_store.storage),
                ),
                requests=Requests("50m", "128Mi", memory_limit="1Gi"),
                ingress_from=(
                    *(network.namespace(namespace, PORT) for namespace in users),
                    network.app(f"{self.name}-buckets", *_INTERNAL),
                    network.app(self.name, *_INTERNAL),
                ),
                # Master, filer and volume server are one process, and still call one another by the Service's name.
                egress_to=(network.app(self.name, *_INTERNAL),),
            ),
            self._options(),
        )

    def _create_buckets(self, server: Workload) -> Workload:
        lines = "\n".join(f"s3.bucket.create -name {user.name}" for user in self.args.users)
        master = f"{self.name}:9333"
        return Workload(
            f"{self.name}-buckets",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.DATA,
                image="seaweedfs",
                kind="Job",
                # A bucket that exists is left as it is.
                command=(
                    "/bin/sh",
                    "-ec",
                    f'printf "%s\\n" "{lines}" | weed shell -master={master} -filer={self.name}:8888',
                ),
                requests=Requests("10m", "32Mi", memory_limit="128Mi"),
                egress_to=(network.app(self.name, *_INTERNAL),),
            ),
            self._options(server),
        )

    def _create_credential(self, user: ObjectUser) -> None:
        managed = self.args.managed
        identifier, key = self._keys(user)
        values: dict[str, pulumi.Input[str]] = {
            "AWS_ACCESS_KEY_ID": managed.access_key if managed else identifier,
            "AWS_SECRET_ACCESS_KEY": managed.secret_key if managed else key,
            "AWS_REGION": managed.region if managed else "us-east-1",
            "url": self.url,
            "root": pulumi.Output.concat("s3://", managed.bucket, "/", user.name) if managed else f"s3://{user.name}",
        }
        for namespace in user.namespaces:
            self._create_secret(user.secret, namespace, values)


def identities_json(users: list[str], keys: list[str]) -> str:
    """SeaweedFS's list of who may do what: each its own bucket, nobody all of them. `keys`: id and key in turn."""
    pairs = zip(keys[::2], keys[1::2], strict=True)
    identities = [
        {
            "name": user,
            "credentials": [{"accessKey": identifier, "secretKey": key}],
            "actions": [f"{action}:{user}" for action in ("Read", "Write", "List", "Tagging")],
        }
        for user, (identifier, key) in zip(users, pairs, strict=True)
    ]
    return json.dumps({"identities": identities}, indent=1)
