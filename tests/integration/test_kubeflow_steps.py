"""A step in a pod of its own, as Kubeflow Pipelines starts it: the command of the compiled graph, with what the pod is
given and no more, as a process of this machine. What it says is read from a real S3 store by the runner's own code.

The launcher's part (fetching inputs, keeping outputs) is a file here; the step finds no data, and says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.components import platform_pod
from pipelines.kubeflow_spec import describe
from pipelines.step_notes import folder_of, read_notes
from pipelines.steps import STEPS
from pipelines.task import Run
from slipway.pod import Pod
from slipway.step_pods import StepPods
from tests.infra.recorded_stack import settings_of
from tests.s3_server import credentials, s3_server

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).parents[2]
_CODE = f"{_ROOT}:{_ROOT / 'platform' / 'src'}"
RUN = Run(7, "flight_delay/first", "flight_delay", datetime(2013, 3, 2, tzinfo=UTC), None, {})


def _start(folder: Path, executor: dict[str, Any], inputs: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    """What the launcher does in the pod: placeholders filled in, outputs named, the command run."""
    output = folder / "outputs"
    output.mkdir()
    given = {
        name: {"artifacts": [{"name": name, "type": {"schemaTitle": "system.Dataset"}, "uri": str(path)}]}
        for name, path in inputs.items()
    }
    made = {
        name: {"artifacts": [{"name": name, "type": {"schemaTitle": "system.Artifact"}, "uri": str(output / name)}]}
        for name in ("rows", "report")
    }
    document = {
        "inputs": {"parameterValues": {"environment": str(folder / "environment.json"), "run": RUN.to_json()},
                   "artifacts": given},
        "outputs": {"artifacts": made, "outputFile": str(output / "executor_output.json")},
    }  # fmt: skip
    container = executor["container"]
    arguments = [json.dumps(document) if each == "{{$}}" else each for each in container["args"]]
    variables = {each["name"]: each["value"] for each in container["env"]}
    return subprocess.run(
        [*container["command"], *arguments],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": _CODE} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_step_says_how_it_got_on_where_the_runner_reads_it(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    settings = json.loads(platform_pod.environment_file(settings_of(tmp_path, profile="full")))
    (tmp_path / "environment.json").write_text(json.dumps(settings | {"state_dir": str(tmp_path / "state")}))
    with s3_server() as objects:
        for name, text in credentials(objects).items():
            (secrets / name).parent.mkdir(parents=True, exist_ok=True)
            (secrets / name).write_text(text)
        pods = StepPods(
            server="http://unused",
            image="unused",
            variables={"HOME": str(tmp_path), "SLIPWAY_SECRETS": str(secrets)},
            labels={},
            folders={},
            resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            secrets={step: {} for step in STEPS},
        )
        executors = describe(RUN, "7-1", 60, pods)["pipeline_spec"]["deploymentSpec"]["executors"]
        done = _start(tmp_path, executors["exec-validate"], {"rows": tmp_path / "nothing.parquet"})
        lines = read_notes(folder_of(Pod(secrets), "7-1"))
    assert done.returncode != 0, done.stdout
    assert [(line["step"], line["state"]) for line in lines] == [("validate", "begun"), ("validate", "ended")], done
    assert lines[1]["error"]["outcome"] == "failed"
    assert "nothing.parquet" in lines[1]["error"]["message"]
