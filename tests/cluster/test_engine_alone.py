"""The engine without a cluster: looking makes nothing; what Pulumi writes down of a run on its own account."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pulumi
import pytest

from infra import commands
from infra.backend import LOGS_KEPT
from infra.engine import Engine
from infra.pulumi_cli import TOOLS
from slipway.environment import Environment, open_environment
from slipway.settings import Settings
from tests.cluster.tools.build import find_program

pytestmark = pytest.mark.cluster

PASSWORD = "correct-horse-battery-staple"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "pulumi"))
    monkeypatch.setenv(TOOLS, str(find_program("pulumi").parent))
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    file = tmp_path / "trial.toml"
    file.write_text(f'name = "trial"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n[kubernetes]\n')
    return open_environment(str(file))


def stand_up(settings: Settings) -> None:
    """A component and its secret: nothing that a provider would have to make."""
    pulumi.ComponentResource("slipway:trial:Thing", "thing", {"password": pulumi.Output.secret(PASSWORD)})
    pulumi.export("password", pulumi.Output.secret(PASSWORD))
    pulumi.export("url", "https://trial.example")


def open_engine(environment: Environment) -> Engine:
    return Engine(environment, "services", lambda _: None, stand_up)


def ask_status(environment: Environment) -> dict[str, dict[str, object]]:
    said: list[str] = []
    assert commands.status(environment, said.append, as_json=True) == 0
    (text,) = said
    found: dict[str, dict[str, object]] = json.loads(text)
    return found


def stacks(environment: Environment) -> list[str]:
    return [file.name for file in environment.state.root.glob("pulumi/.pulumi/stacks/**/*.json")]


def test_status_makes_no_stack_before_the_first_up_nor_after_down(environment: Environment) -> None:
    assert ask_status(environment) == {"trial/services": {"resources": 0}}
    assert not environment.state.root.exists()
    open_engine(environment).up(policies=False)
    assert ask_status(environment)["trial/services"]["url"] == "https://trial.example"
    assert stacks(environment) == ["trial.json"]
    open_engine(environment).down()
    assert stacks(environment) == []
    assert ask_status(environment) == {"trial/services": {"resources": 0}}
    assert stacks(environment) == []


def test_pulumis_own_log_of_a_run_holds_no_secret(environment: Environment, tmp_path: Path) -> None:
    engine = open_engine(environment)
    engine.up(policies=False)
    assert engine.read_secret("password") == PASSWORD
    engine.down()
    passphrase = (environment.state.secrets / "pulumi-passphrase").read_text()
    logs = list((tmp_path / "pulumi" / "logs").iterdir())
    encrypted = [file for file in logs if file.read_bytes().startswith(b"PLOG")]
    assert len(encrypted) >= 2, "each run with the stack's secrets"
    for file in logs:
        content = file.read_bytes()
        text = content if file in encrypted else gzip.decompress(content)
        assert PASSWORD.encode() not in text, file.name
        assert passphrase.encode() not in text, file.name


def test_pulumis_own_logs_do_not_grow_for_ever(environment: Environment, tmp_path: Path) -> None:
    logs = tmp_path / "pulumi" / "logs"
    logs.mkdir(parents=True)
    hours_ago = [
        logs / time.strftime("stack-%Y%m%dT%H%M%S.log", time.gmtime(time.time() - 3600 * hours)) for hours in (3, 2, 1)
    ]
    for file in hours_ago:
        file.touch()
        os.truncate(file, int(0.45 * LOGS_KEPT * 2**20))
    open_engine(environment).preview(policies=False)
    assert [file.exists() for file in hours_ago] == [False, True, True]
