"""The walk of docs/extending.md, performed on a copy of the repository exactly as the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slipway.settings import REPOSITORY

PAGE = REPOSITORY / "docs" / "extending.md"
STEP = re.compile(r"^`(?P<file>[^`]+)`, (?P<where>[^\n]+)\n\n```(?:toml|python)\n(?P<text>.*?)```$", re.M | re.S)

STAND_UP = """
import json, sys
from infra.policies.objects import KubeObject
from infra.policies.pack import examine_object
from infra.recording import record
from infra.services.program import stand_up
from slipway.settings import Settings

def objects(enabled):
    kubernetes = {"parts": {"alerting": {"enabled": enabled}}}
    settings = Settings.model_validate(
        {"name": "walk", "target": "kubernetes", "state_dir": sys.argv[1], "kubernetes": kubernetes}
    )
    return [each for each in record(lambda: stand_up(settings)).objects()
            if each.metadata["labels"]["app.kubernetes.io/component"] == "alerting"]

findings = [str(found) for each in objects(True) for found in examine_object(KubeObject(each.inputs))
            if found.rule != "image_by_digest"]
json.dump({"with": sorted(each.where for each in objects(True)), "without": len(objects(False)),
           "findings": findings}, sys.stdout)
"""


@dataclass(frozen=True)
class Step:
    file: str
    where: str
    text: str

    def perform(self, root: Path) -> None:
        file = root / self.file
        if self.where == "a new file:":
            assert not file.exists(), self.file
            file.write_text(self.text)
        elif self.where == "at the end:":
            file.write_text(file.read_text() + "\n" + self.text)
        else:
            anchor = re.fullmatch(r"before `(.+)`", self.where)
            assert anchor, self.where
            line = f"{anchor[1]}\n"
            assert file.read_text().count(line) == 1, f"{self.file}: {anchor[1]}"
            file.write_text(file.read_text().replace(line, self.text + line))


def steps() -> list[Step]:
    return [Step(found["file"], found["where"], found["text"]) for found in STEP.finditer(PAGE.read_text())]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "infra", root / "infra", ignore=ignored)
    shutil.copytree(REPOSITORY / "platform" / "src", root / "platform" / "src", ignore=ignored)
    for step in steps():
        step.perform(root)
    return root


def test_the_page_has_a_step_for_pin_settings_component_and_list() -> None:
    assert {step.file for step in steps()} == {
        "infra/versions.toml",
        "platform/src/slipway/kubernetes_parts.py",
        "infra/components/alerting.py",
        "infra/services/program.py",
    }
    assert len(steps()) == PAGE.read_text().count("```toml") + PAGE.read_text().count("```python")


def test_a_component_added_as_the_page_says_stands_up_and_breaks_no_policy(copy: Path, tmp_path: Path) -> None:
    path = os.pathsep.join((str(copy / "platform" / "src"), str(copy)))
    done = subprocess.run(
        [sys.executable, "-c", STAND_UP, str(tmp_path)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == {
        "with": [
            "ConfigMap/slipway-monitoring/alertmanager",
            "Deployment/slipway-monitoring/alertmanager",
            "NetworkPolicy/slipway-monitoring/alertmanager",
            "Service/slipway-monitoring/alertmanager",
            "ServiceAccount/slipway-monitoring/alertmanager",
        ],
        "without": 0,
        "findings": [],
    }


def test_the_code_on_the_page_is_in_the_style_of_the_rest(copy: Path) -> None:
    files = [str(copy / step.file) for step in steps() if step.file.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(REPOSITORY / "pyproject.toml"), *files],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", sorted((REPOSITORY / "infra" / "components").glob("*.py")), ids=lambda file: file.stem)
def test_a_component_has_the_shape_of_every_other(file: Path) -> None:
    text = file.read_text()
    kinds = re.findall(r"^class (\w+)\(Component\):", text, re.M)
    if file.stem in ("component", "workload", "chart") or not kinds:
        return
    (kind,) = kinds
    assert re.search(rf"^@dataclass\(frozen=True\)\nclass {kind}Args:\n    site: Site\n", text, re.M), "its Args"
    assert f"def __init__(self, name: str, args: {kind}Args, opts: pulumi.ResourceOptions | None = None)" in text
    assert "self.register_outputs(" in text
    assert text.startswith('"""')
