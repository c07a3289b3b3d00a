"""KServe's own manager, given the revisions that the Kubernetes target makes with the controller's own rights."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from infra.components import names as infrastructure
from infra.components import serving
from infra.components.training import GPU_NODE, GPU_TAINT
from slipway.contract import Resources, Serving, load_contract
from slipway.environment import Environment
from slipway.errors import NotReady, Refused
from slipway.targets import open_target
from slipway.targets.kubernetes import inference_service, names
from slipway.targets.kubernetes.cluster_api import ClusterApi
from slipway.targets.kubernetes.target import KubernetesTarget
from tests.cluster.lab import nodes, rules
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.processes import wait_until
from tests.cluster.lab.stack import Stack

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("cluster_nodes", "kserve_manager")]

MODEL = "flight_delay"
CONTAINER_RULES = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture
def target(environment: Environment) -> KubernetesTarget:
    opened = open_target(environment)
    assert isinstance(opened, KubernetesTarget)
    return opened


def test_the_target_and_the_infrastructure_spell_names_alike() -> None:
    assert names.NAMESPACE == infrastructure.SERVING
    assert names.SYSTEM == infrastructure.SYSTEM
    assert (names.GATEWAY, names.GATEWAY_NAMESPACE) == (infrastructure.GATEWAY_NAME, infrastructure.GATEWAY)
    assert (names.RUNTIME, names.ACCOUNT, names.PORT) == (serving.RUNTIME, serving.ACCOUNT, serving.PORT)
    assert (names.ACCELERATOR, names.ACCELERATOR_TAINT) == (GPU_NODE, GPU_TAINT)


def test_a_revision_becomes_ready_and_is_listed_until_it_is_removed(
    target: KubernetesTarget, control_plane: ControlPlane
) -> None:
    target.apply_revision(MODEL, 1)
    target.apply_revision(MODEL, 2)
    assert target.list_revisions(MODEL) == {1: True, 2: True}
    (service,) = [
        item
        for item in control_plane.list("services", names.NAMESPACE)
        if item["metadata"]["name"].endswith("-1-predictor")
    ]
    assert service["metadata"]["name"] == names.service_name(MODEL, 1)
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (names.SERVICE_PORT, names.PORT)

    target.remove_revision(MODEL, 1)
    assert target.list_revisions(MODEL) == {2: True}
    assert _left_over(control_plane, 1) == []
    target.remove_revision(MODEL, 2)
    assert target.list_revisions(MODEL) == {}
    assert _left_over(control_plane, 2) == []


def test_applying_a_revision_again_changes_nothing(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.apply_revision(MODEL, 3)
    before = _deployment(control_plane, 3)
    target.apply_revision(MODEL, 3)
    after = _deployment(control_plane, 3)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    target.remove_revision(MODEL, 3)


def test_removing_a_revision_that_is_not_there_does_nothing(target: KubernetesTarget) -> None:
    target.remove_revision(MODEL, 999)


def test_all_that_kserve_makes_keeps_to_every_rule(
    target: KubernetesTarget, control_plane: ControlPlane, stack: Stack
) -> None:
    target.apply_revision(MODEL, 8)
    owned = f"{names.MODEL_LABEL}={MODEL},{names.VERSION_LABEL}=8"
    made = control_plane.list("deployments,replicasets,pods,services,inferenceservices", names.NAMESPACE, owned)
    assert {item["kind"] for item in made} == {"Deployment", "ReplicaSet", "Pod", "Service", "InferenceService"}
    assert rules.findings(made, stack.objects(*rules.NEEDED)) == []
    target.remove_revision(MODEL, 8)


def test_every_container_of_a_revision_is_restricted(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.apply_revision(MODEL, 4)
    (pod,) = _pods(control_plane, 4)
    spec = pod["spec"]
    assert spec["serviceAccountName"] == names.ACCOUNT
    assert spec["automountServiceAccountToken"] is False
    assert not [volume for volume in spec["volumes"] if "projected" in volume]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = spec["containers"] + spec.get("initContainers", [])
    # None of KServe's own beside it: neither the agent nor the storage initializer.
    assert [container["name"] for container in containers] == ["kserve-container"]
    for container in containers:
        assert CONTAINER_RULES.items() <= container["securityContext"].items()
        for kind in ("requests", "limits"):
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"][kind])
    target.remove_revision(MODEL, 4)


def test_a_revision_runs_our_server_for_its_model_and_version(
    target: KubernetesTarget, control_plane: ControlPlane
) -> None:
    target.apply_revision(MODEL, 5)
    (pod,) = _pods(control_plane, 5)
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-m", "serving"]
    assert container["args"] == [f"--model={MODEL}", "--version=5"]
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{MODEL}/ready"
    assert pod["metadata"]["labels"]["slipway.dev/role"] == "revision", "the network policy selects it"
    target.remove_revision(MODEL, 5)


def test_no_autoscaler_takes_the_replicas_over(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.apply_revision(MODEL, 6)
    assert control_plane.list("horizontalpodautoscalers", names.NAMESPACE) == []
    assert _deployment(control_plane, 6)["spec"]["replicas"] == load_contract(MODEL).serving.replicas
    target.remove_revision(MODEL, 6)


def test_kserve_makes_no_route_of_its_own(target: KubernetesTarget, control_plane: ControlPlane) -> None:
    target.apply_revision(MODEL, 7)
    assert control_plane.list("httproutes", names.NAMESPACE, f"{names.VERSION_LABEL}=7") == []
    assert control_plane.list("ingresses", names.NAMESPACE) == []
    target.remove_revision(MODEL, 7)


def test_a_gpu_revision_lands_on_a_gpu_node_and_a_cpu_one_never(control_plane: ControlPlane) -> None:
    # More CPU revisions than fit on the ordinary nodes: the rest waits and does not take the GPU node.
    _apply(control_plane, 20, Resources(cpu=1, memory="1Gi", gpu=1))
    for version in range(21, 24):
        _apply(control_plane, version, Resources(cpu=6, memory="1Gi"))
    accelerated = wait_until("the GPU pod is bound", lambda: _bound(control_plane, 20))
    assert nodes.node_of(control_plane, accelerated)["metadata"]["name"] == "gpu-0"

    wait_until("one CPU pod finds no room", lambda: any(_unschedulable(control_plane, n) for n in range(21, 24)))
    bound = [pod for version in range(21, 24) if (pod := _bound(control_plane, version))]
    assert {pod["spec"]["nodeName"] for pod in bound} == {"cpu-0", "cpu-1"}
    for version in range(20, 24):
        control_plane.delete("inferenceservices", names.revision_name(MODEL, version), names.NAMESPACE)


def test_a_gpu_revision_waits_for_a_pool_from_zero(control_plane: ControlPlane) -> None:
    # What an autoscaler reads off a waiting pod: the label and taint of the pool, and the device.
    _apply(control_plane, 30, Resources(cpu=1, memory="1Gi", gpu=8))
    pod = wait_until("it waits", lambda: _unschedulable(control_plane, 30))
    assert GPU_NODE.items() <= pod["spec"]["nodeSelector"].items()
    assert GPU_TAINT in pod["spec"]["tolerations"]
    assert pod["spec"]["containers"][0]["resources"]["limits"][nodes.GPU] == "8"
    control_plane.delete("inferenceservices", names.revision_name(MODEL, 30), names.NAMESPACE)


def test_a_revision_that_cannot_start_is_not_ready_in_time_and_says_why(
    environment: Environment, control_plane: ControlPlane
) -> None:
    processes = environment.settings.processes.model_copy(update={"start_timeout": timedelta(seconds=3)})
    hurried = environment.settings.model_copy(update={"processes": processes})
    for node in ("cpu-0", "cpu-1"):
        control_plane.kubectl("cordon", node)
    try:
        with pytest.raises(NotReady, match="version 40 is not ready after 3 s"):
            KubernetesTarget(Environment(environment.file, hurried)).apply_revision(MODEL, 40)
        assert KubernetesTarget(environment).list_revisions(MODEL)[40] is False
    finally:
        for node in ("cpu-0", "cpu-1"):
            control_plane.kubectl("uncordon", node)
        KubernetesTarget(environment).remove_revision(MODEL, 40)


def test_the_controller_may_not_make_anything_else(environment: Environment) -> None:
    assert environment.settings.kubernetes is not None
    api = ClusterApi(environment.settings.kubernetes)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x", "namespace": names.NAMESPACE}}
    with pytest.raises(Refused, match="forbidden"):
        api.apply(secret, "secrets")


def _apply(control_plane: ControlPlane, version: int, resources: Resources) -> None:
    contract = load_contract(MODEL).model_copy(update={"serving": Serving(resources=resources)})
    runtime = control_plane.get("servingruntime", names.RUNTIME, names.NAMESPACE)
    assert runtime is not None
    control_plane.apply([inference_service.describe(contract, version, "lab", runtime)])


def _pods(control_plane: ControlPlane, version: int) -> list[dict[str, Any]]:
    selector = f"{names.MODEL_LABEL}={MODEL},{names.VERSION_LABEL}={version}"
    return control_plane.list("pods", names.NAMESPACE, selector)


def _bound(control_plane: ControlPlane, version: int) -> dict[str, Any] | None:
    return next((pod for pod in _pods(control_plane, version) if pod["spec"].get("nodeName")), None)


def _unschedulable(control_plane: ControlPlane, version: int) -> dict[str, Any] | None:
    for pod in _pods(control_plane, version):
        for condition in pod.get("status", {}).get("conditions", []):
            if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                return pod
    return None


def _deployment(control_plane: ControlPlane, version: int) -> dict[str, Any]:
    found = control_plane.get("deployment", names.service_name(MODEL, version), names.NAMESPACE)
    assert found is not None
    return found


def _left_over(control_plane: ControlPlane, version: int) -> list[str]:
    prefix = names.revision_name(MODEL, version) + "-"
    kinds = "deployments,replicasets,pods,services,inferenceservices,configmaps,secrets,horizontalpodautoscalers"
    return [
        f"{item['kind']} {item['metadata']['name']}"
        for item in control_plane.list(kinds, names.NAMESPACE)
        if item["metadata"]["name"].startswith(prefix)
    ]
