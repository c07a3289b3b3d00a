"""The policy pack: for each rule a stack that keeps to it and objects that break it; exceptions; Pulumi's own call."""

from __future__ import annotations

import base64
import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi_policy
import pytest
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, unknown_checking_proxy

from infra.policies import pack, pulumi_pack
from infra.policies.exceptions import FILE, PolicyException, load_exceptions
from infra.policies.objects import UNKNOWN, KubeObject, plain, read_resource
from infra.quantity import parse_quantity
from slipway.errors import InvalidSettings

Body = dict[str, Any]
Change = Callable[[Body], Any]

LABELS = {"slipway.dev/environment": "test", "slipway.dev/team": "platform", "slipway.dev/model": "shared"}
IMAGE = "docker.io/example/server:1.2.3@sha256:" + "a" * 64


def metadata(name: str, namespace: str | None = "slipway-system", **labels: str) -> Body:
    return {"name": name, "labels": {**LABELS, **labels}, **({"namespace": namespace} if namespace else {})}


def container(name: str = "server") -> Body:
    return {
        "name": name,
        "image": IMAGE,
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }


def pod_spec() -> Body:
    return {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container()],
    }


def template() -> Body:
    return {"metadata": {"labels": {**LABELS, "app": "server"}}, "spec": pod_spec()}


def deployment() -> Body:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata("server"),
        "spec": {"replicas": 2, "template": template()},
    }


def namespace() -> Body:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata("slipway-system", None, **labels)}


def default_deny() -> Body:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("default-deny"),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }


def allowance() -> Body:
    peer = {"podSelector": {"matchLabels": {"app": "client"}}}
    spec = {
        "podSelector": {"matchLabels": {"app": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer]}],
    }
    return default_deny() | {"metadata": metadata("server"), "spec": spec}


def service() -> Body:
    spec = {"type": "ClusterIP", "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata("server"), "spec": spec}


def config_map(**data: str) -> Body:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("server"), "data": data}


def secret(key: str, value: str) -> Body:
    data = {key: base64.b64encode(value.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata("server"), "data": data}


def role() -> Body:
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata("server"),
        "rules": [rule],
    }


def binding() -> Body:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata("server"),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "server"},
        "subjects": [{"kind": "ServiceAccount", "name": "server", "namespace": "slipway-system"}],
    }


def budget() -> Body:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata("server"),
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "server"}}},
    }


def inference_service() -> Body:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": metadata("flight-delay-1", "slipway-serving"),
        "spec": {"predictor": pod_spec()},
    }


def ray_cluster() -> Body:
    groups = [{"groupName": "cpu", "template": template()}]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": metadata("ray", "slipway-training"),
        "spec": {"headGroupSpec": {"template": template()}, "workerGroupSpecs": groups},
    }


def ray_job() -> Body:
    spec = {"rayClusterSpec": ray_cluster()["spec"], "submitterPodTemplate": template()}
    return ray_cluster() | {"kind": "RayJob", "spec": spec}


def database() -> Body:
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": metadata("database", "slipway-data"),
        "spec": {"imageName": IMAGE, "resources": container()["resources"]},
    }


def envoy_proxy() -> Body:
    made = {"pod": {"securityContext": pod_spec()["securityContext"]}, "container": container()}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyProxy",
        "metadata": metadata("envoy", "slipway-gateway"),
        "spec": {
            "provider": {
                "type": "Kubernetes",
                "kubernetes": {"envoyDeployment": made, "envoyService": {"type": "NodePort"}},
            }
        },
    }


def prometheus() -> Body:
    spec = {"image": IMAGE, "resources": container()["resources"], "securityContext": pod_spec()["securityContext"]}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": metadata("prometheus", "slipway-monitoring"),
        "spec": spec,
    }


GOOD = (
    deployment, namespace, default_deny, allowance, service, config_map, role, binding, budget, inference_service,
    ray_cluster, ray_job, database, envoy_proxy, prometheus,
)  # fmt: skip


def stack() -> list[Body]:
    return [make() for make in GOOD]


def judge(*bodies: Body, exceptions: tuple[PolicyException, ...] = ()) -> pack.Verdict:
    return pack.judge([KubeObject(body) for body in bodies], exceptions)


def changed(make: Callable[[], Body], path: str, value: Any) -> Body:
    """The object with `value` at a dotted path; digits are positions, None removes."""
    body = copy.deepcopy(make())
    at: Any = body
    *above, last = [int(part) if part.isdigit() else part.replace("~", ".") for part in path.split(".")]
    for part in above:
        at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
    if value is None:
        del at[last]
    elif isinstance(at, list) and last == len(at):
        at.append(value)
    else:
        at[last] = value
    return body


POD = "spec.template.spec"
SERVER = f"{POD}.containers.0"
CONTEXT = f"{SERVER}.securityContext"
ENVOY = "spec.provider.kubernetes.envoyDeployment"

BAD: dict[str, list[Body]] = {
    "pod_security_restricted": [
        changed(deployment, f"{CONTEXT}.allowPrivilegeEscalation", True),
        changed(deployment, f"{CONTEXT}.allowPrivilegeEscalation", None),
        changed(deployment, f"{CONTEXT}.capabilities", None),
        changed(deployment, f"{CONTEXT}.capabilities.drop", ["NET_RAW"]),
        changed(deployment, f"{CONTEXT}.capabilities.add", ["SYS_ADMIN"]),
        changed(deployment, f"{CONTEXT}.runAsNonRoot", False),
        changed(deployment, f"{CONTEXT}.runAsUser", 0),
        changed(deployment, f"{CONTEXT}.seccompProfile", {"type": "Unconfined"}),
        changed(deployment, f"{CONTEXT}.procMount", "Unmasked"),
        changed(deployment, f"{CONTEXT}.appArmorProfile", {"type": "Unconfined"}),
        changed(deployment, f"{CONTEXT}.seLinuxOptions", {"user": "system_u"}),
        changed(deployment, f"{POD}.securityContext.runAsNonRoot", None),
        changed(deployment, f"{POD}.securityContext.runAsUser", 0),
        changed(deployment, f"{POD}.securityContext.seccompProfile", None),
        changed(deployment, f"{POD}.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
        changed(deployment, f"{POD}.volumes", [{"name": "share", "nfs": {"server": "a", "path": "/"}}]),
        changed(deployment, f"{POD}.initContainers", [container("init") | {"securityContext": {}}]),
        changed(deployment, f"{POD}.ephemeralContainers", [container("debug") | {"securityContext": {}}]),
        changed(inference_service, "spec.predictor.securityContext", None),
        changed(ray_cluster, "spec.headGroupSpec.template.spec.securityContext", None),
        changed(ray_cluster, "spec.workerGroupSpecs.0.template.spec.containers.0.securityContext", {}),
        changed(ray_job, "spec.submitterPodTemplate.spec.containers.0.securityContext", {}),
        changed(ray_job, "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.securityContext", {}),
        changed(envoy_proxy, f"{ENVOY}.container.securityContext.allowPrivilegeEscalation", True),
        changed(envoy_proxy, f"{ENVOY}.initContainers", [container("init") | {"securityContext": {}}]),
        changed(prometheus, "spec.securityContext", None),
        changed(prometheus, "spec.containers", [container("proxy") | {"securityContext": {}}]),
    ],
    "no_host_access": [
        changed(deployment, f"{POD}.hostNetwork", True),
        changed(deployment, f"{POD}.hostPID", True),
        changed(deployment, f"{POD}.hostIPC", True),
        changed(deployment, f"{POD}.volumes", [{"name": "node", "hostPath": {"path": "/"}}]),
        changed(deployment, f"{CONTEXT}.privileged", True),
        changed(deployment, f"{CONTEXT}.windowsOptions", {"hostProcess": True}),
        changed(deployment, f"{SERVER}.ports", [{"containerPort": 80, "hostPort": 80}]),
        changed(deployment, f"{SERVER}.livenessProbe", {"httpGet": {"host": "10.0.0.1", "port": 80}}),
        changed(prometheus, "spec.hostNetwork", True),
    ],
    "read_only_root": [
        changed(deployment, f"{CONTEXT}.readOnlyRootFilesystem", False),
        changed(deployment, f"{CONTEXT}.readOnlyRootFilesystem", None),
        changed(envoy_proxy, f"{ENVOY}.container.securityContext.readOnlyRootFilesystem", None),
        changed(inference_service, "spec.predictor.containers.0.securityContext.readOnlyRootFilesystem", None),
    ],
    "requests_and_limits": [
        changed(deployment, f"{SERVER}.resources", None),
        changed(deployment, f"{SERVER}.resources.requests", None),
        changed(deployment, f"{SERVER}.resources.limits.cpu", None),
        changed(deployment, f"{SERVER}.resources.limits.memory", None),
        changed(deployment, f"{SERVER}.resources.requests.memory", "1Gi"),
        changed(deployment, f"{SERVER}.resources.requests.memory", "much"),
        changed(database, "spec.resources", None),
        changed(prometheus, "spec.resources", None),
        changed(envoy_proxy, f"{ENVOY}.container.resources", None),
    ],
    "image_by_digest": [
        changed(deployment, f"{SERVER}.image", "docker.io/example/server:1.2.3"),
        changed(deployment, f"{SERVER}.image", None),
        changed(database, "spec.imageName", None),
        changed(envoy_proxy, "spec.provider.kubernetes", {}),
    ],
    "image_not_latest": [
        changed(deployment, f"{SERVER}.image", "docker.io/example/server"),
        changed(deployment, f"{SERVER}.image", "registry.example.com:5000/server"),
        changed(deployment, f"{SERVER}.image", "docker.io/example/server:latest@sha256:" + "a" * 64),
    ],
    "image_not_retired": [
        changed(deployment, f"{SERVER}.image", "docker.io/bitnami/redis:1@sha256:" + "a" * 64),
        changed(deployment, f"{SERVER}.image", "quay.io/minio/minio@sha256:" + "a" * 64),
    ],
    "no_literal_secret": [
        changed(deployment, f"{SERVER}.env", [{"name": "DB_PASSWORD", "value": "hunter2"}]),
        changed(deployment, f"{SERVER}.env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc/def"}]),
        changed(deployment, f"{SERVER}.env", [{"name": "DATABASE", "value": "postgresql://me:hunter2@db/x"}]),
        changed(deployment, f"{SERVER}.args", ["--api-key=hunter2"]),
        changed(deployment, f"{SERVER}.args", ["--token", "hunter2"]),
        changed(deployment, f"{SERVER}.command", ["serve", "--store=redis://:hunter2@cache"]),
        changed(deployment, "metadata.annotations", {"note": "AKIAABCDEFGHIJKLMNOP"}),
        config_map(**{"server.ini": "[auth]\nadmin_password = hunter2\n"}),
        config_map(**{"server.yaml": "store:\n  secretKey: hunter2\n"}),
        config_map(**{"key.pem": "-----BEGIN RSA PRIVATE KEY-----\n"}),
        config_map(**{"server.json": '{"store": {"bucket": "x", "secretKey": "hunter2"}}'}),
        config_map(password="hunter2"),
        changed(inference_service, "spec.predictor.containers.0.env", [{"name": "API_TOKEN", "value": "hunter2"}]),
    ],
    "no_published_password": [secret("accesskey-password", "minio123"), secret("admin_password", "changeme")],
    "namespace_enforces_restricted": [
        changed(namespace, "metadata.labels", LABELS),
        changed(namespace, "metadata.labels.pod-security~kubernetes~io/enforce", "baseline"),
    ],
    "network_policy_is_narrow": [
        changed(allowance, "spec.ingress", [{}]),
        changed(allowance, "spec.ingress", [{"ports": [{"port": 80}]}]),
        changed(allowance, "spec.egress", [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]),
        changed(allowance, "spec.egress", [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}]),
        changed(
            allowance,
            "spec.egress",
            [{"to": [{"ipBlock": {"cidr": "169.0.0.0/8", "except": ["169.254.1.0/24"]}}], "ports": [{"port": 80}]}],
        ),
    ],
    "service_is_internal": [
        changed(service, "spec.type", "LoadBalancer"),
        changed(service, "spec.type", "NodePort"),
        changed(service, "spec.externalIPs", ["10.0.0.1"]),
        changed(envoy_proxy, "metadata.namespace", "slipway-serving"),
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata("door")},
    ],
    "no_wildcard_rights": [
        changed(role, "rules.0.verbs", ["*"]),
        changed(role, "rules.0.resources", ["*"]),
        changed(role, "rules.0.resources", ["*/scale"]),
        changed(role, "rules.0.apiGroups", ["*"]),
        changed(role, "rules.0", {"nonResourceURLs": ["*"], "verbs": ["get"]}),
        changed(role, "rules.0.verbs", ["*"]) | {"kind": "ClusterRole"},
    ],
    "no_escalating_rights": [
        changed(role, "rules.0.verbs", ["get", "impersonate"]),
        changed(role, "rules.0.verbs", ["bind"]),
    ],
    "no_admin_binding": [
        changed(binding, "roleRef", {"kind": "ClusterRole", "name": "cluster-admin"}),
        changed(binding, "roleRef", {"kind": "ClusterRole", "name": "edit"}),
        changed(binding, "subjects", [{"kind": "Group", "name": "system:authenticated"}]),
        changed(binding, "subjects", [{"kind": "Group", "name": "system:serviceaccounts:default"}]),
    ],
    "labelled_for_cost": [
        changed(service, "metadata.labels", {}),
        changed(service, "metadata.labels.slipway~dev/model", None),
        changed(deployment, "spec.template.metadata.labels", {"app": "server"}),
        changed(ray_cluster, "spec.workerGroupSpecs.0.template.metadata.labels", {}),
    ],
    "seen_by_the_engine": [{"apiVersion": "helm.sh/v3", "kind": "Release", "metadata": metadata("hidden")}],
    "namespace_denies_by_default": [
        changed(namespace, "metadata.name", "forgotten"),
    ],
    "token_only_with_rights": [
        changed(deployment, f"{POD}.automountServiceAccountToken", True),
        changed(deployment, f"{POD}.automountServiceAccountToken", None),
        changed(inference_service, "spec.predictor.automountServiceAccountToken", None),
    ],
    "budget_lets_nodes_drain": [
        changed(budget, "spec.minAvailable", 2),
        changed(budget, "spec.minAvailable", "100%"),
        changed(budget, "spec", {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "server"}}}),
        changed(budget, "spec.selector.matchLabels", {"app": "nobody"}),
    ],
}


def test_a_stack_that_keeps_to_every_rule_has_no_findings() -> None:
    assert [str(finding) for finding in judge(*stack()).findings] == []


def test_every_rule_has_an_object_that_breaks_it() -> None:
    assert set(BAD) == pack.rule_names()


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        pytest.param(rule, body, id=f"{rule}-{number}")
        for rule, bodies in BAD.items()
        for number, body in enumerate(bodies)
    ],
)
def test_a_broken_rule_is_found_in_the_object_that_breaks_it(rule: str, body: Body) -> None:
    others = [good for good in stack() if KubeObject(good).where != KubeObject(body).where]
    found = judge(*others, body).findings
    assert {finding.thing.where for finding in found} == {KubeObject(body).where}
    assert rule in {finding.rule for finding in found}


def test_only_the_broken_direction_is_missed() -> None:
    closed_in = changed(default_deny, "spec.policyTypes", ["Ingress"])
    (finding,) = judge(namespace(), closed_in).findings
    assert "denies egress by default" in finding.message


def test_a_policy_of_every_pod_denies_what_it_does_not_name() -> None:
    named = changed(default_deny, "spec.egress", [{"to": [{"podSelector": {}}]}])
    assert judge(namespace(), named).findings == ()


def test_a_policy_of_every_pod_that_names_nobody_is_found() -> None:
    opened = changed(default_deny, "spec.egress", [{}])
    assert [finding.rule for finding in judge(namespace(), opened).findings] == ["network_policy_is_narrow"]


def test_a_ray_head_has_a_token_only_when_it_scales_its_cluster() -> None:
    spec = "spec.headGroupSpec.template.spec"
    body = changed(ray_cluster, f"{spec}.automountServiceAccountToken", None)
    assert [finding.rule for finding in judge(body).findings] == ["token_only_with_rights"]
    body = changed(lambda: body, "spec.enableInTreeAutoscaling", True)
    options = {"resources": container()["resources"], "securityContext": container()["securityContext"]}
    assert judge(changed(lambda: body, "spec.autoscalerOptions", options)).findings == ()


def test_the_autoscaler_that_kuberay_adds_is_held_to_the_rules() -> None:
    body = changed(ray_cluster, "spec.enableInTreeAutoscaling", True)
    found = {(finding.rule, "autoscaler" in finding.message) for finding in judge(body).findings}
    assert found == {(rule, True) for rule in ("pod_security_restricted", "read_only_root", "requests_and_limits")}


def test_an_account_with_rights_may_have_its_token() -> None:
    body = changed(deployment, f"{POD}.automountServiceAccountToken", True)
    body = changed(lambda: body, f"{POD}.serviceAccountName", "server")
    assert judge(body, role(), binding()).findings == ()


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
        {"name": "DB_PASSWORD", "value": "$(OTHER)"},
        {"name": "DB_PASSWORD_FILE", "value": "/run/secrets/db"},
        {"name": "TOKEN", "value": "/run/secrets/token"},
        {"name": "USE_TOKEN", "value": "true"},
        {"name": "MAX_TOKEN", "value": "4096"},
        {"name": "DATABASE", "value": "postgresql://me:$(DB_PASSWORD)@db/x"},
        {"name": "SERVER", "value": "http://registry.slipway-system.svc:5000/path@x"},
    ],
)
def test_a_reference_to_a_secret_is_none(variable: Body) -> None:
    assert judge(changed(deployment, f"{SERVER}.env", [variable])).findings == ()


def test_a_table_under_the_name_of_a_secret_is_none() -> None:
    text = '{"s3": {"s3AccessKeyIDName": "id"}}'
    assert judge(config_map(credentials=text, settings='"credentials": {\n "imagePullSecrets": []\n}')).findings == ()


def test_no_message_repeats_a_secret() -> None:
    found = [str(finding) for body in BAD["no_literal_secret"] for finding in judge(body).findings]
    found += [str(finding) for body in BAD["no_published_password"] for finding in judge(body).findings]
    assert found
    assert not [text for text in found if "hunter2" in text or "minio123" in text or "AKIA" in text]


def test_a_generated_password_is_taken() -> None:
    assert judge(secret("password", "b1l8mLq0Zr")).findings == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", 0.5), ("2", 2), (2, 2), ("1.5", 1.5), (".5", 0.5), ("128Mi", 2**27), ("2Gi", 2**31),
        ("1.5Gi", 3 * 2**29), ("1e3", 1000), ("1E3", 1000), ("5e-1", 0.5), ("1k", 1000), ("1E", 10**18), ("1Ei", 2**60),
        ("500000u", 0.5),
    ],
)  # fmt: skip
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, value: float) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1KiB", "one", "1 Gi", "Gi", "1.2.3", None])
def test_what_is_no_quantity_is_said(text: Any) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


def _exception(**changes: Any) -> PolicyException:
    given = {
        "name": "writable-server",
        "rule": "read_only_root",
        "objects": ("Deployment/slipway-system/*",),
        "reason": "it writes beside its program until upstream mends it",
        "date": "2026-11-21",
        "owner": "platform",
    }
    return PolicyException.model_validate({**given, **changes})


WRITABLE = changed(deployment, f"{CONTEXT}.readOnlyRootFilesystem", False)


def test_an_exception_covers_its_rule_and_its_objects_and_nothing_else() -> None:
    verdict = judge(WRITABLE, exceptions=(_exception(),))
    assert verdict.findings == ()
    assert [entry.name for _, entry in verdict.excepted] == ["writable-server"]
    assert judge(WRITABLE, exceptions=(_exception(rule="requests_and_limits"),)).findings
    assert judge(WRITABLE, exceptions=(_exception(objects=("Deployment/slipway-data/*",)),)).findings


def test_a_star_does_not_reach_into_another_part() -> None:
    assert judge(WRITABLE, exceptions=(_exception(objects=("Deployment/*",)),)).findings


def test_an_exception_that_nothing_needs_is_named() -> None:
    assert [entry.name for entry in judge(deployment(), exceptions=(_exception(),)).unused] == ["writable-server"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('rule = "no_such_rule"', "'no_such_rule' is no rule"),
        ('reason = "because"', "exception.0.reason"),
        ('date = "soon"', "exception.0.date"),
        ('owner = ""', "exception.0.owner"),
        ("objects = []", "exception.0.objects"),
        ('objects = ["*"]', "'*' names no kind"),
        ('until = "2027-01-01"', "exception.0.until: unknown key"),
    ],
)
def test_an_exception_without_name_reason_date_and_owner_is_refused(tmp_path: Path, line: str, message: str) -> None:
    key = line.partition(" ")[0]
    lines = {
        "name": 'name = "writable-server"',
        "rule": 'rule = "read_only_root"',
        "objects": 'objects = ["Deployment/slipway-system/server"]',
        "reason": 'reason = "it writes beside its program until upstream mends it"',
        "date": "date = 2026-11-21",
        "owner": 'owner = "platform"',
        key: line,
    }
    file = tmp_path / "exceptions.toml"
    file.write_text("[[exception]]\n" + "\n".join(lines.values()))
    with pytest.raises(InvalidSettings) as caught:
        load_exceptions(pack.rule_names(), file)
    assert message in str(caught.value)


def test_our_own_exceptions_are_in_order() -> None:
    load_exceptions(pack.rule_names(), FILE)


def _arguments(
    body: Body, resource_type: str = "kubernetes:apps/v1:Deployment"
) -> pulumi_policy.ResourceValidationArgs:
    options = pulumi_policy.PolicyResourceOptions(
        protect=False,
        ignore_changes=[],
        delete_before_replace=None,
        aliases=[],
        custom_timeouts=pulumi_policy.PolicyCustomTimeouts(0, 0, 0),
        additional_secret_outputs=[],
    )
    props = unknown_checking_proxy(copy.deepcopy(body))
    return pulumi_policy.ResourceValidationArgs(resource_type, props, "urn:test", "server", options, None)


def _reported(body: Body, resource_type: str = "kubernetes:apps/v1:Deployment") -> list[str]:
    objects, _ = pulumi_pack.policies()
    found: list[str] = []
    objects.validate(_arguments(body, resource_type), lambda message, urn=None: found.append(message))
    return found


def test_pulumi_is_told_what_breaks_a_rule_before_it_is_made() -> None:
    assert _reported(deployment()) == []
    (message,) = _reported(WRITABLE)
    assert message.startswith("read_only_root: Deployment/slipway-system/server: ")


def test_pulumi_is_told_what_all_objects_break_together() -> None:
    _, whole = pulumi_pack.policies()
    arguments = _arguments(namespace(), "kubernetes:core/v1:Namespace")
    resource = pulumi_policy.PolicyResource(
        arguments.resource_type, arguments.props, "urn:test", "x", arguments.opts, None, None, [], {}
    )
    found: list[tuple[str, str | None]] = []
    whole.validate(
        pulumi_policy.StackValidationArgs([resource]), lambda message, urn=None: found.append((message[:27], urn))
    )
    assert found == [("namespace_denies_by_default", "urn:test")] * 2


def test_resources_of_others_are_left_alone() -> None:
    assert _reported({"bucket": "b"}, "aws:s3/bucket:Bucket") == []


def test_a_helm_release_is_seen_as_one() -> None:
    assert [text.partition(":")[0] for text in _reported({"chart": "x"}, "kubernetes:helm.sh/v3:Release")] == [
        "labelled_for_cost",
        "seen_by_the_engine",
    ]


def test_what_a_preview_does_not_know_breaks_no_rule() -> None:
    body = changed(deployment, f"{SERVER}.env", [{"name": "DB_PASSWORD", "value": UNKNOWN_STRING_VALUE}])
    body = changed(lambda: body, f"{SERVER}.image", UNKNOWN_STRING_VALUE)
    assert _reported(body) == []
    assert plain(unknown_checking_proxy({"a": [UNKNOWN_STRING_VALUE, "b"]})) == {"a": [UNKNOWN, "b"]}


def test_an_object_without_a_name_of_its_own_takes_pulumis() -> None:
    thing = read_resource("kubernetes:core/v1:Service", "given", {"apiVersion": "v1", "kind": "Service"}, "")
    assert thing is not None
    assert thing.where == "Service/given"


def test_the_pack_starts_as_the_engine_starts_it() -> None:
    """The first line that it writes is the port of its server."""
    folder = FILE.parent
    command = [str(folder / "bin" / "pulumi-analyzer-policy-python"), "127.0.0.1:1", "."]
    environment = {"SLIPWAY_PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.strip().isdigit(), process.stderr.read() if process.stderr else ""
        finally:
            process.kill()
