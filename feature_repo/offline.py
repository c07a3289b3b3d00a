"""Feast's DuckDB offline store with DuckDB's own ASOF join.

Feast's join compares every entity row with every earlier row of its key and keeps the newest: with three airports and a
year of half hours that is thousands of millions of pairs. DuckDB's ASOF join gives the same answer by one merge. The
rest of the store is Feast's. Deliberately not supported: a cut-off by time of writing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

import pandas as pd
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from slipway.errors import InvalidInput, Problem


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    type: Literal["feature_repo.offline.AsofDuckDBOfflineStore"] = "feature_repo.offline.AsofDuckDBOfflineStore"


class JoinedRows(RetrievalJob):  # type: ignore[misc]
    """A finished point-in-time join, in the order of the entity rows."""

    def __init__(self, relation: Any, full_feature_names: bool) -> None:
        super().__init__()
        self._relation = relation
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return []

    @property
    def metadata(self) -> None:
        return None

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._relation.df()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> Any:
        return self._relation.to_arrow_table()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        raise NotImplementedError("joined rows are written by whoever asked for them")


class AsofDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    @staticmethod
    def get_historical_features(
        config: Any,
        feature_views: list[Any],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Each entity row with the newest values at or before its event time and no older than the view's lifetime.

        Rows without values keep nulls. Of two rows with one key and event time the one written last counts.
        """
        import duckdb

        if not isinstance(entity_df, pd.DataFrame):
            raise InvalidInput(Problem("entity rows", "must be a table, not SQL"))
        if filter_by_created_timestamp:
            raise InvalidInput(Problem("entity rows", "a cut-off by time of writing is not supported"))
        moment = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        connection = duckdb.connect()
        connection.register("given", entity_df)
        connection.execute(
            "create temp table rows as select *, row_number() over () as row_id, "  # noqa: S608 - quoted name
            f"epoch_us({_name(moment)}) as moment from given"
        )
        joined = [
            _join(connection, view, position, feature_refs, full_feature_names)
            for position, view in enumerate(feature_views)
        ]
        selected = [f"rows.{_name(column)}" for column in entity_df.columns]
        selected += [f"view_{position}.{_name(column)}" for position, names in enumerate(joined) for column in names]
        sources = "".join(f" left join view_{position} using (row_id)" for position in range(len(joined)))
        return JoinedRows(
            connection.sql(f"select {', '.join(selected)} from rows{sources} order by row_id"),  # noqa: S608 - quoted names
            full_feature_names,
        )


def _join(connection: Any, view: Any, position: int, references: list[str], full: bool) -> list[str]:
    """Create the temporary table `view_<position>`: row_id and the view's values. Returns the names of the values."""
    source = view.batch_source
    wanted = [ref.split(":", 1)[1] for ref in references if ref.split(":", 1)[0] == view.projection.name_to_use()]
    prefix = f"{view.projection.name_alias or view.name}__" if full else ""
    keys = view.projection.join_key_map or {entity.name: entity.name for entity in view.entity_columns}
    lifetime: timedelta | None = view.ttl
    published, written = _name(source.timestamp_field), source.created_timestamp_column
    same_key = " and ".join(f"rows.{_name(theirs)} = published.{_name(ours)}" for ours, theirs in keys.items())
    # Moments are microseconds since the epoch: arithmetic on zoned timestamps needs an extension that DuckDB downloads.
    alive = "published_at is not null"
    if lifetime:
        alive += f" and moment - published_at <= {lifetime // timedelta(microseconds=1)}"
    order = f" order by {_name(written)} desc" if written else ""
    columns = [_name(name) for name in wanted]
    connection.execute(
        f"create temp table view_{position} as select row_id, "  # noqa: S608 - quoted names, a path of our own
        + ", ".join(
            f"case when {alive} then {c} end as {_name(prefix + n)}" for c, n in zip(columns, wanted, strict=True)
        )
        + " from (select rows.row_id, rows.moment, published.moment as published_at, "
        + ", ".join(f"published.{column}" for column in columns)
        + " from rows asof left join (select "
        + ", ".join([*(_name(key) for key in keys), *columns])
        + f", epoch_us({published}) as moment from read_parquet($path)"
        + f" qualify row_number() over (partition by {', '.join(_name(key) for key in keys)}, {published}{order}) = 1"
        + f") published on {same_key} and rows.moment >= published.moment)",
        {"path": source.path},
    )
    return [prefix + name for name in wanted]


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
