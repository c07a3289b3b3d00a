"""The policy pack where it matters: on charts as they are installed, and inside Pulumi's engine."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as kubernetes
import pytest

from infra.engine import Engine
from infra.policies import pack
from infra.policies.exceptions import load_exceptions
from infra.policies.objects import KubeObject
from infra.pulumi_cli import TOOLS
from infra.recording import Recorded, Recording
from slipway.environment import Environment, open_environment
from slipway.errors import SlipwayError
from slipway.settings import Settings
from tests.cluster.lab.charts import render
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import plugin
from tests.cluster.tools.build import find_program, module_folder
from tests.infra.recorded_stack import fill_mirror, recorded

pytestmark = pytest.mark.cluster

CHARTS = {
    "gateway-helm": ("envoy-gateway", "github.com/envoyproxy/gateway"),
    "kserve-resources": ("kserve", "github.com/kserve/kserve"),
    "kueue": ("kueue", "sigs.k8s.io/kueue"),
}
"""Charts that a module carries -> folder of its pins, and the module."""

NAMESPACE = "policy-trial"
CLUSTER_WIDE = {
    "APIService", "ClusterRole", "ClusterRoleBinding", "ClusterStorageContainer", "CustomResourceDefinition",
    "MutatingWebhookConfiguration", "Namespace", "ValidatingWebhookConfiguration",
}  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    mirror = fill_mirror(tmp_path_factory.mktemp("mirror"))
    return recorded(provider="existing", profile="full", mirror={"dir": str(mirror)})


def installed(chart: Recorded, name: str) -> Iterator[KubeObject]:
    """The chart's objects as the program installs them: with its values, and hardened."""
    pins, module = CHARTS[name]
    folder = module_folder(pins, module) / "charts" / name
    namespace = chart.inputs["namespace"]
    for item in render(folder, chart.name, namespace, chart.inputs.get("values") or {}):
        if item["kind"] not in CLUSTER_WIDE:
            item["metadata"].setdefault("namespace", namespace)
        props: Any = item
        for transform in chart.transforms:
            told = pulumi.ResourceTransformArgs(True, "kubernetes:object", "object", props, pulumi.ResourceOptions())
            changed = transform(told)
            props = changed.props if changed else props
        yield KubeObject(props)


@pytest.mark.parametrize("name", CHARTS)
def test_what_a_chart_installs_keeps_to_every_rule(name: str, recording: Recording) -> None:
    (chart,) = [
        each
        for each in recording.resources
        if each.type == "kubernetes:helm.sh/v4:Chart" and Path(each.inputs["chart"]).name.startswith(f"{name}-")
    ]
    theirs = list(installed(chart, name))
    assert "Deployment" in {thing.kind for thing in theirs}
    ours = [KubeObject(each.inputs) for each in recording.objects()]
    verdict = pack.judge([*ours, *theirs], load_exceptions(pack.rule_names()))
    assert [str(finding) for finding in verdict.findings] == []


@pytest.fixture
def environment(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    monkeypatch.setenv("PULUMI_HOME", str(plugin.install(tmp_path / "pulumi")))
    monkeypatch.setenv(TOOLS, str(find_program("pulumi").parent))
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    file = tmp_path / "policies.toml"
    file.write_text(
        f'name = "policies"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n'
        f'[kubernetes]\nprovider = "existing"\nkubeconfig = "{control_plane.kubeconfig}"\n'
    )
    yield open_environment(str(file))
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")
    with warnings.catch_warnings():
        # Pulumi leaves its loop open when the engine hangs up on a program, as it does on one that breaks a rule.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def careless(settings: Settings) -> None:
    """A namespace that lets everything in, and a Service that is open to the world."""
    assert settings.kubernetes is not None
    cluster = kubernetes.Provider("cluster", kubeconfig=str(settings.kubernetes.kubeconfig))
    options = pulumi.ResourceOptions(provider=cluster)
    namespace = kubernetes.core.v1.Namespace("careless", metadata={"name": NAMESPACE}, opts=options)
    kubernetes.core.v1.Service(
        "open",
        metadata={"name": "open", "namespace": NAMESPACE},
        spec={"type": "LoadBalancer", "ports": [{"port": 80}]},
        opts=pulumi.ResourceOptions(provider=cluster, depends_on=[namespace]),
    )


def test_a_preview_shows_what_breaks_a_rule(environment: Environment) -> None:
    lines: list[str] = []
    findings = " ".join(Engine(environment, "services", lines.append, careless).preview().findings)
    for rule in ("namespace_enforces_restricted", "service_is_internal", "labelled_for_cost"):
        assert rule in findings


def test_up_makes_nothing_that_breaks_a_rule(environment: Environment, control_plane: ControlPlane) -> None:
    lines: list[str] = []
    with pytest.raises(SlipwayError):
        Engine(environment, "services", lines.append, careless).up()
    assert control_plane.get("namespace", NAMESPACE) is None
    assert any("namespace_enforces_restricted" in line for line in lines)
