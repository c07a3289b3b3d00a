"""A user's place of work: a cluster, an environment file with a few parts, a mirror as `slipway mirror pull` leaves it.

What is typed here runs as a process of its own, as it does for a user.
"""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.components import names
from infra.provenance import list_used
from infra.pulumi_cli import TOOLS
from slipway.environment import open_environment
from slipway.mirror.pins import read_pins, write_digests
from slipway.mirror.versions import load_versions
from tests.cluster import shelf
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import plugin, servicer
from tests.cluster.tools.build import tools_folder

SLIPWAY = Path(sys.executable).with_name("slipway")
ANSWERS_WITHIN = 900.0
"""Seconds for one command."""
PARTS = """
[kubernetes.parts]
database.enabled = false
object_store.enabled = false
registry.enabled = false
features.enabled = false
pipelines.enabled = false
training.enabled = false
serving.enabled = false
monitoring.enabled = false
control_plane.enabled = false
"""
"""What is left: cert-manager (which the cluster has), the cache, queues; the gateway where a test asks for it."""


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    def transcript(self, command: str) -> str:
        """What a person sees who typed it."""
        return f"$ {command}    (exit {self.code})\n{self.text}"


@dataclass(frozen=True)
class Site:
    folder: Path
    cluster: ControlPlane
    variables: Mapping[str, str]

    @property
    def mirror(self) -> Path:
        return self.folder / "mirror"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write_environment(
        self, name: str, *, kubeconfig: Path | None = None, parts: str = "", more: str = "", existing: bool = True
    ) -> Path:
        """An environment file; `parts` are lines of `[kubernetes.parts]`, `more` of `[kubernetes]`.

        `existing`: cert-manager, which the cluster has, is taken as it is.
        """
        file = self.folder / f"{name}.toml"
        gateway = "" if "gateway." in parts else "gateway.enabled = false\n"
        file.write_text(
            f'name = "{name}"\ntarget = "kubernetes"\nstate_dir = "{self.state / name}"\n[kubernetes]\n{more}\n'
            f'provider = "existing"\nkubeconfig = "{kubeconfig or self.cluster.kubeconfig}"\n'
            f'mirror.dir = "{self.mirror}"\n{PARTS}{gateway}cert_manager.existing = {str(existing).lower()}\n{parts}\n'
        )
        return file

    def create_account(self, name: str, rules: list[dict[str, list[str]]]) -> None:
        """A service account in `default` that may do this, everywhere, and nothing else."""
        rbac = "rbac.authorization.k8s.io"
        account = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
        role = {"apiGroup": rbac, "kind": "ClusterRole", "name": name}
        binding = {"roleRef": role, "subjects": [account]}
        named = {"metadata": {"name": name}}
        self.cluster.apply(
            [
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}},
                {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "rules": rules, **named},
                {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", **binding, **named},
            ]
        )

    def type(self, file: Path, *arguments: str, **variables: str) -> Said:
        """`slipway --env FILE ...`, with nobody at a terminal."""
        done = subprocess.run(
            [SLIPWAY, "--env", file, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=ANSWERS_WITHIN,
            env={**os.environ, **self.variables, **variables},
            cwd=plugin.REPOSITORY,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def start(self, file: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The same at a terminal, its output to be read by and by; `stdin` is where a person types."""
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "w", buffering=1) as keyboard, os.fdopen(theirs) as terminal:
            process = subprocess.Popen(
                [SLIPWAY, "--env", file, *arguments],
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                bufsize=1,
                env={**os.environ, **self.variables},
                cwd=plugin.REPOSITORY,
            )
            with process:
                process.stdin = keyboard
                try:
                    yield process
                finally:
                    process.stdin = None
                    if process.poll() is None:
                        process.kill()


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """With a cluster of its own: what other tests left would be refused as somebody else's."""
    with ControlPlane(folder / "cluster") as cluster:
        _furnish(cluster)
        home = plugin.install(folder / "pulumi")
        variables = {
            "PULUMI_HOME": str(home),
            TOOLS: str(tools_folder()),
            "PATH": f"{tools_folder()}{os.pathsep}{os.environ['PATH']}",
            servicer.NO_OPERATORS: "true",
        }
        site = Site(folder, cluster, variables)
        _fill_mirror(site)
        yield site


def _furnish(cluster: ControlPlane) -> None:
    """A default StorageClass, and cert-manager as another release brought it: definitions, namespace."""
    certificates = [file for file in shelf.definitions(load_versions()) if "cert-manager" in str(file)]
    cluster.apply_files(certificates)
    found = [item["metadata"]["name"] for item in cluster.list("customresourcedefinitions")]
    for note in ("release-name=certs", "release-namespace=tools"):
        cluster.kubectl("annotate", "crd", *found, f"meta.helm.sh/{note}")
    cluster.create_namespace(names.CERT_MANAGER)
    standard = {"storageclass.kubernetes.io/is-default-class": "true"}
    cluster.apply([storage_class("standard", standard)])


def storage_class(name: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": dict(annotations)},
        "provisioner": "example.com/none",
    }


def _fill_mirror(site: Site) -> None:
    """The charts that Go's modules carry, each where the mirror keeps it, with its digest; images by digest alone."""
    site.mirror.mkdir()
    versions = load_versions()
    shelf.fill(site.folder / "shelf", versions)
    everything = site.write_environment("mirrored", parts="gateway.enabled = true")
    used = list_used(open_environment(str(everything)).settings)
    digests = {}
    for pin in read_pins():
        if pin.key not in used:
            continue
        if pin.kind == "images":
            digests[pin.key] = pin.digest or f"sha256:{hashlib.sha256(pin.key.encode()).hexdigest()}"
            continue
        file = site.mirror / pin.file
        file.parent.mkdir(exist_ok=True)
        _pack(site.folder / "shelf" / pin.chart, file)
        digests[pin.key] = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    write_digests(site.mirror, digests)


def _pack(chart: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(chart, arcname=chart.name)
