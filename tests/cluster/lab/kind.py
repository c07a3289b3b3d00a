"""A cluster of kind's in the place of our own processes: `CLUSTER=kind make test-cluster`, where Docker is.

Nodes are simulated there, too, and kind's own takes no pod of the tests. Controllers stay processes of this machine, so
that the same tests run: the API server in its container calls their webhooks at the address that Docker gives the host.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.processes import LabError

Object = dict[str, Any]

CLUSTER = "CLUSTER"
CREATED_WITHIN = 600
_ASK_WITHIN = 60
IMAGE = "kindest/node:v1.35.4"
_TAINT = "slipway.dev/not-for-tests=true:NoSchedule"


def new_cluster(folder: Path) -> ControlPlane:
    """The cluster that the variable CLUSTER asks for: `kind`, or unset for our own processes. It is not started."""
    asked = os.environ.get(CLUSTER, "")
    if asked not in ("", "kind"):
        raise LabError(f"{CLUSTER}={asked} is unknown: set it to kind, or leave it out")
    return KindCluster(folder) if asked else ControlPlane(folder)


class KindCluster(ControlPlane):
    """Created and deleted once."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # Two runs at a time have different ports, so different names as well.
        self._name = f"slipway-lab-{self._api_port}"

    def start(self) -> None:
        """Returns when nodes are ready. Raises LabError: kind or Docker is missing, or says why not."""
        for program in ("kind", "docker"):
            if not shutil.which(program):
                raise LabError(f"CLUSTER=kind needs {program}, which is not on the PATH")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = ("--name", self._name, "--image", IMAGE, "--kubeconfig", str(self.kubeconfig), "--wait", "180s")
        _run("kind", "create", "cluster", *options, within=CREATED_WITHIN)
        self._read_kubeconfig()
        self.webhook_host = self._find_host()
        self.kubectl("taint", "nodes", "--all", _TAINT)
        self._start("kwok", self._kwok())
        self._wait("controllers work", lambda: self._ask("/api/v1/namespaces/default/serviceaccounts/default"))

    def stop(self) -> None:
        super().stop()
        if self.kubeconfig.is_file():
            _run("kind", "delete", "cluster", "--name", self._name, "--kubeconfig", str(self.kubeconfig))

    def _read_kubeconfig(self) -> None:
        self.kubeconfig.chmod(0o600)
        document: Object = yaml.safe_load(self.kubeconfig.read_text())
        (cluster,), (user,) = document["clusters"], document["users"]
        self.url = cluster["cluster"]["server"]
        self._pki.mkdir(mode=0o700)
        for name, text in (
            ("cluster.crt", cluster["cluster"]["certificate-authority-data"]),
            ("admin.crt", user["user"]["client-certificate-data"]),
            ("admin.key", user["user"]["client-key-data"]),
        ):
            file = self._pki / name
            file.touch(0o600)
            file.write_bytes(base64.b64decode(text))
        self._context = ssl.create_default_context(cafile=str(self._pki / "cluster.crt"))
        self._context.load_cert_chain(self._pki / "admin.crt", self._pki / "admin.key")

    @staticmethod
    def _find_host() -> str:
        """This machine as kind's containers see it."""
        networks: list[Object] = json.loads(_run("docker", "network", "inspect", "kind"))
        gateways = [each.get("Gateway", "") for network in networks for each in network["IPAM"]["Config"]]
        return next(address for address in gateways if "." in address)


def _run(*command: str, within: int = _ASK_WITHIN) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command[:3])}: {done.stderr.strip()}")
    return done.stdout
