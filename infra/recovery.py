"""What a run that died in the middle left in the state: operations begun, of which nobody knows whether they happened.

A creation that may have happened is put into the state under the id that it would have; the refresh that follows reads
the cluster and drops it again when it is not there. Only Kubernetes objects have an id that is known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pulumi.automation.events import StepEventStateMetadata

Deployment = dict[str, Any]

_HIDDEN = "[secret]"


def note_unanswered(deployment: Deployment, creations: Sequence[StepEventStateMetadata]) -> Deployment:
    """The state with creations begun of which the provider, which died, said nothing; the engine forgets those."""
    noted = [{"resource": _begun(each), "type": "creating"} for each in creations]
    return deployment | {"pending_operations": [*(deployment.get("pending_operations") or []), *noted]}


def _begun(creation: StepEventStateMetadata) -> dict[str, Any]:
    inputs = dict(creation.inputs or {})
    # Events have this for secrets. What is left out is a difference to the next run, which puts it right.
    if _HIDDEN in repr(inputs):
        inputs = {key: inputs[key] for key in ("apiVersion", "kind", "metadata") if key in inputs}
    told = {"urn": creation.urn, "custom": True, "type": creation.type, "inputs": inputs}
    return told | {"parent": creation.parent, "provider": creation.provider}


def adopt_unfinished(deployment: Deployment) -> tuple[Deployment, list[str], list[str]]:
    """The state without unfinished operations; URNs that a refresh settles; URNs that only a person can settle.

    The latter are creations at a cloud: the thing may exist there and be in nobody's state.
    """
    operations = deployment.get("pending_operations") or []
    resources = list(deployment.get("resources") or [])
    known = {resource["urn"] for resource in resources}
    settled: list[str] = []
    unsettled: list[str] = []
    for operation in operations:
        resource = operation["resource"]
        urn = resource["urn"]
        if operation["type"] != "creating" or urn in known:
            settled.append(urn)
        elif (identity := _kubernetes_id(resource)) is not None:
            resources.append(resource | {"id": identity, "outputs": resource.get("inputs", {})})
            known.add(urn)
            settled.append(urn)
        else:
            unsettled.append(urn)
    return deployment | {"resources": resources, "pending_operations": []}, settled, unsettled


def _kubernetes_id(resource: Mapping[str, Any]) -> str | None:
    """`namespace/name` or `name`; None for what is not a Kubernetes object or got its name from elsewhere."""
    if not resource["type"].startswith("kubernetes:"):
        return None
    metadata = resource.get("inputs", {}).get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])
