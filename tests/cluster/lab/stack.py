"""What the infrastructure program declares, without an engine and without a cluster.

So that controllers are shown the very objects that users get, and not copies of them that age.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pulumi
from pulumi.runtime import stack as runtime_stack

from infra.services.program import stand_up
from slipway.settings import Settings
from tests.cluster.lab.processes import LabError

Object = dict[str, Any]

DECLARED_WITHIN = 120
_SECRET_MARK = "4dabf18193072939515e22adb298388d"
"""The key by which Pulumi marks a value on the wire as more than a plain one."""


@dataclass(frozen=True)
class Declared:
    """One resource."""

    type: str
    name: str
    inputs: Object


class Stack:
    """Every resource of the program in one environment."""

    def __init__(self, settings: Settings) -> None:
        # In a process of its own: Pulumi leaves event loops open, and its mocks are for ever.
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.lab.stack"],
            input=settings.model_dump_json(exclude_defaults=True),
            capture_output=True,
            text=True,
            timeout=DECLARED_WITHIN,
            check=False,
        )
        if done.returncode:
            raise LabError(f"the infrastructure program failed:\n{done.stderr.strip()}")
        self.resources = [Declared(**fields) for fields in json.loads(done.stdout)]

    def objects(self, *kinds: str, namespace: str = "") -> Iterator[Object]:
        """Plain Kubernetes objects of these kinds, as the API server would get them."""
        for resource in self.resources:
            item = resource.inputs
            if item.get("kind") not in kinds or "metadata" not in item:
                continue
            if not namespace or item["metadata"].get("namespace") == namespace:
                yield item

    def chart_values(self, chart: str) -> Object:
        """The values that a Helm release of this name is given."""
        for resource in self.resources:
            if resource.type.startswith("kubernetes:helm.sh") and resource.name == chart:
                values: Object = resource.inputs.get("values") or {}
                return values
        known = sorted(item.name for item in self.resources if item.type.startswith("kubernetes:helm.sh"))
        raise KeyError(f"no release {chart!r} among {', '.join(known)}")


class _Recorder(pulumi.runtime.Mocks):
    def __init__(self) -> None:
        self.resources: list[Declared] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, Object]:
        inputs: Object = _plain(dict(args.inputs))
        self.resources.append(Declared(args.typ, args.name, inputs))
        return f"{args.name}-id", dict(args.inputs)

    def call(self, args: pulumi.runtime.MockCallArgs) -> Object:
        return {}


def _plain(value: Any) -> Any:
    """Without the wrapping of secrets; whole numbers as such, which the wire has no type for."""
    if isinstance(value, dict):
        if _SECRET_MARK in value:
            return _plain(value.get("value"))
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def main() -> None:
    """Settings as JSON in, resources as JSON out."""
    settings = Settings.model_validate_json(sys.stdin.read())
    recorder = _Recorder()

    async def run() -> None:
        # Mocks take hold of the loop that runs now; set before it, nothing would ever end.
        pulumi.runtime.set_mocks(recorder, project="slipway-services", stack=settings.name)
        stand_up(settings)
        await runtime_stack.wait_for_rpcs()

    asyncio.run(run())
    json.dump([asdict(resource) for resource in recorder.resources], sys.stdout)


if __name__ == "__main__":
    main()
