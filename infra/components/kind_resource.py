"""A kind cluster as a resource of Pulumi, kept by the `kind` command line, which has no provider.

What Pulumi calls runs in a process of its own, started by the engine; what goes wrong there is told in one line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

_CREATED_WITHIN = "5m"
_WITHIN = 600
"""Seconds for one call; pulling the node's image is most of them."""


class KindCluster(Resource, name="KindCluster"):
    """A cluster in containers of this machine. `kubeconfig` is secret: it holds the administrator's key."""

    kubeconfig: pulumi.Output[str]

    def __init__(self, name: str, cluster: str, image: str, configuration: str, opts: pulumi.ResourceOptions) -> None:
        super().__init__(
            KindProvider(),
            name,
            # The image stands in the configuration, too: here it is found by whoever asks what is pulled.
            {"name": cluster, "image": image, "configuration": configuration, "kubeconfig": None},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["kubeconfig"])),
        )


class KindProvider(ResourceProvider):
    """Create, read and delete; a cluster that stands is never changed."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Raises RuntimeError with what kind said. kind itself takes away what it could not finish."""
        name = props["name"]
        if name in list_clusters():
            # Our last run died after kind was through, or the state is lost. A cluster that answers is taken as it is.
            return CreateResult(name, _outputs(props, _read_kubeconfig(name)))
        with tempfile.TemporaryDirectory() as folder:
            # Not into the user's own kubeconfig: whoever wants it there asks for it.
            file = Path(folder, "kubeconfig")
            run_kind(
                *("create", "cluster", "--name", name, "--config", "-"),
                *("--kubeconfig", str(file), "--wait", _CREATED_WITHIN),
                given=props["configuration"],
            )
            return CreateResult(name, _outputs(props, file.read_text()))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """An empty id says that it is gone, and `up` makes it anew."""
        if id_ not in list_clusters():
            return ReadResult("", {})
        return ReadResult(id_, _outputs(props, _read_kubeconfig(id_)))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        changed = _olds.get("configuration") != _news.get("configuration")
        return DiffResult(changes=changed or _olds.get("name") != _news.get("name"))

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        """Refuses: another node would be another cluster, and the volumes are in this one."""
        raise RuntimeError(
            f"{_id} cannot change while it stands, and replacing it would delete its volumes. "
            "Take the setting back (version, mirror.registry), or take the cluster down and up again"
        )

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        run_kind("delete", "cluster", "--name", _id)


def list_clusters() -> list[str]:
    """Names of the kind clusters on this machine, stopped ones, too."""
    return run_kind("get", "clusters", "--quiet").split()


def run_kind(*arguments: str, given: str = "") -> str:
    """What it prints. Raises RuntimeError: kind is missing, failed, or took too long."""
    folder = os.environ.get("SLIPWAY_TOOLS")
    program = (shutil.which("kind", path=folder) if folder else None) or shutil.which("kind")
    if not program:
        raise RuntimeError("kind is not installed: https://kind.sigs.k8s.io/docs/user/quick-start/#installation")
    try:
        done = subprocess.run(
            [program, *arguments], input=given, capture_output=True, text=True, timeout=_WITHIN, check=True
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"kind {' '.join(arguments[:2])}: {_last_words(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"kind {' '.join(arguments[:2])}: no end after {_WITHIN} s") from None
    return done.stdout


def _read_kubeconfig(name: str) -> str:
    try:
        return run_kind("get", "kubeconfig", "--name", name)
    except RuntimeError as error:
        raise RuntimeError(f"{error}. If {name} is half made: kind delete cluster --name {name}") from None


def _outputs(props: dict[str, Any], kubeconfig: str) -> dict[str, Any]:
    return {key: props[key] for key in ("name", "image", "configuration")} | {"kubeconfig": kubeconfig}


def _last_words(said: str) -> str:
    """kind prints its steps first, then its error, and what Docker said of it on a line of its own."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for sign in ("Command Output: ", "ERROR: "):
        if told := [line.removeprefix(sign) for line in lines if line.startswith(sign)]:
            return told[-1]
    return lines[-1] if lines else "it said nothing"
