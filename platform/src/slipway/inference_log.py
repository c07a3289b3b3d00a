"""The inference log: every answer with its features, as Parquet by model and event date, read by DuckDB.

One row per (prediction id, version), since a retry or a mirrored request may be answered by two versions. Rows come
from the servers' spools by way of the collector; nothing here writes. In DuckDB alone:

    select * from read_parquet('inference_log/model=flight_delay/*/*.parquet', union_by_name = true)
    qualify row_number() over (partition by id, version order by delivered desc, received) = 1

The `qualify` line matters: a retried request, or files just being merged, may show a row twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.object_path import AnyPath, ObjectPath

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from slipway.contract import Contract
    from slipway.targets import Answers

_ATTEMPTS = 5
_Window = tuple[datetime, datetime]


def base_schema() -> pa.Schema:
    """The columns that every row has, whatever its model."""
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC")
    return pa.schema(
        [
            ("id", pa.string()),
            ("model", pa.string()),
            ("version", pa.int64()),
            ("delivered", pa.bool_()),  # false: a mirrored request, whose answer nobody got
            ("event_time", moment),  # as_of when it was asked
            ("subject_time", moment),  # the entity's event time
            ("received", moment),  # wall clock
            ("latency_ms", pa.float64()),  # of the whole request, in the server
            ("service", pa.string()),
            ("defaults", pa.int64()),  # views that fell back to their documented defaults
            ("prediction", pa.float64()),
            ("server", pa.string()),  # one start of one server
            ("sequence", pa.int64()),  # of the row within that start: a gap is a lost row
            ("row", pa.int64()),  # of the row within its request
        ]
    )


def row_schema(contract: Contract, features: Mapping[str, type], views: Sequence[str]) -> pa.Schema:
    """All columns of one model's rows: the base, `in_<field>`, `ft_<view>__<feature>`, `age_<view>` (seconds).

    `features` maps `view__feature` to float or str.
    """
    import pyarrow as pa

    kinds = {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", "UTC"),
    }
    fields = [(f"in_{field.name}", kinds[field.type]) for field in contract.request]
    fields += [(f"ft_{name}", pa.string() if kind is str else pa.float64()) for name, kind in features.items()]
    fields += [(f"age_{view}", pa.float64()) for view in views]
    return pa.schema([*base_schema(), *(pa.field(name, kind) for name, kind in fields)])


def read_rows(
    environment: Environment,
    model: str,
    start: datetime,
    end: datetime,
    *,
    versions: Sequence[int] | None = None,
    delivered: bool | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Rows with event time in [start, end), one per (id, version), the delivered one preferred; by event time and
    version.

    `columns` None takes all; a named column that no row has comes as NaN. Moments are datetime64[us, UTC]. No rows:
    an empty frame with its columns. Raises SlipwayError when files keep vanishing under the reader.
    """
    needed = None if columns is None else list(dict.fromkeys([*columns, "id", "version", "delivered", "event_time"]))
    frame: pd.DataFrame = _read_table(environment, model, (start, end), needed).to_pandas()
    if frame.duplicated(["id", "version"]).any():
        first = frame.sort_values("delivered", ascending=False, kind="stable").drop_duplicates(["id", "version"])
        frame = first.sort_index()
    if versions is not None:
        frame = frame[frame["version"].isin(versions)]
    if delivered is not None:
        frame = frame[frame["delivered"] == delivered]
    frame = frame.sort_values(["event_time", "version"], kind="stable").reset_index(drop=True)
    return frame if columns is None else frame.reindex(columns=list(columns))


@dataclass(frozen=True)
class Losses:
    """What one version's log lacks, and what it has twice."""

    rows: int
    requests: int
    """Delivered requests that have at least one row."""
    gaps: int
    """Rows that a server numbered and that never arrived: dropped while the disk was full, or lost in a crash."""
    duplicates: int
    """Further rows of an (id, version) that is there already."""
    unlogged: int | None
    """Answers that the gateway counted, minus the requests logged meanwhile; None when it does not say."""


def count_losses(
    environment: Environment, model: str, *, answers: Mapping[int, Answers] | None = None
) -> dict[int, Losses]:
    """Per version: rows lost, rows twice, and answers that the gateway counted and nobody logged.

    `answers` are the gateway's counts; without them it is asked. Only requests since it counts are compared with them.
    Rows that are still on their way count as lost: ask after the collector has caught up. An answer that refused a
    request (4xx) counts as unlogged, since the gateway counts it as given.
    """
    if answers is None:
        answers = _count_answers(environment, model)
    columns = ["id", "version", "delivered", "server", "sequence", "row", "received"]
    frame = _read_table(environment, model, None, columns).to_pandas()
    counted: dict[int, Losses] = {}
    for version in sorted({*frame["version"].tolist(), *(answers or {})}):
        once = frame[frame["version"] == version].drop_duplicates(["server", "sequence"])
        numbers = once.groupby("server")["sequence"].agg(["max", "count"])
        asked = once[(once["row"] == 0) & once["delivered"]]
        duplicates = int(once.duplicated("id").sum())
        counted[version] = Losses(
            rows=len(once) - duplicates,
            requests=len(asked),
            gaps=int((numbers["max"] + 1 - numbers["count"]).sum()),
            duplicates=duplicates,
            unlogged=_unlogged(answers[version], asked) if answers and version in answers else None,
        )
    return counted


def _unlogged(answers: Answers, asked: pd.DataFrame) -> int:
    since = answers.counting_since
    logged = len(asked) if since is None else int((asked["received"] >= since).sum())
    return answers.total - answers.errors - logged


def folder_of(environment: Environment, model: str) -> AnyPath:
    return environment.state.inference_log / f"model={model}"


def date_folders(folder: AnyPath) -> dict[date, AnyPath]:
    """The date partitions of one model's log, oldest first."""
    found: dict[date, AnyPath] = {}
    entries: list[AnyPath] = sorted(folder.glob("date=*"), key=str)
    for entry in entries:
        try:
            found[date.fromisoformat(entry.name.removeprefix("date="))] = entry
        except ValueError:
            continue
    return found


def _files(environment: Environment, model: str, window: _Window | None) -> list[AnyPath]:
    days = None
    if window:
        start, end = window
        days = start.astimezone(UTC).date(), (end - timedelta(microseconds=1)).astimezone(UTC).date()
    files: list[AnyPath] = []
    for day, folder in date_folders(folder_of(environment, model)).items():
        if days is None or days[0] <= day <= days[1]:
            files += sorted(folder.glob("[!.]*.parquet"), key=str)
    return files


def _read_table(
    environment: Environment, model: str, window: _Window | None, columns: Sequence[str] | None
) -> pa.Table:
    """The rows of the window as they stand in the files; read again when a file was merged away meanwhile."""
    import duckdb

    attempt = 1
    while True:
        files = _files(environment, model, window)
        try:
            return _query(files, window, columns)
        except (duckdb.IOException, FileNotFoundError) as error:
            merged_meanwhile = not all(file.exists() for file in files)
            if not merged_meanwhile or attempt == _ATTEMPTS:
                raise SlipwayError(f"the inference log of {model} cannot be read: {error}") from error
            attempt += 1


def _query(files: list[AnyPath], window: _Window | None, columns: Sequence[str] | None) -> pa.Table:
    import duckdb
    import pyarrow as pa

    if not files:
        empty = base_schema().empty_table()
        return empty if columns is None else _with_columns(empty, columns)
    objects = [file for file in files if isinstance(file, ObjectPath)]
    if objects:
        return _read_objects(objects, window, columns)
    with duckdb.connect(config={"threads": 2}) as connection:
        source = "read_parquet($files, union_by_name = true, hive_partitioning = false)"
        given: dict[str, Any] = {"files": [str(file) for file in files]}
        if columns is not None:
            known = connection.sql(f"from {source} limit 0", params=given).columns
            chosen = ", ".join(f'"{name}"' for name in columns if name in known)
        else:
            chosen = "*"
        query = f"select {chosen} from {source}"  # noqa: S608 -- column names that the files themselves gave
        if window:
            query += " where event_time >= $start and event_time < $end"
            given |= {"start": window[0], "end": window[1]}
        table = connection.sql(query, params=given).to_arrow_table()
    moment = pa.timestamp("us", "UTC")
    for number, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type != moment:
            table = table.set_column(number, field.name, table.column(number).cast(moment))
    return table if columns is None else _with_columns(table, columns)


def _read_objects(files: list[ObjectPath], window: _Window | None, columns: Sequence[str] | None) -> pa.Table:
    """As DuckDB would, which reads no object store without an extension that it would have to fetch."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from slipway.collector.parquet import open_parquet

    tables = []
    for file in files:
        with open_parquet(file) as opened:
            known = opened.schema_arrow.names
            chosen = None if columns is None else [name for name in known if name in (*columns, "event_time")]
            table = opened.read(columns=chosen, use_threads=False).replace_schema_metadata(None)
        if window:
            moments = table.column("event_time")
            start, end = (pa.scalar(moment, moments.type) for moment in window)
            table = table.filter(pc.and_(pc.greater_equal(moments, start), pc.less(moments, end)))
        tables.append(table)
    whole = pa.concat_tables(tables, promote_options="default")
    return whole if columns is None else _with_columns(whole, columns)


def _with_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Those of the named columns that are there, with the base columns' own types."""
    return table.select([name for name in columns if name in table.column_names])


def _count_answers(environment: Environment, model: str) -> Mapping[int, Answers] | None:
    from slipway.targets import open_target

    try:
        return open_target(environment).count_answers(model)
    except SlipwayError:
        return None
