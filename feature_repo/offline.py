"""Feast's DuckDB offline store with DuckDB's own ASOF join.

Feast's join compares every entity row with every earlier row of its key and keeps the newest: with three airports and a
year of half hours that is thousands of millions of pairs. DuckDB's ASOF join gives the same answer by one merge. It is
handed the files by pyarrow, which reads an object store as it reads a disk; DuckDB itself would have to fetch an
extension. Deliberately not supported: a cut-off by time of writing, and whatever else Feast does offline.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df

from feature_repo.definitions import find_view
from feature_repo.parquet import open_files, schema_of
from slipway.errors import InvalidInput, Problem
from slipway.pod import FEATURES, Pod

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    type: Literal["feature_repo.offline.AsofDuckDBOfflineStore"] = "feature_repo.offline.AsofDuckDBOfflineStore"
    secrets: Path | None = None
    """The folder of a pod's secrets, whose history is in the object store; None: it lies beside Feast's own files."""


class JoinedRows(RetrievalJob):  # type: ignore[misc]
    """What DuckDB found, in the order in which it was asked for."""

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
            _join(connection, _files(config, view.batch_source), view, position, feature_refs, full_feature_names)
            for position, view in enumerate(feature_views)
        ]
        selected = [f"rows.{_name(column)}" for column in entity_df.columns]
        selected += [f"view_{position}.{_name(column)}" for position, names in enumerate(joined) for column in names]
        sources = "".join(f" left join view_{position} using (row_id)" for position in range(len(joined)))
        return JoinedRows(
            connection.sql(f"select {', '.join(selected)} from rows{sources} order by row_id"),  # noqa: S608 - quoted names
            full_feature_names,
        )

    @staticmethod
    def pull_all_from_table_or_query(
        config: Any,
        data_source: Any,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows with event time in [start_date, end_date], for `materialize`."""
        import duckdb

        connection = duckdb.connect()
        connection.register("published", _files(config, data_source))
        times = [name for name in (timestamp_field, created_timestamp_column) if name]
        columns = ", ".join(_name(name) for name in [*join_key_columns, *feature_name_columns, *times])
        bounds = ["true"]
        for relation, moment in ((">=", start_date), ("<=", end_date)):
            if moment:
                bounds.append(
                    f"epoch_us({_name(timestamp_field)}) {relation} {(moment.astimezone(UTC) - _EPOCH) // _MICROSECOND}"
                )
        found = connection.sql(f"select {columns} from published where {' and '.join(bounds)}")  # noqa: S608 - quoted names
        return JoinedRows(found, full_feature_names=False)


def _files(config: Any, source: Any) -> ds.Dataset:
    """A view's files, of which there may be none yet."""
    path = PurePosixPath(source.path)
    secrets: Path | None = config.offline_store.secrets
    history = Pod(secrets).objects(FEATURES) if secrets else Path(config.repo_path)
    return open_files(history / str(path.parent), path.name, schema_of(find_view(path.parent.name)))


def _join(connection: Any, files: ds.Dataset, view: Any, position: int, references: list[str], full: bool) -> list[str]:
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
        alive += f" and moment - published_at <= {lifetime // _MICROSECOND}"
    order = f" order by {_name(written)} desc" if written else ""
    columns = [_name(name) for name in wanted]
    connection.register(f"files_{position}", files)
    connection.execute(
        f"create temp table view_{position} as select row_id, "  # noqa: S608 - quoted names
        + ", ".join(
            f"case when {alive} then {c} end as {_name(prefix + n)}" for c, n in zip(columns, wanted, strict=True)
        )
        + " from (select rows.row_id, rows.moment, published.moment as published_at, "
        + ", ".join(f"published.{column}" for column in columns)
        + " from rows asof left join (select "
        + ", ".join([*(_name(key) for key in keys), *columns])
        + f", epoch_us({published}) as moment from files_{position}"
        + f" qualify row_number() over (partition by {', '.join(_name(key) for key in keys)}, {published}{order}) = 1"
        + f") published on {same_key} and rows.moment >= published.moment)"
    )
    return [prefix + name for name in wanted]


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
