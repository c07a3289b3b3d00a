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
from infra.policies.pods import TEMPLATES
from infra.recording import Recording
from tests.infra.recorded_stack import CLOUDS, GPU, GPU_POOL, fill_mirror, recorded

EXCEPTIONS = load_exceptions(pack.rule_names())
MANAGED = {"managed": {"database": True, "object_store": True, "cache": True, "secrets": True}}
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "kind": {"provider": "kind"},
    "existing-core": {"provider": "existing"},
    "existing-full": {"provider": "existing", "profile": "full"},
    "existing-gpu": {"provider": "existing", **GPU},
    **{f"{name}-full": {**settings, **GPU_POOL, **GPU, "profile": "full"} for name, settings in CLOUDS.items()},
    **{f"{name}-managed": {**settings, **MANAGED} for name, settings in CLOUDS.items()},
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
