"""The whole program as recorded for given settings; the same settings are recorded once for all tests."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from infra.recording import Recorded, Recording, record
from infra.services.program import stand_up
from slipway.kubernetes_settings import NOT_MANAGED
from slipway.mirror.versions import DIGESTS, load_versions
from slipway.settings import Settings

GPU: dict[str, Any] = {
    "parts": {"gpu": {"enabled": True}, "training": {"gpu_workers": 2}, "queueing": {"gpus": 4}},
}
CLOUDS: dict[str, dict[str, Any]] = {
    "eks": {"provider": "eks", "network": {"region": "eu-west-1"}},
    "gke": {"provider": "gke", "network": {"region": "europe-west1", "project": "example"}},
    "aks": {"provider": "aks", "network": {"region": "westeurope", "subscription": "example"}},
}
GPU_POOL: dict[str, Any] = {"nodes": {"gpu": {"machine": "gpu-machine", "accelerator": "nvidia-l4", "max": 2}}}


def managed_by(cloud: str) -> dict[str, Any]:
    """Settings that take everything from the cloud that it has."""
    services = ("database", "cache", "object_store", "secrets")
    return {"managed": {service: True for service in services if (cloud, service) not in NOT_MANAGED}}


def settings_of(state: Path, **kubernetes: Any) -> Settings:
    return Settings.model_validate(
        {"name": "test", "target": "kubernetes", "state_dir": state, "kubernetes": kubernetes}
    )


def recorded(**kubernetes: Any) -> Recording:
    """The stack of an environment with these settings."""
    return _recorded(json.dumps(kubernetes, sort_keys=True))


@functools.cache
def _recorded(kubernetes: str) -> Recording:
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder), **json.loads(kubernetes))
        return record(lambda: stand_up(settings))


def fill_mirror(folder: Path) -> Path:
    """A mirror whose digests are known, as after `slipway mirror pull`; it holds no charts."""
    lines: list[str] = []
    versions = load_versions()
    for table in ("charts", "manifests", "images"):
        lines.append(f"[{table}]")
        lines += [f'{name} = "sha256:{"0" * 64}"' for name in getattr(versions, table)]
    (folder / DIGESTS).write_text("\n".join(lines) + "\n")
    return folder


def ancestors(recording: Recording, resource: Recorded) -> set[str]:
    """URNs of everything that is there before `resource`, and goes after it: dependencies, parents, theirs."""
    by_urn = {each.urn: each for each in recording.resources}
    found: set[str] = set()
    waiting = [resource.urn]
    while waiting:
        each = by_urn.get(waiting.pop())
        if each is None:
            continue
        fresh = ({*each.depends_on, each.parent} - {""}) - found
        found |= fresh
        waiting += fresh
    return found
