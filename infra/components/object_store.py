"""The object store: SeaweedFS on one volume, or the cloud's own. One bucket or prefix and one credential for each part.

A part reads its credential from the Secret `objects-<user>` in its own namespace. No second copy of the volume is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from infra.components import names, network
from infra.components.cert_manager import AUTHORITY_FILE
from infra.components.component import Component, Site
from infra.components.network import Peer
from infra.components.pods import Claim, Requests, SecretFiles
from infra.components.workload import CERTIFICATE, Workload, WorkloadArgs
from infra.quantity import parse_bytes
from slipway import pod
from slipway.kubernetes_settings import KubernetesSettings

PORT = 8333
_INTERNAL = (9333, 19333, 8888, 18888, 8080, 18080)
"""Master, filer and volume server, each with its gRPC port: for the Job that makes the buckets."""
_SMALLEST_VOLUME, _LARGEST_VOLUME = 64, 30_000
"""In MB; SeaweedFS takes none that is larger."""

# To make a bucket that exists fails, and a bucket that is not there must fail the Job.
_MAKE_BUCKETS = """
there=$(echo s3.bucket.list | {shell})
for name in "$@"; do
  case "$there" in *"  $name\t"*) ;; *) echo "s3.bucket.create -name $name" ;; esac
done | {shell}
"""


@dataclass(frozen=True)
class ObjectUser:
    """A credential, the bucket (or prefix) of the same name that it may use, and the namespaces whose pods use it."""

    name: str
    namespaces: tuple[str, ...]
    steps: bool = False
    """Whether steps of runs use it, each in a pod of its own."""

    @property
    def secret(self) -> str:
        return f"objects-{self.name}"


REGISTRY = ObjectUser("registry", (names.SYSTEM,))
INFERENCE_LOG = ObjectUser(pod.INFERENCE_LOG, (names.SYSTEM, names.SERVING, names.TRAINING))
FEATURES = ObjectUser(pod.FEATURES, (names.SYSTEM, names.TRAINING), steps=True)
"""What is published: raw events, and the history of features."""
SNAPSHOTS = ObjectUser(pod.SNAPSHOTS, (names.SYSTEM, names.TRAINING), steps=True)
"""The rows that runs were trained on, which monitors compare with."""
REPORTS = ObjectUser(pod.REPORTS, (names.SYSTEM,))
USERS = (REGISTRY, INFERENCE_LOG, FEATURES, SNAPSHOTS, REPORTS)
PIPELINES = ObjectUser(pod.PIPELINES, (names.TRAINING, names.PIPELINES))
"""Kubeflow Pipelines, where it stands."""


def users_of(settings: KubernetesSettings) -> tuple[ObjectUser, ...]:
    """Whoever keeps objects under these settings: both projects make the credentials of these, and of nobody else."""
    pipelines = settings.parts.pipelines
    kubeflow = (PIPELINES,) if pipelines.enabled and pipelines.engine == "kfp" else ()
    return (*USERS, *kubeflow)


@dataclass(frozen=True)
class ObjectKey:
    """A credential for what lies in the bucket below its user's name, and for nothing else."""

    access_key: pulumi.Input[str]
    secret_key: pulumi.Input[str]


@dataclass(frozen=True)
class ManagedObjectStore:
    """A bucket of the cloud, as the cluster's project exports it; parts share it, each below its own prefix."""

    url: pulumi.Input[str]
    region: pulumi.Input[str]
    bucket: pulumi.Input[str]
    keys: Mapping[str, ObjectKey]
    """By the name of the user."""


@dataclass(frozen=True)
class ObjectStoreArgs:
    site: Site
    managed: ManagedObjectStore | None = None


def peer(settings: KubernetesSettings) -> Peer:
    """Where a pod that uses the object store has to reach: a cloud's answers at public addresses."""
    if settings.managed.object_store:
        return network.internet(443)
    return network.app("object-store", PORT, namespace=names.DATA)


class ObjectStore(Component):
    """An S3 endpoint, buckets, and everybody's credential."""

    def __init__(self, name: str, args: ObjectStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("object_store", name, args.site, opts)
        self.args = args
        self.users = users_of(args.site.settings)
        self.url: pulumi.Input[str]
        if args.managed:
            self.url = args.managed.url
        else:
            self.url = f"https://{names.service(name, names.DATA)}:{PORT}"
            server = self._create_server()
            self._create_buckets(server)
        for user in self.users:
            self._create_credential(user)
        self.register_outputs({"url": self.url})

    def _keys(self, user: ObjectUser) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        return self.site.secrets.read(f"objects/{user.name}-id"), self.site.secrets.read(f"objects/{user.name}-key")

    def _create_server(self) -> Workload:
        configuration = f"{self.name}-identities"
        keys = pulumi.Output.all(*(key for user in self.users for key in self._keys(user)))
        identities = keys.apply(lambda values: identities_json([user.name for user in self.users], values))
        self._create_secret(configuration, names.DATA, {"identities.json": identities})
        users = sorted({namespace for user in self.users for namespace in user.namespaces})
        storage = self.site.settings.parts.object_store.storage
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
                    # It is the only one: without this a new start waits for votes, 20 s without a write.
                    "-master.peers=none",
                    "-volume.max=0",
                    # Nobody else is told that it stops.
                    "-volume.preStopSeconds=0",
                    f"-master.volumeSizeLimitMB={volume_megabytes(storage)}",
                    # It would tell its makers of the store, from 10 GiB on.
                    "-master.telemetry=false",
                    "-filer",
                    "-s3",
                    f"-s3.port={PORT}",
                    # Catalogues of tables that nobody keeps here, on ports of their own, in clear.
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    # Users are those of the file below, and nobody asks who they are.
                    "-s3.iam=false",
                    "-s3.config=/etc/identities/identities.json",
                    # With these, and without a second port for HTTPS, the one above speaks nothing else.
                    f"-s3.cert.file={CERTIFICATE}/tls.crt",
                    f"-s3.key.file={CERTIFICATE}/tls.key",
                ),
                env={
                    # A bucket's first object makes one file of that size, not seven.
                    "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
                    # Many large objects at once would else take it near its limit.
                    "GOMEMLIMIT": "512MiB",
                    # Large objects that were begun and never ended, as by a killed pod, would stay for ever.
                    "WEED_MASTER_MAINTENANCE_SCRIPTS": "s3.clean.uploads -timeAgo=24h",
                },
                ports={"s3": PORT} | {f"internal-{port}": port for port in _INTERNAL},
                tls=True,
                health="/healthz",
                volumes=(
                    SecretFiles("/etc/identities", configuration),
                    Claim("/data", storage),
                ),
                requests=Requests("50m", "256Mi", memory_limit="1Gi", cpu_limit="1"),
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
        shell = f"weed shell -master={self.name}:9333 -filer={self.name}:8888"
        return Workload(
            f"{self.name}-buckets",
            WorkloadArgs(
                site=self.site,
                part=self.part,
                namespace=names.DATA,
                image="seaweedfs",
                kind="Job",
                command=(
                    "/bin/sh",
                    "-ec",
                    _MAKE_BUCKETS.format(shell=shell),
                    "sh",
                    *(each.name for each in self.users),
                ),
                requests=Requests("10m", "32Mi", memory_limit="128Mi"),
                egress_to=(network.app(self.name, *_INTERNAL),),
            ),
            self._options(server),
        )

    def _create_credential(self, user: ObjectUser) -> None:
        managed = self.args.managed
        if managed:
            identifier, key = managed.keys[user.name].access_key, managed.keys[user.name].secret_key
        else:
            identifier, key = self._keys(user)
        values: dict[str, pulumi.Input[str]] = {
            "AWS_ACCESS_KEY_ID": identifier,
            "AWS_SECRET_ACCESS_KEY": key,
            "AWS_REGION": managed.region if managed else "us-east-1",
            "url": self.url,
            "root": pulumi.Output.concat("s3://", managed.bucket, "/", user.name) if managed else f"s3://{user.name}",
        }
        # Whose certificate the store shows; empty: one that everybody trusts.
        values["authority"] = "" if managed else AUTHORITY_FILE
        # Both files that Amazon's clients read, in one.
        values["aws"] = pulumi.Output.concat(
            "[default]\naws_access_key_id = ", values["AWS_ACCESS_KEY_ID"],
            "\naws_secret_access_key = ", values["AWS_SECRET_ACCESS_KEY"],
            "\nregion = ", values["AWS_REGION"], "\nendpoint_url = ", values["url"],
            "\n" if managed else f"\nca_bundle = {AUTHORITY_FILE}\n",
        )  # fmt: skip
        for namespace in self.site.with_steps(user.namespaces) if user.steps else user.namespaces:
            self._create_secret(user.secret, namespace, values)


def volume_megabytes(storage: str) -> int:
    """How large a file of objects grows on a disk of this size (`10Gi`).

    Every bucket has files of its own, and each takes the whole of this from what others may use: few large ones would
    leave later buckets without any.
    """
    return min(max(parse_bytes(storage) // (100 * 2**20), _SMALLEST_VOLUME), _LARGEST_VOLUME)


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
