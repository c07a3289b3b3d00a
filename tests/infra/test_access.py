"""What is asked of an existing cluster before anything is touched, and which cluster an environment stands in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from infra import access, commands
from slipway.environment import Environment
from slipway.errors import InvalidInput
from slipway.settings import Settings
from tests.infra.api_server import ApiServer, kubeconfig


@pytest.fixture
def environment(server: ApiServer, certificate: tuple[Path, Path], tmp_path: Path) -> Environment:
    server.answers["/api/v1/namespaces/kube-system"] = {"metadata": {"uid": "this-cluster"}}
    file = kubeconfig(tmp_path, server.address, certificate[0])
    return open_at(tmp_path, file)


def open_at(folder: Path, file: Path, **kubernetes: Any) -> Environment:
    document = {
        "name": "test",
        "target": "kubernetes",
        "state_dir": folder / "state",
        "kubernetes": {"provider": "existing", "kubeconfig": file, **kubernetes},
    }
    return Environment(folder / "test.toml", Settings.model_validate(document))


@pytest.mark.parametrize(("minor", "word"), [("33", "too old"), ("37", "too new")])
def test_up_refuses_a_kubernetes_that_the_operators_are_not_made_for(
    environment: Environment, server: ApiServer, minor: str, word: str
) -> None:
    server.version = ("1", minor)
    with pytest.raises(InvalidInput) as caught:
        commands.up(environment, print, yes=True)
    text = str(caught.value)
    assert f"Kubernetes 1.34 to 1.36: 1.{minor} is {word}: refused by gateway, cert_manager, database" in text
    assert "hint: a cluster of 1.34 to 1.36" in text
    # All at once: what else is wrong stands beside it.
    assert "infra/versions.toml: no digest of" in text
    assert caught.value.exit_code == 2
    assert server.changes == []
    assert not (environment.state.root / "pulumi").exists()


def test_down_is_not_kept_from_removing_by_what_only_up_needs(environment: Environment, server: ApiServer) -> None:
    server.version = ("1", "37")
    cluster = access.find_cluster(environment)
    assert cluster is not None
    assert access.list_obstacles(cluster, environment, commands.BEFORE_DOWN) == []
    server.refused = {"delete namespaces"}
    (problem,) = access.list_obstacles(cluster, environment, commands.BEFORE_DOWN)
    assert problem.message == "may not delete namespaces"


def test_an_environment_stays_in_its_cluster_whatever_the_current_context_is(
    environment: Environment, server: ApiServer
) -> None:
    cluster = access.find_cluster(environment)
    assert cluster is not None
    access.settle(environment, cluster)
    assert access.find_cluster(environment) is not None
    server.answers["/api/v1/namespaces/kube-system"] = {"metadata": {"uid": "another-cluster"}}
    with pytest.raises(InvalidInput, match=r'(?s)test stands in another cluster \(context main\).*context = "main"'):
        access.find_cluster(environment)
    access.leave(environment)
    assert access.find_cluster(environment) is not None


def test_a_check_that_gets_no_answer_is_an_obstacle_of_its_own(environment: Environment, server: ApiServer) -> None:
    cluster = access.find_cluster(environment)
    assert cluster is not None
    server.closed.add("/apis/storage.k8s.io/v1/storageclasses")
    problems = access.list_obstacles(cluster, environment, commands.BEFORE_UP)
    assert ["403 Forbidden" in problem.message for problem in problems] == [True]


def test_a_disk_on_which_the_state_would_be_cut_off_is_refused(
    environment: Environment, server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=commands.ROOM - 1))
    with pytest.raises(InvalidInput, match=r"state_dir: 255 MiB are free at .*, 256 are needed"):
        commands.up(environment, print, yes=True)
    assert server.changes == []
