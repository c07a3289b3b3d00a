"""The lab as fixtures: one control plane for all tests of a process, each controller started when first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.components import names
from infra.components.training import GPU_NODE, GPU_TAINT
from slipway.environment import Environment
from slipway.mirror.versions import load_versions
from slipway.settings import Settings
from tests.cluster.lab import cert_manager, nodes
from tests.cluster.lab import envoy_gateway as lab_gateway
from tests.cluster.lab.cloudnative_pg import cloudnative_pg
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.kind import new_cluster
from tests.cluster.lab.kserve import kserve
from tests.cluster.lab.kuberay import apply_definitions, kuberay
from tests.cluster.lab.kueue import kueue
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.stack import Stack
from tests.cluster.tools.build import FOLDER, module_folder, tools_folder
from tests.infra.recorded_stack import fill_mirror

TOLD = "told"
"""Property of a test's report: what to print."""


def pytest_configure(config: pytest.Config) -> None:
    """So that every process that a test starts finds the same programs."""
    os.environ[FOLDER] = str(tools_folder())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """At the end of a run, in the order of its tests: only this process writes to the terminal."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, text in report.user_properties if report.when == "call" else ():
            if name == TOLD:
                terminalreporter.write_sep("-", report.nodeid)
                terminalreporter.write_line(text)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """What whoever reads the run sees of a test."""
    return lambda text: record_property(TOLD, text.rstrip())


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with new_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def cluster_nodes(control_plane: ControlPlane) -> None:
    """Two ordinary nodes and one with GPUs, with label and taint as the pools of `infra/cluster` have them."""
    nodes.add_cpu_node(control_plane, "cpu-0")
    nodes.add_cpu_node(control_plane, "cpu-1")
    nodes.add_gpu_node(control_plane, "gpu-0", GPU_NODE, GPU_TAINT, gpus=2)


@pytest.fixture(scope="session")
def settings(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An existing cluster with GPU nodes, quotas small enough to run out of, and images by (invented) digest."""
    mirror = fill_mirror(tmp_path_factory.mktemp("mirror"))
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
                "mirror": {"dir": str(mirror)},
                "parts": {
                    # A load balancer would stay pending: nobody makes them here.
                    "gateway": {"exposure": "cluster"},
                    "training": {"cpu_workers": 2, "gpu_workers": 1, "standing_cluster": True},
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
def kuberay_operator(
    control_plane: ControlPlane, stack: Stack, namespaces: None, ray_definitions: None
) -> Iterator[None]:
    with kuberay(control_plane, stack.chart_values("kuberay-operator")):
        yield


@pytest.fixture(scope="session")
def database_operator(control_plane: ControlPlane, settings: Settings, namespaces: None) -> Iterator[None]:
    assert settings.kubernetes is not None
    with cloudnative_pg(control_plane, load_versions(mirror=settings.kubernetes.mirror.dir)):
        yield


@pytest.fixture(scope="session")
def kueue_manager(control_plane: ControlPlane, stack: Stack, namespaces: None, ray_definitions: None) -> Iterator[None]:
    """With our own flavours, queues and quotas."""
    with kueue(control_plane, stack.chart_values("kueue")):
        for kind in ("ResourceFlavor", "ClusterQueue", "LocalQueue"):
            control_plane.apply(stack.objects(kind))
        yield


@pytest.fixture(scope="session")
def authority(control_plane: ControlPlane, stack: Stack, namespaces: None) -> Path:
    """Whom clients of the Gateway trust; the Secrets of all our Certificates are there."""
    return cert_manager.issue(control_plane, stack.objects("Certificate"))


@pytest.fixture(scope="session")
def gateway_controller(
    control_plane: ControlPlane, stack: Stack, cluster_nodes: None, authority: Path, gateway_definitions: None
) -> Iterator[PrivateNetwork]:
    """Envoy Gateway with our own Gateway, its class and its policies, and with the parts' routes and Services."""
    lab_gateway.apply_definitions(control_plane)
    control_plane.apply(stack.objects("Secret", namespace=names.GATEWAY))
    with lab_gateway.envoy_gateway(control_plane, stack.chart_values("envoy-gateway")) as network:
        for kind in ("EnvoyProxy", "GatewayClass", "Gateway"):
            control_plane.apply(stack.objects(kind))
        control_plane.apply(stack.objects(*lab_gateway.POLICIES, "ReferenceGrant", "HTTPRoute", "Service"))
        # The portal is asked about every request; MLflow is asked by TLS.
        control_plane.apply(stack.find(f"Deployment/{names.SYSTEM}/{name}") for name in ("portal", "registry"))
        yield network


@pytest.fixture(scope="session")
def envoy(control_plane: ControlPlane, gateway_controller: PrivateNetwork) -> lab_gateway.Envoy:
    """As one of the Gateway's pods would run it."""
    return lab_gateway.Envoy(control_plane, gateway_controller, lab_gateway.find_envoys(control_plane))
