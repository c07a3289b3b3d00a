"""A container that an object describes, as a process of the private network: its arguments, variables and files.

Does what a kubelet would, as far as operators need it here: Secrets and ConfigMaps become files, empty volumes become
folders. No image is pulled: the program is one of this machine's. No container is restricted by it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.lab.private_network import PrivateNetwork
from tests.cluster.lab.processes import LabError, Process

Object = dict[str, Any]


def run_container(
    control_plane: ControlPlane,
    network: PrivateNetwork,
    workload: Object,
    container: str,
    program: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
) -> Process:
    """Start one container of a Deployment. `environment` and `mounts` are added to what the Deployment says."""
    namespace = workload["metadata"]["namespace"]
    spec = workload["spec"]["template"]["spec"]
    (body,) = (each for each in spec["containers"] if each["name"] == container)
    facts = {"metadata.name": f"{workload['metadata']['name']}-lab", "metadata.namespace": namespace}
    variables = _variables(body, facts)
    folder = control_plane.folder / f"{workload['metadata']['name']}.{container}"
    folder.mkdir(mode=0o700)
    volumes = {each["name"]: each for each in spec.get("volumes", [])}
    files = {
        mount["mountPath"]: _volume(control_plane, namespace, volumes[mount["name"]], folder)
        for mount in body.get("volumeMounts", [])
    }
    arguments = [_expand(text, variables) for text in body.get("args", [])]
    return network.start(
        container, [*program, *arguments], {**variables, **(environment or {})}, {**files, **(mounts or {})}
    )


def _variables(body: Object, facts: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for each in body.get("env", []):
        source = each.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        found[each["name"]] = facts.get(source, "") if source else str(each.get("value", ""))
    return found


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` as Kubernetes reads it: what is not known stays."""
    return re.sub(r"\$\((\w+)\)", lambda found: variables.get(found[1], found[0]), text)


def _volume(control_plane: ControlPlane, namespace: str, volume: Object, folder: Path) -> Path:
    target = folder / volume["name"]
    target.mkdir(mode=0o700, exist_ok=True)
    for name, content in _read_volume(control_plane, namespace, volume).items():
        (target / name).write_bytes(content)
        (target / name).chmod(0o600)
    return target


def _read_volume(control_plane: ControlPlane, namespace: str, volume: Object) -> dict[str, bytes]:
    if "secret" in volume:
        secret = _read(control_plane, "secret", volume["secret"]["secretName"], namespace)
        return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}
    if "configMap" in volume:
        source = volume["configMap"]
        data = _read(control_plane, "configmap", source["name"], namespace).get("data") or {}
        paths = {each["key"]: each["path"] for each in source.get("items", [])} or {key: key for key in data}
        return {path: data[key].encode() for key, path in paths.items()}
    if "emptyDir" in volume:
        return {}
    raise LabError(f"volume {volume['name']} is of a kind that the lab cannot make: {', '.join(sorted(volume))}")


def _read(control_plane: ControlPlane, kind: str, name: str, namespace: str) -> Object:
    found = control_plane.get(kind, name, namespace)
    if found is None:
        raise LabError(f"{kind} {namespace}/{name} is not there: a pod that mounts it would never start")
    return found
