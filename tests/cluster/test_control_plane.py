"""The lab itself: what the other tests of this folder rest on."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab import nodes
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.kind import CLUSTER
from tests.cluster.lab.processes import LabError, Process, wait_until

pytestmark = pytest.mark.cluster

of_our_own = pytest.mark.skipif(CLUSTER in os.environ, reason="looks at processes that another cluster does not have")


@of_our_own
def test_the_api_server_is_the_pinned_version(control_plane: ControlPlane) -> None:
    versions = json.loads(control_plane.kubectl("version", "-o", "json"))
    assert versions["serverVersion"]["gitVersion"] == "v1.35.4"


@of_our_own
def test_a_kubeconfig_is_readable_by_its_owner_alone(control_plane: ControlPlane) -> None:
    secrets = [*control_plane.folder.glob("*.kubeconfig"), *control_plane.folder.rglob("*.key")]
    assert len(secrets) >= 8
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets} == {0o600}


@of_our_own
def test_the_api_server_listens_on_loopback_alone(control_plane: ControlPlane) -> None:
    assert control_plane.url.startswith("https://127.0.0.1:")
    assert _listening_elsewhere(control_plane) == []


def test_an_unknown_field_is_refused(control_plane: ControlPlane) -> None:
    wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default"}, "dat": {}}
    with pytest.raises(LabError, match="dat"):
        control_plane.apply([wrong])


def test_a_restricted_namespace_refuses_a_privileged_pod(control_plane: ControlPlane) -> None:
    control_plane.create_namespace("restricted", {"pod-security.kubernetes.io/enforce": "restricted"})
    with pytest.raises(LabError, match="violates PodSecurity"):
        control_plane.apply([_pod("privileged", "restricted", {"privileged": True})])


def test_a_pod_is_scheduled_and_becomes_ready(control_plane: ControlPlane, cluster_nodes: None) -> None:
    control_plane.apply([_pod("plain", "default", {})])
    pod = wait_until("the pod is ready", lambda: _ready(control_plane, "plain"))
    assert "taints" not in nodes.node_of(control_plane, pod)["spec"]
    control_plane.delete("pod", "plain")


def test_processes_end_with_the_tests_that_are_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.cluster.lab.processes import Process; "
        "p = Process('sleeper', ['sleep', '300'], Path(sys.argv[1])); "
        "print(p.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # Until then it is our launcher, which would end for another reason.
    wait_until("it sleeps", lambda: "sleep" in _command(child).split(" ")[0])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until("the child ended", lambda: not _command(child))


def test_a_process_that_ends_fails_the_wait_with_its_log(tmp_path: Path) -> None:
    process = Process("broken", ["sh", "-c", "echo no such luck; exit 3"], tmp_path)
    with pytest.raises(LabError, match=r"(?s)broken ended with 3.*no such luck"):
        wait_until("it is ready", lambda: None, 20, [process])


def _pod(name: str, namespace: str, security: dict[str, bool]) -> dict[str, object]:
    container = {"name": "main", "image": "example.com/none:1", "securityContext": security}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [container]},
    }


def _ready(control_plane: ControlPlane, name: str) -> dict[str, object] | None:
    pod = control_plane.get("pod", name) or {}
    conditions = pod.get("status", {}).get("conditions", [])
    return pod if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions) else None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _listening_elsewhere(control_plane: ControlPlane) -> list[str]:
    """Sockets of the lab's processes that listen on anything but loopback."""
    inodes = set()
    for pid in control_plane.pids():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink()) if entry.is_symlink() else ""
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table, loopback in (("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and inode in inodes and local.partition(":")[0] != loopback:
                found.append(local)
    return found
