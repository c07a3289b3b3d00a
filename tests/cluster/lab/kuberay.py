"""KubeRay's operator as a process of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.probes import is_healthy
from tests.cluster.lab.processes import Process, free_ports, wait_until
from tests.cluster.tools.build import find_program, module_folder

READY_WITHIN = 60.0
_MODULE = "github.com/ray-project/kuberay/ray-operator"


def apply_definitions(control_plane: ControlPlane) -> None:
    """Ray's kinds, which Kueue wants to see as well."""
    control_plane.apply_files(sorted((module_folder("kuberay", _MODULE) / "config/crd/bases").glob("ray.io_*.yaml")))


@contextmanager
def kuberay(control_plane: ControlPlane) -> Iterator[Process]:
    """Ready when entered; its definitions must be there. Its chart is in no module, so it works as administrator."""
    probes, metrics = free_ports(2)
    process = Process(
        "kuberay-operator",
        [
            find_program("kuberay-operator"),
            f"-kubeconfig={control_plane.kubeconfig}",
            "-enable-leader-election=false",
            f"-health-probe-bind-address=127.0.0.1:{probes}",
            f"-metrics-addr=127.0.0.1:{metrics}",
        ],
        control_plane.folder,
        {"KUBECONFIG": str(control_plane.kubeconfig)},
    )
    try:
        wait_until("KubeRay's operator is ready", lambda: is_healthy(probes, "/readyz"), READY_WITHIN, [process])
        yield process
    finally:
        process.stop()
