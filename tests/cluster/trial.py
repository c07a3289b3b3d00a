"""The whole program on a cluster of its own: what it should make, what it made, and what could not be made here."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.engine import Engine, Outcome, Program
from infra.recording import Recorded, Recording, record
from infra.services.program import stand_up
from slipway.environment import Environment
from slipway.mirror.versions import Versions
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import construction, rendering, servicer

Object = dict[str, Any]


@dataclass
class Trial:
    """One profile. Objects are told by `Kind namespace/name`."""

    profile: str
    cluster: ControlPlane
    environment: Environment
    versions: Versions
    report: Path
    """What the provider adds a line to for each thing that it does not apply."""
    before: set[str]
    """The cluster's inventory when nothing of ours was there."""
    lines: list[str] = field(default_factory=list)
    """All that was said to the user."""

    def engine(self, program: Program | None = None) -> Engine:
        return Engine(self.environment, "services", self.lines.append, program)

    def up(self, program: Program | None = None) -> Outcome:
        return self.engine(program).up(policies=False)

    @cached_property
    def declared(self) -> Recording:
        return record(lambda: stand_up(self.environment.settings))

    @cached_property
    def expected(self) -> set[str]:
        """What the program declares, and what its charts and manifests render, as far as they are on this machine."""
        found = {_tell(each.inputs) for each in self.declared.objects()}
        for each in self._rendered():
            with contextlib.suppress(rendering.NotAvailable):
                found |= {_tell(item) for item in _render(each)}
        return found

    @cached_property
    def unavailable(self) -> dict[str, Recorded]:
        """Charts and manifests, by name, that are not on this machine."""
        found = {}
        for each in self._rendered():
            try:
                _render(each)
            except rendering.NotAvailable:
                found[each.name] = each
        return found

    def _rendered(self) -> Iterator[Recorded]:
        return (each for each in self.declared.resources if each.type in construction.RENDERERS)

    @property
    def state_file(self) -> Path:
        """Of Pulumi; not there when the stack is gone."""
        folder = self.environment.state.root / "pulumi" / ".pulumi" / "stacks"
        return next(folder.rglob(f"{self.environment.settings.name}.json"), folder / "none")

    def in_state(self) -> set[str]:
        resources = json.loads(self.state_file.read_text())["checkpoint"]["latest"].get("resources") or []
        return {
            _tell(item["inputs"])
            for item in resources
            if item.get("custom") and not item.get("external") and not item["type"].startswith("pulumi:")
        }

    def made(self) -> set[str]:
        """What the cluster has more than before, ours or made for ours."""
        return self.cluster.inventory() - self.before

    def skipped(self) -> list[dict[str, str]]:
        """What was not applied, each once."""
        lines = dict.fromkeys(self.report.read_text().splitlines()) if self.report.exists() else {}
        return [json.loads(line) for line in lines]

    def absent(self) -> set[str]:
        """Objects of definitions that are in no module: the engine counts them, the cluster never saw them."""
        return {
            f"{entry['type'].rpartition(':')[2]} {entry['name']}"
            for entry in self.skipped()
            if entry["reason"] == servicer.NO_DEFINITION
        }

    def secrets(self) -> Iterator[tuple[str, str]]:
        """Every password and token of the environment, by file, as text and as Kubernetes writes it."""
        folder = self.environment.state.secrets
        for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
            text = file.read_text().strip()
            yield str(file.relative_to(folder)), text
            yield str(file.relative_to(folder)), base64.b64encode(text.encode()).decode()


def _render(component: Recorded) -> list[Object]:
    objects = construction.RENDERERS[component.type](component.inputs, component.name)
    return construction.complete(component.type, component.inputs, objects)


def _tell(item: Object) -> str:
    metadata = item["metadata"]
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{item['kind']} {place}{metadata['name']}"
