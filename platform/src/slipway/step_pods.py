"""What a step of a run is given where it has a pod of its own: written by the infrastructure, read by the runner.

One file below the runner's secrets, though nothing in it is one: which Secrets a step is given, not what they hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from slipway.errors import NotReady
from slipway.pod import Pod

FOLDER, FILE = "steps", "steps.json"
"""Where the runner finds it, below its secrets."""


@dataclass(frozen=True)
class StepPods:
    """The pods of a run's steps, but for the program that each runs."""

    server: str
    """URL of Kubeflow Pipelines' API, without a slash at the end."""
    image: str
    variables: Mapping[str, str]
    labels: Mapping[str, str]
    folders: Mapping[str, str]
    """Scratch space: path -> size."""
    resources: Mapping[str, Mapping[str, str]]
    """`requests` and `limits` of cpu and memory."""
    secrets: Mapping[str, Mapping[str, str]]
    """Step -> Secret -> the folder that it is mounted as."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def read_step_pods(pod: Pod | None) -> StepPods:
    """Raises NotReady outside a pod, and in one that is not given the file."""
    if pod is None:
        raise NotReady("Kubeflow Pipelines is told to the runner's pod alone", hint="let the runner of the cluster run")
    return StepPods(**json.loads(pod.read(f"{FOLDER}/{FILE}")))
