"""What Prometheus makes of our alerts and dashboards, by its own tool: what each says, to which series, and when."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slipway.settings import REPOSITORY
from tests.cluster.tools.build import find_program

pytestmark = pytest.mark.cluster

ALERTS = sorted((REPOSITORY / "monitoring" / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((REPOSITORY / "monitoring" / "dashboards").glob("*.json"))
STORIES = Path(__file__).with_name("alerts")


def promtool(*arguments: str | Path) -> None:
    command = [str(find_program("promtool")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ALERTS, ids=lambda file: file.stem)
def test_every_alert_is_raised_when_it_should_be_and_only_then(file: Path) -> None:
    story = STORIES / file.name
    promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    promtool("test", "rules", story)
    defined = {rule["alert"] for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]}
    told = [check for test in yaml.safe_load(story.read_text())["tests"] for check in test["alert_rule_test"]]
    for wanted in (True, False):
        assert {check["alertname"] for check in told if bool(check["exp_alerts"]) is wanted} == defined


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_asks_what_prometheus_understands(file: Path) -> None:
    asked = list(expressions(json.loads(file.read_text())))
    assert asked
    for expression in asked:
        promtool("--experimental", "promql", "format", expression)


def expressions(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key == "expr")
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from expressions(each)
