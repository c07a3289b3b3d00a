"""GPUs: the device plugin that offers them to pods, one and never two, and how one GPU is shared.

Installs no driver: node images of the clouds bring theirs, and an existing cluster has its own ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes.apps.v1 import DaemonSet, DaemonSetSpecArgs
from pulumi_kubernetes.core.v1 import (
    CapabilitiesArgs,
    ConfigMapVolumeSourceArgs,
    ContainerArgs,
    HostPathVolumeSourceArgs,
    PodSecurityContextArgs,
    PodSpecArgs,
    PodTemplateSpecArgs,
    SeccompProfileArgs,
    SecurityContextArgs,
    TolerationArgs,
    VolumeArgs,
    VolumeMountArgs,
)
from pulumi_kubernetes.meta.v1 import LabelSelectorArgs, ObjectMetaArgs

from infra.components import names, network
from infra.components.chart import HelmChart, HelmChartArgs
from infra.components.component import Component, Site
from infra.components.pods import Requests
from infra.components.training import GPU_NODE, GPU_TAINT

PLUGIN = Requests("10m", "64Mi", memory_limit="128Mi")
_SOCKETS = "/var/lib/kubelet/device-plugins"


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

    def _create_device_plugin(self) -> DaemonSet:
        """For nodes that have driver and toolkit (EKS, an existing cluster). It asks the API server nothing."""
        name = "nvidia-device-plugin"
        configuration = self._create_config(name, names.GPU, {"config.json": json.dumps(self._sharing())})
        container = ContainerArgs(
            name=name,
            image=self.site.image("nvidia_device_plugin"),
            image_pull_policy="IfNotPresent",
            command=["nvidia-device-plugin", "--config-file=/etc/nvidia-device-plugin/config.json"],
            resources=PLUGIN.as_args(),
            security_context=SecurityContextArgs(
                allow_privilege_escalation=False,
                capabilities=CapabilitiesArgs(drop=["ALL"]),
                privileged=False,
                read_only_root_filesystem=True,
                seccomp_profile=SeccompProfileArgs(type="RuntimeDefault"),
            ),
            volume_mounts=[
                VolumeMountArgs(name="sockets", mount_path=_SOCKETS),
                VolumeMountArgs(name="configuration", mount_path="/etc/nvidia-device-plugin", read_only=True),
            ],
        )
        return DaemonSet(
            name,
            metadata=self._metadata(name, names.GPU),
            spec=DaemonSetSpecArgs(
                selector=LabelSelectorArgs(match_labels={"app.kubernetes.io/name": name}),
                template=PodTemplateSpecArgs(
                    metadata=ObjectMetaArgs(
                        labels=self._labels(name),
                        annotations={
                            "slipway.dev/configuration": self.site.contents.digest("ConfigMap", names.GPU, name)
                        },
                    ),
                    spec=PodSpecArgs(
                        automount_service_account_token=False,
                        enable_service_links=False,
                        priority_class_name="system-node-critical",
                        security_context=PodSecurityContextArgs(
                            seccomp_profile=SeccompProfileArgs(type="RuntimeDefault")
                        ),
                        node_selector=GPU_NODE,
                        tolerations=[
                            TolerationArgs(
                                key=GPU_TAINT["key"],
                                operator="Equal",
                                value=GPU_TAINT["value"],
                                effect=GPU_TAINT["effect"],
                            )
                        ],
                        containers=[container],
                        volumes=[
                            VolumeArgs(
                                name="sockets",
                                # Where the kubelet waits for plugins to say what they offer; root's own.
                                host_path=HostPathVolumeSourceArgs(path=_SOCKETS, type="Directory"),
                            ),
                            VolumeArgs(name="configuration", config_map=ConfigMapVolumeSourceArgs(name=name)),
                        ],
                    ),
                ),
            ),
            opts=self._options(configuration),
        )

    def _create_operator(self) -> HelmChart:
        """Where the node's driver is left out (AKS, `driver = none`) or GPUs are cut up by MIG (an existing cluster).

        How is said by each node's label `nvidia.com/mig.config`, set by whoever keeps the nodes. Where an autoscaler
        starts them, pods would come before the parts are made: the settings refuse that.
        """
        part = self.site.settings.parts.gpu
        return HelmChart(
            "gpu-operator",
            HelmChartArgs(
                site=self.site,
                part=self.part,
                pin="gpu_operator",
                namespace=names.GPU,
                restricted=False,
                # A driver's container fetches the kernel's headers from the distribution, over HTTP.
                egress_to=(network.internet(80),) if self.site.settings.provider == "aks" else (),
                pods={
                    "gpu-operator": Requests("50m", "128Mi", memory_limit="512Mi"),
                    "gpu-operator-node-feature-discovery-master": Requests("20m", "64Mi", memory_limit="512Mi"),
                    "gpu-operator-node-feature-discovery-gc": Requests("10m", "32Mi", memory_limit="128Mi"),
                    "gpu-operator-node-feature-discovery-worker": Requests("10m", "32Mi", memory_limit="128Mi"),
                },
                values={
                    "driver": {
                        "enabled": self.site.settings.provider == "aks",
                        "manager": self._image("gpu_driver_manager"),
                        **self._image("gpu_driver"),
                    },
                    "toolkit": {"enabled": self.site.settings.provider == "aks", **self._image("gpu_toolkit")},
                    "operator": {
                        "upgradeCRD": False,
                        "cleanupCRD": False,
                        "initContainer": self._image("gpu_init"),
                        **self._image("gpu_operator"),
                        # The chart's own pod, which would spell a digest as a tag; it is run by digest all the same.
                        "version": self.site.versions.image("gpu_operator").tag,
                    },
                    "validator": self._image("gpu_operator"),
                    "gfd": self._image("nvidia_device_plugin"),
                    "daemonsets": {"tolerations": [GPU_TAINT]},
                    "mig": {"strategy": "single" if part.sharing == "mig" else "none"},
                    "migManager": {"enabled": part.sharing == "mig", **self._image("gpu_mig_manager")},
                    "devicePlugin": {
                        **self._image("nvidia_device_plugin"),
                        "config": {
                            "create": True,
                            "name": "sharing",
                            "default": "default",
                            "data": {"default": json.dumps(self._sharing())},
                        },
                    },
                    "dcgmExporter": {"enabled": False},
                },
            ),
            self._options(),
        )

    def _image(self, name: str) -> dict[str, str]:
        """Of a pod that the operator makes: no object that could be changed names it, so the values do."""
        pin = self.site.versions.image(name)
        repository, _, image = pin.repository(self.site.settings.mirror.registry).rpartition("/")
        return {"repository": repository, "image": image, "version": pin.digest or pin.tag}

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
