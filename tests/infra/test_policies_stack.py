"""The whole program under the policy pack: every object of every environment, and what the platform makes later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.components.hardening import Hardening
from infra.components.pods import Requests
from infra.policies import pack
from infra.policies.exceptions import load_exceptions
from infra.policies.objects import KubeObject, mapping
from infra.policies.objects import texts as texts_of
from infra.policies.pods import TEMPLATES, pods_of
from infra.recording import Recording
from slipway.mirror.versions import load_versions
from tests.infra.recorded_stack import CLOUDS, GPU, GPU_POOL, fill_mirror, managed_by, recorded

EXCEPTIONS = load_exceptions(pack.rule_names())
ELSEWHERE = ("kind_node", "cluster_autoscaler", "ray")
"""Images of the cluster's own project, and what an image of one's own is built from."""
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "kind": {"provider": "kind"},
    "existing-core": {"provider": "existing"},
    "existing-full": {"provider": "existing", "profile": "full"},
    "existing-gpu": {"provider": "existing", **GPU},
    **{f"{name}-full": {**settings, **GPU_POOL, **GPU, "profile": "full"} for name, settings in CLOUDS.items()},
    **{f"{name}-managed": {**settings, **managed_by(name)} for name, settings in CLOUDS.items()},
}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_mirror(tmp_path_factory.mktemp("mirror"))


def stack_of(environment: str, mirror: Path) -> Recording:
    return recorded(**ENVIRONMENTS[environment], mirror={"dir": str(mirror)})


def objects_of(recording: Recording) -> list[KubeObject]:
    return [KubeObject(each.inputs, each.urn) for each in recording.objects()]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_object_of_the_program_keeps_to_every_rule(environment: str, mirror: Path) -> None:
    objects = objects_of(stack_of(environment, mirror))
    assert len(objects) > 100
    verdict = pack.judge(objects, EXCEPTIONS)
    assert [str(finding) for finding in verdict.findings] == []


def test_every_exception_from_our_own_rules_is_needed_somewhere(mirror: Path) -> None:
    unused = [
        {entry.name for entry in pack.judge(objects_of(stack_of(name, mirror)), EXCEPTIONS).unused}
        for name in ENVIRONMENTS
    ]
    assert set.intersection(*unused) == set()


def test_templates_that_are_filled_in_later_keep_to_the_rules(mirror: Path) -> None:
    """What the control plane makes is handed to it as JSON in ConfigMaps."""
    found = []
    for thing in objects_of(stack_of("existing-gpu", mirror)):
        for text in mapping(thing.body.get("data")).values() if thing.kind == "ConfigMap" else ():
            try:
                document = json.loads(text)
            except ValueError:
                continue
            if isinstance(document, dict) and {"apiVersion", "kind", "spec"} <= document.keys():
                found.append(KubeObject(document))
    assert "RayJob" in {thing.kind for thing in found}
    assert [str(finding) for thing in found for finding in pack.examine_object(thing)] == []


def test_what_a_chart_brings_is_hardened_until_it_keeps_to_the_rules() -> None:
    """The worst that a chart may render: what hardening cannot mend, a rule still finds."""
    worst = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "operator", "namespace": "somewhere"},
        "spec": {
            "template": {
                "spec": {
                    "hostNetwork": True,
                    "automountServiceAccountToken": False,
                    "initContainers": [{"name": "init", "image": "registry.example.com/init:1"}],
                    "containers": [
                        {
                            "name": "operator",
                            "image": "registry.example.com/operator:1",
                            "securityContext": {"privileged": True, "capabilities": {"add": ["SYS_ADMIN"]}},
                        }
                    ],
                }
            }
        },
    }
    labels = {"slipway.dev/environment": "test", "slipway.dev/team": "platform", "slipway.dev/model": "shared"}
    hardened = KubeObject(Hardening(labels, {"operator": Requests()}).apply(worst))
    assert (hardened.group, hardened.kind) in TEMPLATES
    broken = {finding.rule for finding in pack.judge([KubeObject(worst)], ()).findings}
    assert {"pod_security_restricted", "no_host_access", "read_only_root", "requests_and_limits"} <= broken
    assert {finding.rule for finding in pack.judge([hardened], ()).findings} == {"image_by_digest"}


def test_every_pinned_image_is_run_by_somebody(mirror: Path) -> None:
    """Ours by an object or a chart's values; a chart's own by a chart or manifest that is deployed."""
    versions, run, texts = load_versions(mirror=mirror), set[str](), set[str]()
    for name in ENVIRONMENTS:
        for each in stack_of(name, mirror).resources:
            texts |= {text for _, text in texts_of(each.inputs)}
            if each.type.endswith((":HelmChart", ":Manifest")):
                kind = "charts" if each.type.endswith(":HelmChart") else "manifests"
                run.add(f"{kind}.{each.inputs['pin']}")
    known = {"charts.metrics_server"}  # by a setting that no environment here has
    for name, pin in versions.images.items():
        if pin.brought_by:
            assert pin.brought_by in run | known, name
        elif not name.startswith(ELSEWHERE):
            # An object names the address; a chart's values name the repository, or parts of it.
            _, _, repository = pin.reference.partition("/")
            assert texts & {pin.address(), pin.reference, repository, repository.rpartition("/")[2]}, (
                f"images.{name}: nothing runs it"
            )


def test_every_image_of_the_program_is_a_pin(mirror: Path) -> None:
    addresses = {pin.address() for pin in load_versions(mirror=mirror).images.values()}
    for name in ENVIRONMENTS:
        for thing in objects_of(stack_of(name, mirror)):
            for pod in pods_of(thing):
                assert {str(each.body["image"]) for each in pod.containers()} <= addresses, thing.where
