"""The domains' views and services as Feast's objects. No on-demand views: Feast stores their functions by dill."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from feature_repo.transforms import DOMAINS
from feature_repo.view import KEY_KINDS, View
from slipway.errors import Unknown

EVENT_TIME = "event_timestamp"
WRITTEN = "written"
"""When a row was published (UTC); decides between two rows of one key and event time."""
OFFLINE = "offline"
"""The folder of the history that holds a folder for each view."""


@cache
def all_views() -> dict[str, View]:
    """Every domain's views by name."""
    return {view.name: view for d in DOMAINS for view in importlib.import_module(f"feature_repo.{d}.views").VIEWS}


@cache
def all_services() -> dict[str, tuple[View, ...]]:
    """Every domain's feature services: name to its views."""
    services: dict[str, tuple[View, ...]] = {}
    for domain in DOMAINS:
        services |= importlib.import_module(f"feature_repo.{domain}.services").SERVICES
    return services


def find_view(name: str) -> View:
    """Raises Unknown."""
    if name not in all_views():
        raise Unknown("view", name, sorted(all_views()))
    return all_views()[name]


def find_service(name: str) -> tuple[View, ...]:
    """The views of a service. Raises Unknown."""
    if name not in all_services():
        raise Unknown("features.service", name, sorted(all_services()))
    return all_services()[name]


def feast_objects() -> list[Any]:
    """Entities, feature views over `offline/<view>/*.parquet` of the history, and services, as Feast applies them."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    value_types = {"string": ValueType.STRING, "int": ValueType.INT64}
    field_types = {"string": String, "int": Int64, "float": Float64}
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=value_types[kind]) for name, kind in KEY_KINDS.items()
    }
    views = {
        view.name: FeatureView(
            name=view.name,
            description=view.about,
            entities=[entities[key] for key in view.keys],
            ttl=view.lifetime,
            schema=[
                *(Field(name=key, dtype=field_types[KEY_KINDS[key]]) for key in view.keys),
                *(Field(name=f.name, dtype=field_types[f.kind], description=f.about) for f in view.features),
            ],
            source=FileSource(
                name=f"{view.name}_published",
                path=f"{OFFLINE}/{view.name}/*.parquet",
                timestamp_field=EVENT_TIME,
                created_timestamp_column=WRITTEN,
            ),
            online=True,
        )
        for view in all_views().values()
    }
    services = [
        FeatureService(name=name, features=[views[view.name] for view in members])
        for name, members in all_services().items()
    ]
    return [*entities.values(), *views.values(), *services]
