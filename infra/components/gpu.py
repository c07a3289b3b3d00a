"""GPUs: the device plugin that offers them to pods, one and never two, and how one GPU is shared.

Installs no driver: node images of the clouds bring theirs, and an existing cluster has its own ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi

from infra.components import names
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests
from infra.components.training import GPU_NODE, GPU_TAINT


@dataclass(frozen=True)
class GpuArgs:
    site: Site


class Gpu(Component):
    """What makes `nvidia.com/gpu` a resource."""

    def __init__(self, name: str, args: GpuArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("gpu", name, args.site, opts)
        settings = args.site.settings
        # GKE runs its own plugin on every GPU pool, whatever is installed here.
        if not settings.parts.gpu.existing and settings.provider != "gke":
            if settings.provider == "aks" or settings.parts.gpu.sharing == "mig":
                self._create_operator()
            else:
                self._create_device_plugin()
        self.register_outputs({})

    def _create_device_plugin(self) -> HelmChart:
        """For nodes that have driver and toolkit (EKS, an existing cluster)."""
        return HelmChart(
            "nvidia-device-plugin",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="nvidia_device_plugin",
                namespace=names.GPU,
                restricted=False,
                pods={"nvidia-device-plugin": Requests("10m", "64Mi", memory_limit="128Mi")},
                values={
                    "nodeSelector": GPU_NODE,
                    "tolerations": [GPU_TAINT],
                    # Its own choice of nodes asks for labels that a discovery DaemonSet would set.
                    "affinity": None,
                    "gfd": {"enabled": False},
                    "nfd": {"enabled": False},
                    "config": {"map": {"default": json.dumps(self._sharing())}, "default": "default"},
                },
            ),
            self._options(),
        )

    def _create_operator(self) -> HelmChart:
        """Where the node's driver is left out (AKS, `driver = none`) or MIG partitions must be made."""
        part = self.site.settings.parts.gpu
        return HelmChart(
            "gpu-operator",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="gpu_operator",
                namespace=names.GPU,
                restricted=False,
                pods={"gpu-operator": Requests("50m", "128Mi", memory_limit="512Mi")},
                values={
                    "driver": {"enabled": self.site.settings.provider == "aks"},
                    "toolkit": {"enabled": self.site.settings.provider == "aks"},
                    "operator": {"upgradeCRD": False, "cleanupCRD": False},
                    "daemonsets": {"tolerations": [GPU_TAINT]},
                    "mig": {"strategy": "single" if part.sharing == "mig" else "none"},
                    "migManager": {"enabled": part.sharing == "mig"},
                    "devicePlugin": {
                        "config": {
                            "create": True,
                            "name": "sharing",
                            "default": "default",
                            "data": {"default": json.dumps(self._sharing())},
                        }
                    },
                    "dcgmExporter": {"enabled": False},
                },
            ),
            self._options(),
        )

    def _sharing(self) -> dict[str, Any]:
        """The device plugin's configuration. Slices of time share memory without a wall between them."""
        part = self.site.settings.parts.gpu
        configuration: dict[str, Any] = {
            "version": "v1",
            "flags": {"migStrategy": "single" if part.sharing == "mig" else "none", "failOnInitError": False},
        }
        if part.sharing == "time_slicing":
            resources = [{"name": "nvidia.com/gpu", "replicas": part.slices}]
            configuration["sharing"] = {"timeSlicing": {"failRequestsGreaterThanOne": True, "resources": resources}}
        return configuration
