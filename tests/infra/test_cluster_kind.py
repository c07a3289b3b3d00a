"""The kind cluster as a resource, against a program that behaves like `kind` as far as we call it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.components.kind_resource import KindProvider, list_clusters, run_kind

# Clusters are files of a folder; what `create` was given is the file's content.
KIND = """\
#!/bin/sh
cd "$KIND_CLUSTERS"
case "$1 $2" in
  "get clusters") ls ;;
  "create cluster")
    [ ! -e "$4" ] || { echo "ERROR: node(s) already exist for a cluster with the name \\"$4\\"" >&2; exit 1; }
    if [ -n "$KIND_FAILS" ]; then
      printf 'Creating ...\\nERROR: failed to create cluster\\nCommand Output: %s\\n' "$KIND_FAILS" >&2; exit 1
    fi
    cat > "$4"; echo "key of $4" > "$8" ;;
  "get kubeconfig")
    [ -s "$4" ] || { echo "ERROR: could not locate any control plane nodes" >&2; exit 1; }
    echo "key of $4" ;;
  "delete cluster") rm -f "$4" ;;
  *) echo "ERROR: unknown command $*" >&2; exit 1 ;;
esac
"""
PROPS = {"name": "slipway-test", "image": "kindest/node:v1.35.0", "configuration": '{"kind": "Cluster"}'}


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of clusters, with `kind` first on the PATH."""
    program = tmp_path / "bin" / "kind"
    program.parent.mkdir()
    program.write_text(KIND)
    program.chmod(0o755)
    folder = tmp_path / "clusters"
    folder.mkdir()
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KIND_CLUSTERS", str(folder))
    monkeypatch.setenv("KIND_FAILS", "")
    return folder


def test_a_cluster_is_made_from_its_configuration_and_gives_its_key(clusters: Path) -> None:
    result = KindProvider().create(PROPS)
    assert result.id == "slipway-test"
    assert result.outs == {**PROPS, "kubeconfig": "key of slipway-test\n"}
    assert (clusters / "slipway-test").read_text() == PROPS["configuration"]


def test_a_cluster_that_a_dead_run_left_whole_is_taken_as_it_is(clusters: Path) -> None:
    (clusters / "slipway-test").write_text("made before")
    result = KindProvider().create(PROPS)
    assert result.outs is not None and result.outs["kubeconfig"] == "key of slipway-test\n"
    assert (clusters / "slipway-test").read_text() == "made before"


def test_a_cluster_that_a_dead_run_left_half_made_is_named_with_its_remedy(clusters: Path) -> None:
    (clusters / "slipway-test").touch()
    with pytest.raises(RuntimeError, match="kind delete cluster --name slipway-test"):
        KindProvider().create(PROPS)


def test_what_docker_said_is_told(clusters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND_FAILS", "port 443 is already allocated")
    with pytest.raises(RuntimeError, match=r"^kind create cluster: port 443 is already allocated$"):
        KindProvider().create(PROPS)
    assert list_clusters() == []


def test_a_cluster_that_is_gone_is_read_as_gone(clusters: Path) -> None:
    provider = KindProvider()
    made = provider.create(PROPS)
    assert provider.read("slipway-test", made.outs or {}).id == "slipway-test"
    (clusters / "slipway-test").unlink()
    assert provider.read("slipway-test", made.outs or {}).id == ""


def test_a_standing_cluster_is_never_changed_or_replaced() -> None:
    provider = KindProvider()
    other = {**PROPS, "configuration": '{"kind": "Cluster", "nodes": []}'}
    assert provider.diff("slipway-test", PROPS, PROPS).changes is False
    difference = provider.diff("slipway-test", PROPS, other)
    assert difference.changes is True and not difference.replaces
    with pytest.raises(RuntimeError, match="would delete its volumes"):
        provider.update("slipway-test", PROPS, other)


def test_deleting_takes_it_away_and_deleting_again_does_no_harm(clusters: Path) -> None:
    provider = KindProvider()
    provider.create(PROPS)
    for _ in range(2):
        provider.delete("slipway-test", PROPS)
        assert list_clusters() == []


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLIPWAY_TOOLS", raising=False)
    with pytest.raises(RuntimeError, match="kind is not installed"):
        run_kind("get", "clusters")
