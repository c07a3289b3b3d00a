"""The cluster's feature registry in a real PostgreSQL, filled as its Job fills it, and Feast's own enforcement."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from feature_repo.definitions import all_services, all_views
from feature_repo.permissions import READERS
from feature_repo.registry import apply_definitions, open_registry
from feature_repo.store import PROJECT
from slipway import pod as pods
from slipway.environment import VARIABLE, Environment
from slipway.errors import NotReady
from slipway.pod import Pod
from slipway.settings import Settings
from tests.postgres_server import PostgresServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # Feast and pyarrow warn of one another's deprecations
]
VIEW = next(iter(all_views()))
As = Callable[..., None]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def environment(postgres: PostgresServer, tmp_path: Path) -> Iterator[Environment]:
    secrets = tmp_path / "secrets" / pods.DATABASE
    secrets.mkdir(parents=True)
    url = postgres.make_database()
    (secrets / "url").write_text(url)
    file = tmp_path / "environment.toml"
    file.write_text(f'name = "test"\nstate_dir = "{tmp_path / "state"}"\n')
    yield Environment(file, Settings(name="test", state_dir=tmp_path / "state"), Pod(secrets.parent))
    postgres.drop_database(url)


def run_job(environment: Environment) -> subprocess.CompletedProcess[str]:
    assert environment.pod is not None
    told = {VARIABLE: str(environment.file), pods.SECRETS: str(environment.pod.secrets)}
    return subprocess.run(
        [sys.executable, "-m", "feature_repo"],
        env=dict(os.environ) | told, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def rows(environment: Environment) -> dict[str, list[tuple[Any, ...]]]:
    """What the registry holds, by table: names and definitions, not when they were written."""
    assert environment.pod is not None
    tables = {
        "feature_views": "feature_view_name, feature_view_proto",
        "feature_services": "feature_service_name, feature_service_proto",
        "permissions": "permission_name, permission_proto",
        "entities": "entity_name, entity_proto",
        "data_sources": "data_source_name, data_source_proto",
    }
    engine = create_engine(environment.pod.database_url)
    try:
        with engine.connect() as connection:
            return {
                table: [tuple(row) for row in connection.execute(text(f"SELECT {what} FROM {table} ORDER BY 1"))]  # noqa: S608
                for table, what in tables.items()
            }
    finally:
        engine.dispose()


def test_the_job_fills_an_empty_registry_and_changes_nothing_when_it_runs_again(environment: Environment) -> None:
    first = run_job(environment)
    assert first.returncode == 0, first.stderr
    before = rows(environment)
    assert [name for name, _ in before["feature_views"]] == sorted(all_views())
    assert [name for name, _ in before["feature_services"]] == sorted(all_services())
    assert [name for name, _ in before["permissions"]] == ["read"]
    second = run_job(environment)
    assert second.returncode == 0, second.stderr
    assert rows(environment) == before


def test_what_a_release_no_longer_declares_goes(environment: Environment) -> None:
    from feast import FeatureService
    from feast.permissions.permission import Permission
    from feast.permissions.policy import RoleBasedPolicy

    apply_definitions(environment)
    before = rows(environment)
    with open_registry(environment) as store:
        everybody = Permission(name="everybody", policy=RoleBasedPolicy(["view"]))
        former = FeatureService(name="former", features=[store.get_feature_view(VIEW)])
        store.apply([everybody, former])
    assert len(rows(environment)["permissions"]) == 2
    apply_definitions(environment)
    assert rows(environment) == before


def test_a_database_that_does_not_answer_is_said_without_a_traceback(environment: Environment) -> None:
    assert environment.pod is not None
    url = environment.pod.secrets / "database" / "url"
    told = url.read_text()
    url.write_text(told.partition("?")[0] + "?host=/nowhere")
    done = run_job(environment)
    url.write_text(told)
    assert done.returncode == 1
    assert "the database does not answer" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert told.partition(":")[2].partition("@")[0] not in done.stderr + done.stdout


def test_a_machine_of_ones_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="only a cluster"):
        apply_definitions(Environment(tmp_path / "x", Settings(name="local", state_dir=tmp_path)))


@pytest.fixture
def store(environment: Environment) -> Iterator[Any]:
    """The registry as it is served: filled by our Job."""
    apply_definitions(environment)
    with open_registry(environment) as store:
        yield store


@pytest.fixture
def enforced(store: Any) -> Iterator[As]:
    """Make the next questions those of an account of these namespaces, as a server does for each request."""
    from feast.permissions.security_manager import SecurityManager, no_security_manager, set_security_manager
    from feast.permissions.user import User

    manager = SecurityManager(PROJECT, store.registry)
    set_security_manager(manager)
    # Whatever roles it says it has: a token's name is not checked.
    roles = ["cluster-admin", "feast-writer"]
    yield lambda *where: manager.set_current_user(User("slipway-system:controller", roles, [], list(where)))
    no_security_manager()


def ask(resource: Any, *actions: str) -> bool:
    from feast.errors import FeastPermissionError
    from feast.permissions.action import AuthzedAction
    from feast.permissions.security_manager import assert_permissions

    try:
        assert_permissions(resource, [AuthzedAction(action) for action in actions])
    except FeastPermissionError:
        return False
    return True


def resources(store: Any) -> dict[str, Any]:
    """One of each kind that the registry holds."""
    registry = store.registry
    return {
        type(found[0]).__name__: found[0]
        for found in (
            registry.list_feature_views(PROJECT), registry.list_feature_services(PROJECT),
            registry.list_entities(PROJECT), registry.list_data_sources(PROJECT), registry.list_permissions(PROJECT),
            [registry.get_project(PROJECT)],
        )
    }  # fmt: skip


READING = ("describe", "read_online", "read_offline")
CHANGING = ("create", "update", "delete", "write_online", "write_offline")


@pytest.mark.parametrize("namespace", READERS)
def test_the_platforms_own_pods_see_everything_and_change_nothing(namespace: str, store: Any, enforced: As) -> None:
    enforced(namespace)
    for kind, each in resources(store).items():
        assert all(ask(each, action) for action in READING), kind
        assert not any(ask(each, action) for action in CHANGING), kind


@pytest.mark.parametrize("namespaces", [(), ("default", "slipway-serving-2")])
def test_an_account_of_elsewhere_can_do_nothing(namespaces: tuple[str, ...], store: Any, enforced: As) -> None:
    enforced(*namespaces)
    for kind, each in resources(store).items():
        assert not any(ask(each, action) for action in (*READING, *CHANGING)), kind


def test_nobody_at_all_can_do_nothing(store: Any, enforced: As) -> None:
    assert not any(ask(each, action) for each in resources(store).values() for action in (*READING, *CHANGING))


def test_nobody_applies_a_view_by_a_server(store: Any, enforced: As) -> None:
    from feast.errors import FeastPermissionError
    from feast.permissions.security_manager import assert_permissions_to_update

    view = store.get_feature_view(VIEW)
    new = store.get_feature_view(VIEW)
    new.name = "new"
    enforced(*READERS)
    for each in (view, new):
        with pytest.raises(FeastPermissionError):
            assert_permissions_to_update(each, store.registry.get_feature_view, PROJECT)


def test_without_permissions_feast_lets_everybody_do_everything(environment: Environment) -> None:
    """Why there must not be a server before the Job is through: if this fails, say so where that is said."""
    from feast import Project
    from feast.permissions.action import ALL_ACTIONS
    from feast.permissions.enforcer import enforce_policy
    from feast.permissions.user import User

    with open_registry(environment) as store:
        permissions = store.registry.list_permissions(PROJECT)
    assert permissions == []
    found = [Project(name=PROJECT)]
    assert enforce_policy(permissions, User("elsewhere:someone"), found, ALL_ACTIONS) == found
