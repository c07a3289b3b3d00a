"""What each part requests, per profile: `python -m infra.requests` prints docs/requests.md, computed from the program.

Requests are what the scheduler keeps free; limits are higher. Disk is volumes that outlive a pod. Jobs count apart:
they come and go.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.components.training import TEMPLATE
from infra.quantity import parse_bytes, parse_quantity
from infra.recording import Recorded, Recording, record
from slipway.kubernetes_settings import PART_NAMES, PROFILES, Profile
from slipway.settings import Settings

_COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Amount:
    """CPU in thousandths of a core; memory and disk in bytes."""

    cpu: int = 0
    memory: int = 0
    disk: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory, self.disk + other.disk)

    def __mul__(self, times: int) -> Amount:
        return Amount(self.cpu * times, self.memory * times, self.disk * times)


@dataclass(frozen=True)
class Table:
    standing: Mapping[str, Amount]
    """Part -> what it requests all the time."""
    jobs: Mapping[str, Amount]
    """Job -> what it requests while it runs."""

    @property
    def total(self) -> Amount:
        return sum(self.standing.values(), Amount())


def compute(profile: Profile) -> Table:
    """The table of one profile on an existing cluster with no part of its own."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.model_validate(
            {"name": "requests", "target": "kubernetes", "state_dir": folder, "kubernetes": {"profile": profile}}
        )
        from infra.services.program import stand_up

        return tabulate(record(lambda: stand_up(settings)))


def tabulate(recording: Recording) -> Table:
    """Sum up what a recorded program requests."""
    standing: dict[str, Amount] = defaultdict(Amount)
    jobs: dict[str, Amount] = {}
    for each in recording.objects():
        part = str((each.metadata.get("labels") or {}).get(_COMPONENT, "")).replace("-", "_")
        if each.kind in ("Job", "CronJob"):
            template = each.inputs["spec"]
            template = template.get("jobTemplate", {}).get("spec") or template
            jobs[str(each.metadata["name"])] = _of_pod(template["template"]["spec"])
        elif each.metadata["name"] == TEMPLATE:
            jobs["training on Ray"] = _of_cluster(
                json.loads(each.inputs["data"]["rayjob.json"])["spec"]["rayClusterSpec"]
            )
        else:
            standing[part] += sum(_requested(each), Amount())
    for kind in ("HelmChart", "Manifest"):
        for component in recording.components(kind):
            amounts = [_of(resources) for resources in component.inputs["pods"].values()]
            disk = Amount(disk=parse_bytes(component.inputs["disk"])) if component.inputs.get("disk") else Amount()
            standing[component.inputs["part"]] += sum(amounts, disk)
    return Table({part: standing[part] for part in PART_NAMES if standing[part] != Amount()}, jobs)


def _requested(each: Recorded) -> Iterator[Amount]:
    """What one object asks for by itself or by the pods that an operator makes of it."""
    spec = each.inputs.get("spec") or {}
    match each.kind:
        case "Deployment" | "DaemonSet":
            yield _of_pod(spec["template"]["spec"]) * int(spec.get("replicas", 1))
        case "PersistentVolumeClaim":
            yield Amount(disk=parse_bytes(spec["resources"]["requests"]["storage"]))
        case "Cluster":
            instance = _of(spec["resources"]) + Amount(disk=parse_bytes(spec["storage"]["size"]))
            yield instance * int(spec["instances"])
        case "EnvoyProxy":
            deployment = spec["provider"]["kubernetes"]["envoyDeployment"]
            second = deployment["patch"]["value"]["spec"]["template"]["spec"]["containers"][0]
            pod = _of(deployment["container"]["resources"]) + _of(second["resources"])
            yield pod * int(deployment["replicas"])
        case "FeatureStore":
            services = spec["services"]
            yield _of(services["onlineStore"]["server"]["resources"])
            yield _of(services["registry"]["local"]["server"]["resources"])
        case "RayCluster":
            yield _of_cluster(spec)


def _of_cluster(spec: Mapping[str, Any]) -> Amount:
    """A Ray cluster at its smallest: head, autoscaler if there is one, and the workers that are always there."""
    head = _of_pod(spec["headGroupSpec"]["template"]["spec"])
    groups = [_of_pod(group["template"]["spec"]) * int(group["replicas"]) for group in spec["workerGroupSpecs"]]
    autoscaler = _of(spec["autoscalerOptions"]["resources"]) if "autoscalerOptions" in spec else Amount()
    return sum(groups, head + autoscaler)


def _of_pod(spec: Mapping[str, Any]) -> Amount:
    return sum((_of(container["resources"]) for container in spec["containers"]), Amount())


def _of(resources: Mapping[str, Any]) -> Amount:
    requests = resources["requests"]
    return Amount(int(1000 * parse_quantity(requests["cpu"])), parse_bytes(requests["memory"]))


def render_markdown() -> str:
    """The page docs/requests.md."""
    tables = {profile: compute(profile) for profile in PROFILES}
    lines = [
        "# What each part requests",
        "",
        "This page is computed from the program: `python -m infra.requests > docs/requests.md`. Requests are what the",
        "scheduler keeps free; limits are higher. Disk is volumes that outlive a pod. Not here: parts that neither",
        "profile enables (GPU), and revisions, each of which requests what its model's contract says (100m and 512 MiB",
        "where it says nothing).",
        "",
        "| Part | " + " | ".join(f"{profile}: CPU | memory | disk" for profile in PROFILES) + " |",
        "|---|" + "---:|" * 3 * len(PROFILES),
    ]
    for part in PART_NAMES:
        if any(part in table.standing for table in tables.values()):
            cells = [_cells(tables[profile].standing.get(part)) for profile in PROFILES]
            lines.append(f"| `{part}` | " + " | ".join(cells) + " |")
    lines.append("| **all** | " + " | ".join(_cells(tables[profile].total) for profile in PROFILES) + " |")
    lines += [
        "",
        "While they run, jobs request besides:",
        "",
        "| Job | Profile | CPU | memory |",
        "|---|---|---:|---:|",
    ]
    for profile in PROFILES:
        for job, amount in sorted(tables[profile].jobs.items()):
            row = f"| `{_stem(job)}` | {profile} | {amount.cpu / 1000:g} | {_size(amount.memory)} |"
            lines.append(row)
    return "\n".join(lines) + "\n"


def _stem(job: str) -> str:
    """Without the fingerprint that names a Job after what it runs."""
    stem, _, tail = job.rpartition("-")
    return stem if len(tail) == 10 and all(each in "0123456789abcdef" for each in tail) else job


def _cells(amount: Amount | None) -> str:
    if amount is None:
        return " |  | "
    return f"{amount.cpu / 1000:g} | {_size(amount.memory)} | {_size(amount.disk) if amount.disk else ''}"


def _size(amount: int) -> str:
    return f"{amount / 2**30:.4g} GiB" if amount >= 2**30 else f"{amount // 2**20} MiB"


if __name__ == "__main__":
    sys.stdout.write(render_markdown())
