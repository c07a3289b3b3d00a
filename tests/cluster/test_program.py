"""The whole program on an existing cluster, by the real engine: every object accepted by the true schemas."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from infra.components import names
from infra.engine import Engine
from infra.pulumi_cli import TOOLS
from infra.versions import load_versions
from slipway.environment import open_environment
from tests.cluster import shelf
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import construction, plugin, rendering, servicer
from tests.cluster.tools.build import find_program

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("profile", ["core", "full"])
def test_the_whole_program_stands_up_stays_and_goes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    profile: str,
) -> None:
    versions = load_versions()
    report = tmp_path / "not-applied.jsonl"
    shelf.fill(tmp_path / "shelf", versions)
    monkeypatch.setenv("PULUMI_HOME", str(plugin.install(tmp_path / "pulumi")))
    monkeypatch.setenv(TOOLS, str(find_program("pulumi").parent))
    monkeypatch.setenv(rendering.SHELF, str(tmp_path / "shelf"))
    monkeypatch.setenv(construction.REPORT, str(report))
    monkeypatch.setenv(servicer.ABSENT_GROUPS, ",".join(shelf.ABSENT_GROUPS))
    monkeypatch.setenv(servicer.NO_OPERATORS, "true")
    # A cluster of its own: what another test left would be refused as somebody else's.
    with ControlPlane(tmp_path / "cluster") as cluster:
        shelf.prepare(cluster, versions, (names.FEATURES_OPERATOR,))
        foreign = {item["metadata"]["name"] for item in cluster.list("customresourcedefinitions")}
        file = tmp_path / "whole.toml"
        file.write_text(
            f'name = "whole"\ntarget = "kubernetes"\nstate_dir = "{tmp_path / "state"}"\n[kubernetes]\n'
            f'provider = "existing"\nprofile = "{profile}"\nkubeconfig = "{cluster.kubeconfig}"\n'
        )
        lines: list[str] = []
        environment = open_environment(str(file))

        first = Engine(environment, "services", lines.append).up(policies=False)
        skipped = [json.loads(line) for line in report.read_text().splitlines()]
        with capsys.disabled():
            sys.stdout.write(
                f"\n{profile}: {first.steps['create'] - _absent(skipped)} objects applied in {first.seconds:.0f} s\n"
            )
            for entry in skipped:
                sys.stdout.write(
                    f"  not applied: {entry['type'].rpartition(':')[2]} {entry['name']}: {entry['reason']}\n"
                )
        assert first.steps["create"] > 150

        second = Engine(environment, "services", lines.append).up(policies=False)
        assert second.changed == []

        Engine(environment, "services", lines.append).down()
        left = {item["metadata"]["name"] for item in cluster.list("namespaces")} & set(names.PLATFORM)
        assert left == set()
        assert {item["metadata"]["name"] for item in cluster.list("customresourcedefinitions")} <= foreign


def _absent(skipped: list[dict[str, str]]) -> int:
    """Objects of definitions that are in no module: the engine counts them, the cluster never saw them."""
    return sum(entry["reason"] == "its definition is not there" for entry in skipped)
