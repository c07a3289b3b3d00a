"""What is submitted to Kubeflow Pipelines: the graph as it is compiled, and the pod that each of its steps is given.

The graph knows nothing of pods, since it runs here as well; this writes into the compiled document what the
infrastructure says of them. It is plain data of the release that is installed (`kubernetes_executor_config.proto`,
`pipeline_spec.proto`), so the package that would write the same from Python is not needed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.execution import ATTEMPT
from pipelines.jobs import RUN_LABEL
from pipelines.task import Run
from slipway.errors import SlipwayError
from slipway.step_pods import StepPods
from slipway.targets.kubernetes.names import MODEL_LABEL

KEPT = 86_400
"""Seconds for which the pods of an ended run stay, with their logs."""
_COMPILED_WITHIN = 300
_TAIL = 1000

Document = dict[str, Any]


def describe(run: Run, attempt: str, limit: float, pods: StepPods) -> Document:
    """`pipeline_spec` and `platform_spec` of one attempt, which is ended after `limit` seconds whoever watches."""
    import yaml

    graph: Document = yaml.safe_load(_compile())
    executors = graph["deploymentSpec"]["executors"]
    for executor in executors.values():
        executor["container"] |= _container(attempt, pods)
    configured = {name: _configuration(run, name.removeprefix("exec-"), pods) for name in executors}
    platform = {
        "deploymentSpec": {"executors": configured},
        "pipelineConfig": {"activeDeadlineSeconds": int(limit), "resourceTtlOnCompletion": KEPT},
    }
    return {"pipeline_spec": graph, "platform_spec": {"platforms": {"kubernetes": platform}}}


@cache
def _compile() -> str:
    """In a process of its own: kfp brings protocol definitions that other libraries bring as well, and fails beside
    them.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "training.yaml"
        command = [sys.executable, "-m", "pipelines.compile", "training", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILED_WITHIN, check=False)
        except subprocess.TimeoutExpired as error:
            raise SlipwayError(f"the graph was not compiled within {_COMPILED_WITHIN} s") from error
        if done.returncode:
            raise SlipwayError(f"the graph cannot be compiled: {done.stderr.strip()[-_TAIL:]}")
        return file.read_text()


def _container(attempt: str, pods: StepPods) -> Document:
    variables = {**pods.variables, ATTEMPT: attempt}
    return {
        "image": pods.image,
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "resources": {
            "resourceCpuRequest": pods.resources["requests"]["cpu"],
            "resourceMemoryRequest": pods.resources["requests"]["memory"],
            "resourceCpuLimit": pods.resources["limits"]["cpu"],
            "resourceMemoryLimit": pods.resources["limits"]["memory"],
        },
    }


def _configuration(run: Run, step: str, pods: StepPods) -> Document:
    labels = {**pods.labels, MODEL_LABEL: run.model, RUN_LABEL: str(run.id)}
    return {
        "imagePullPolicy": "IfNotPresent",
        "podMetadata": {"labels": labels},
        "secretAsVolume": [
            {"secretName": secret, "mountPath": folder, "optional": False}
            for secret, folder in pods.secrets[step].items()
        ],
        "emptyDirMounts": [
            {"volumeName": f"scratch-{number}", "mountPath": path, "sizeLimit": size}
            for number, (path, size) in enumerate(pods.folders.items())
        ],
    }
