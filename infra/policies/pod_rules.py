"""Rules about one pod. The levels `baseline` and `restricted` are those of the Pod Security Standards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.policies.objects import UNKNOWN, items, mapping
from infra.policies.pods import Container, Pod
from infra.quantity import parse_quantity

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
"""What `restricted` lets a pod mount."""

SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip


def no_host_access(pod: Pod) -> Iterator[str]:
    """A pod sees nothing of its node: no host network, processes, files or ports, and is not privileged."""
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(name):
            yield f"{pod.where}.{name} is true; leave it out"
    for volume in map(mapping, items(pod.spec.get("volumes"))):
        if volume.get("hostPath"):
            yield f"{pod.where}.volumes[{volume.get('name')}] is a hostPath; use a claim or an emptyDir"
    for container in pod.containers():
        if container.security.get("privileged"):
            yield f"{container.where} is privileged; leave securityContext.privileged out"
        if mapping(container.security.get("windowsOptions")).get("hostProcess"):
            yield f"{container.where} is a host process; leave windowsOptions.hostProcess out"
        for port in map(mapping, items(container.body.get("ports"))):
            if port.get("hostPort"):
                yield f"{container.where} takes port {port['hostPort']} of its node; use a Service"
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            probe = mapping(container.body.get(name))
            if any(mapping(probe.get(way)).get("host") for way in ("httpGet", "tcpSocket")):
                yield f"{container.where}.{name} names a host; leave it out: the pod itself is probed"


def pod_security_restricted(pod: Pod) -> Iterator[str]:
    """A pod passes the level `restricted`: not root, no privilege to gain, no capability, a seccomp profile."""
    if pod.security.get("runAsUser") == 0:
        yield f"{pod.where}.securityContext.runAsUser is 0; name another user"
    for sysctl in map(mapping, items(pod.security.get("sysctls"))):
        if sysctl.get("name") not in SAFE_SYSCTLS:
            yield f"{pod.where} sets {sysctl.get('name')}, which is not a safe sysctl"
    for volume in map(mapping, items(pod.spec.get("volumes"))):
        unknown = set(volume) - {"name", "hostPath"} - VOLUMES
        if unknown:
            yield f"{pod.where}.volumes[{volume.get('name')}] is of kind {', '.join(sorted(unknown))}; use a claim"
    for container in pod.containers():
        yield from _restricted(pod, container)


def _restricted(pod: Pod, container: Container) -> Iterator[str]:
    context = container.security
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{container.where} may gain privileges; set securityContext.allowPrivilegeEscalation = false"
    capabilities = mapping(context.get("capabilities"))
    if "ALL" not in items(capabilities.get("drop")):
        yield f"{container.where} keeps capabilities; set securityContext.capabilities.drop = [ALL]"
    added = set(map(str, items(capabilities.get("add")))) - {"NET_BIND_SERVICE"}
    if added:
        yield f"{container.where} adds {', '.join(sorted(added))}; leave securityContext.capabilities.add out"
    if _effective("runAsNonRoot", context, pod.security) is not True:
        yield f"{container.where} may run as root; set securityContext.runAsNonRoot = true"
    if context.get("runAsUser") == 0:
        yield f"{container.where}.securityContext.runAsUser is 0; name another user"
    profile = mapping(_effective("seccompProfile", context, pod.security)).get("type")
    if profile not in ("RuntimeDefault", "Localhost", UNKNOWN):
        yield f"{container.where} has no seccomp profile; set securityContext.seccompProfile.type = RuntimeDefault"
    if context.get("procMount", "Default") != "Default":
        yield f"{container.where}.securityContext.procMount is not Default; leave it out"
    for where, security in ((container.where, context), (pod.where, pod.security)):
        if mapping(security.get("appArmorProfile")).get("type") == "Unconfined":
            yield f"{where} switches AppArmor off; leave securityContext.appArmorProfile out"
        if mapping(security.get("seLinuxOptions")).get("user") or mapping(security.get("seLinuxOptions")).get("role"):
            yield f"{where} sets an SELinux user or role; leave them out"


def read_only_root(pod: Pod) -> Iterator[str]:
    """A container cannot write to its own image; what it must write goes into a volume."""
    for container in pod.containers():
        if container.security.get("readOnlyRootFilesystem") is not True:
            yield f"{container.where} can write to its root; set securityContext.readOnlyRootFilesystem = true"


def requests_and_limits(pod: Pod) -> Iterator[str]:
    """A container says what it needs and what it may not exceed, of CPU and memory; a request is within its limit."""
    for container in pod.containers():
        resources = mapping(container.body.get("resources"))
        requests, limits = mapping(resources.get("requests")), mapping(resources.get("limits"))
        for name in ("cpu", "memory"):
            # A limit alone is a request, too: Kubernetes fills it in.
            if name not in limits:
                yield f"{container.where} has no limit of {name}; set resources.limits.{name}"
            elif name in requests:
                yield from _within(container, name, requests[name], limits[name])
        if not requests:
            yield f"{container.where} requests nothing; set resources.requests"


def _within(container: Container, name: str, request: Any, limit: Any) -> Iterator[str]:
    try:
        if UNKNOWN not in (request, limit) and parse_quantity(request) > parse_quantity(limit):
            yield f"{container.where} requests {request} of {name}, above its limit {limit}; raise resources.limits"
    except ValueError as error:
        yield f"{container.where}.resources: {error}; write 500m or 2Gi"


def _effective(name: str, container: Mapping[str, Any], pod: Mapping[str, Any]) -> Any:
    """What the container says goes before what the pod says."""
    return container[name] if container.get(name) is not None else pod.get(name)
