"""The lab as fixtures: one control plane for all tests of this folder, each controller started when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.components import names
from infra.components.training import GPU_NODE, GPU_TAINT
from slipway.environment import Environment
from slipway.settings import Settings
from tests.cluster.lab import envoy_gateway as lab_gateway
from tests.cluster.lab import nodes
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.kserve import kserve
from tests.cluster.lab.kuberay import apply_definitions, kuberay
from tests.cluster.lab.kueue import kueue
from tests.cluster.lab.stack import Stack
from tests.cluster.tools.build import FOLDER, module_folder, tools_folder


def pytest_configure(config: pytest.Config) -> None:
    """So that every process that a test starts finds the same programs."""
    os.environ[FOLDER] = str(tools_folder())


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def cluster_nodes(control_plane: ControlPlane) -> None:
    """Two ordinary nodes and one with GPUs, with label and taint as the pools of `infra/cluster` have them."""
    nodes.add_cpu_node(control_plane, "cpu-0")
    nodes.add_cpu_node(control_plane, "cpu-1")
    nodes.add_gpu_node(control_plane, "gpu-0", GPU_NODE, GPU_TAINT, gpus=2)


@pytest.fixture(scope="session")
def settings(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An existing cluster with GPU nodes, and quotas small enough to run out of."""
    return Settings.model_validate(
        {
            "name": "lab",
            "target": "kubernetes",
            "state_dir": str(tmp_path_factory.mktemp("state")),
            "processes": {"start_timeout": "60s"},
            "kubernetes": {
                "provider": "existing",
                "profile": "core",
                "kubeconfig": str(control_plane.kubeconfig),
                "parts": {
                    "training": {"cpu_workers": 2, "gpu_workers": 1},
                    "queueing": {"cpus": 8, "memory": "24Gi", "gpus": 2, "teams": ["models", "search"]},
                },
            },
        }
    )


@pytest.fixture(scope="session")
def stack(settings: Settings) -> Stack:
    """What our own program declares for it."""
    return Stack(settings)


@pytest.fixture(scope="session")
def namespaces(control_plane: ControlPlane, stack: Stack) -> None:
    """Ours, as restricted as users get them, with the accounts and rights of the platform's own pods."""
    ours = list(stack.objects("Namespace"))
    for namespace in ours:
        control_plane.create_namespace(namespace["metadata"]["name"], namespace["metadata"]["labels"])
    platform = {item["metadata"]["name"] for item in ours} & set(names.PLATFORM)
    kinds = ("LimitRange", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding")
    control_plane.apply(item for item in stack.objects(*kinds) if item["metadata"]["namespace"] in platform)


@pytest.fixture(scope="session")
def gateway_definitions(control_plane: ControlPlane) -> None:
    """The Gateway API's kinds, in the version that Envoy Gateway is built with."""
    source = module_folder("envoy-gateway", "sigs.k8s.io/gateway-api") / "config" / "crd" / "standard"
    control_plane.apply_files(sorted(source.glob("gateway.networking.k8s.io_*s.yaml")))


@pytest.fixture(scope="session")
def kserve_manager(
    control_plane: ControlPlane, stack: Stack, namespaces: None, gateway_definitions: None
) -> Iterator[None]:
    with kserve(control_plane, stack.chart_values("kserve")):
        control_plane.apply(stack.objects("ServingRuntime"))
        yield


@pytest.fixture(scope="session")
def controller_kubeconfig(control_plane: ControlPlane, stack: Stack, namespaces: None) -> Path:
    """Of the platform's own controller: its account, its role and nothing else."""
    return control_plane.kubeconfig_of("controller", names.SYSTEM)


@pytest.fixture(scope="session")
def environment(settings: Settings, controller_kubeconfig: Path) -> Environment:
    """What the controller works in: the cluster, with its own rights."""
    assert settings.kubernetes is not None
    cluster = settings.kubernetes.model_copy(update={"kubeconfig": controller_kubeconfig})
    return Environment(controller_kubeconfig, settings.model_copy(update={"kubernetes": cluster}))


@pytest.fixture(scope="session")
def ray_definitions(control_plane: ControlPlane) -> None:
    apply_definitions(control_plane)


@pytest.fixture(scope="session")
def kuberay_operator(control_plane: ControlPlane, namespaces: None, ray_definitions: None) -> Iterator[None]:
    with kuberay(control_plane):
        yield


@pytest.fixture(scope="session")
def kueue_manager(control_plane: ControlPlane, stack: Stack, namespaces: None, ray_definitions: None) -> Iterator[None]:
    """With our own flavours, queues and quotas."""
    with kueue(control_plane, stack.chart_values("kueue")):
        for kind in ("ResourceFlavor", "ClusterQueue", "LocalQueue"):
            control_plane.apply(stack.objects(kind))
        yield


@pytest.fixture(scope="session")
def gateway_controller(
    control_plane: ControlPlane, stack: Stack, cluster_nodes: None, namespaces: None, gateway_definitions: None
) -> Iterator[None]:
    """With our own Gateway, its class and its policies."""
    lab_gateway.apply_definitions(control_plane)
    with lab_gateway.envoy_gateway(control_plane, stack.chart_values("envoy-gateway")):
        for kind in ("EnvoyProxy", "GatewayClass", "Gateway", "ClientTrafficPolicy"):
            control_plane.apply(stack.objects(kind))
        yield
