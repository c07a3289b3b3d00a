"""The cluster's project under the real engine, for kind: with a program that behaves like `kind` as far as we call it.

No container is made; what is shown is that the engine finds and runs our resource, without Pulumi's language plugin.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra import own_cluster
from infra.engine import Engine
from infra.pulumi_cli import TOOLS
from slipway.environment import Environment, open_environment
from slipway.errors import SlipwayError
from tests.cluster.tools.build import find_program
from tests.infra.test_cluster_kind import KIND

pytestmark = pytest.mark.cluster


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of clusters; `kind` stands beside the tools."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pulumi").symlink_to(find_program("pulumi"))
    (tools / "kind").write_text(KIND)
    (tools / "kind").chmod(0o755)
    folder = tmp_path / "clusters"
    folder.mkdir()
    monkeypatch.setenv(TOOLS, str(tools))
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PULUMI_HOME", str(tmp_path / "pulumi"))
    monkeypatch.setenv("KIND_CLUSTERS", str(folder))
    monkeypatch.setenv("KIND_FAILS", "")
    monkeypatch.delenv("PULUMI_CONFIG_PASSPHRASE", raising=False)
    return folder


def open_kind(folder: Path, version: str = "1.35") -> Environment:
    file = folder / "trial.toml"
    file.write_text(
        f'name = "trial"\ntarget = "kubernetes"\nstate_dir = "{folder / "state"}"\n'
        f'[kubernetes]\nprovider = "kind"\nversion = "{version}"\n'
    )
    return open_environment(str(file))


def test_a_kind_cluster_is_made_found_again_remade_refused_a_change_and_removed(clusters: Path, tmp_path: Path) -> None:
    environment = open_kind(tmp_path)
    said: list[str] = []
    engine = Engine(environment, "cluster", said.append)
    assert list(own_cluster.list_previewed(environment, said.append)) == ["cluster"]
    assert engine.preview(policies=False).steps == {"create": 1}
    assert list(clusters.iterdir()) == []

    assert engine.up(policies=False).steps == {"create": 1}
    assert engine.up(policies=False).steps == {"same": 1}
    own_cluster.keep_kubeconfig(environment, said.append)
    kubeconfig = environment.state.secrets / "kubeconfig"
    assert kubeconfig.read_text() == "key of slipway-trial\n" and kubeconfig.stat().st_mode & 0o077 == 0
    state = [each for each in (environment.state.root / "pulumi").rglob("*") if each.is_file()]
    assert state and not any(b"key of slipway-trial" in each.read_bytes() for each in state)
    assert not any("key of" in line for line in said)

    (clusters / "slipway-trial").unlink()
    assert engine.up(policies=False).steps == {"create": 1}

    changed = Engine(open_kind(tmp_path, "1.36"), "cluster", said.append)
    with pytest.raises(SlipwayError, match="cannot change while it stands"):
        changed.up(policies=False)
    assert "v1.35.0" in (clusters / "slipway-trial").read_text()

    assert engine.down().steps == {"delete": 1}
    assert list(clusters.iterdir()) == []
    assert not any("using pulumi-resource" in line for line in said)
