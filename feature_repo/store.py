"""Opens an environment's Feast store: SQL registry and guarded online store on SQLite, offline files read by DuckDB."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from feature_repo.definitions import all_services, all_views, feast_objects
from feature_repo.parquet import schema_of, write_table
from slipway.environment import Environment
from slipway.errors import NotReady

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "slipway"
_APPLY_SECONDS = 60


def store_config(environment: Environment, *, offline: str = "feature_repo.offline.AsofDuckDBOfflineStore") -> Any:
    """Feast's configuration of this environment; `offline` names the class of the offline store."""
    from feast.repo_config import RepoConfig

    folder = environment.state.features
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}", "cache_ttl_seconds": 0},
        online_store={"type": "feature_repo.online.GuardedSqliteOnlineStore", "path": str(folder / "online.db")},
        offline_store={"type": offline},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def open_store(environment: Environment) -> FeatureStore:
    """The store, with the definitions of this code applied on first use and whenever they change.

    Raises NotReady when another process holds the definitions for longer than a minute.
    """
    from feast import FeatureStore

    folder = environment.state.features
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    applied, wanted = folder / "applied.json", _definitions(str(folder))
    try:
        with FileLock(folder / "apply.lock", timeout=_APPLY_SECONDS):
            store = FeatureStore(config=store_config(environment))
            if not applied.exists() or applied.read_text() != wanted:
                for view in all_views().values():
                    # Readers expect at least one file; an empty one also fixes the types.
                    write_table(schema_of(view).empty_table(), folder / "offline" / view.name / "0-schema.parquet")
                store.apply(feast_objects(folder / "offline"))
                draft = applied.with_suffix(".draft")
                draft.write_text(wanted)
                draft.replace(applied)
    except Timeout as error:
        raise NotReady(f"{folder}: another process is applying feature definitions", hint="try again") from error
    return store


def _definitions(folder: str) -> str:
    """What `applied.json` holds: a change of it (the folder's too, after a restore elsewhere) is applied again."""
    views = {view.name: repr(view) for view in all_views().values()}
    return json.dumps(
        {"folder": folder, "views": views, "services": {k: [v.name for v in m] for k, m in all_services().items()}}
    )
