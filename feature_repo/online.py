"""Feast's SQLite online store, made safe against late events: a row never gives way to an older one.

Feast's own store overwrites whatever it holds, by push and by materialization. Here the event times are compared by the
statement that writes, so that two writers cannot interleave, and no trigger can get lost when definitions are applied
again. A key's values stand in one row and change together: float64, little-endian, NaN for null, in the order of
`names`. Event times keep microseconds, in UTC whatever the machine's zone. WAL: readers never wait for the writer. A
power cut may lose the last commits (a killed process loses none); the offline files have them. Deliberately not
supported: features that are no numbers, whole numbers beyond 2^53, document search, versioned views.
"""

from __future__ import annotations

import math
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.Value_pb2 import Value

from slipway.errors import InvalidInput, Problem

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BUSY_SECONDS = 5.0
_EXACT = 2**53
BETWEEN_NAMES = "\x1f"


class PackedRows:
    """Feast's ways in and out of a store that reads and writes packed rows by their serialized keys."""

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: Sequence[tuple[Any, dict[str, Any], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Feast's way in (push, materialize). A datetime without zone is UTC."""
        version = config.entity_key_serialization_version
        names = [feature.name for feature in table.features]
        rows = [
            (
                serialize_entity_key(key, entity_key_serialization_version=version),
                pack([_number(name, values.get(name)) for name in names]),
                _microseconds(event_time),
                _microseconds(written or event_time),
            )
            for key, values, event_time, written in data
        ]
        self.write_packed(config, table, names, rows)
        if progress:
            progress(len(rows))

    def write_packed(
        self, config: Any, table: Any, names: Sequence[str], rows: Iterable[tuple[bytes, bytes, int, int]]
    ) -> int:
        """Write rows of (serialized key, packed values, event time, time of writing), times in microseconds UTC.

        Returns how many rows were late, that is older than what the store holds, and left out.
        """
        raise NotImplementedError

    def read_packed(self, config: Any, table: Any, keys: Sequence[bytes]) -> dict[bytes, tuple[list[str], bytes, int]]:
        """Serialized key to (names, packed values, event time in microseconds UTC); unknown keys are left out."""
        raise NotImplementedError

    def online_read(
        self, config: Any, table: Any, entity_keys: Sequence[Any], requested_features: list[str] | None = None
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """Feast's way out, in the order of `entity_keys`; (None, None) for an unknown key."""
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(key, entity_key_serialization_version=version) for key in entity_keys]
        found = self.read_packed(config, table, keys)
        whole = {feature.name for feature in table.features if feature.dtype.to_value_type().name == "INT64"}
        answers: list[tuple[datetime | None, dict[str, Any] | None]] = []
        for key in keys:
            if key not in found:
                answers.append((None, None))
                continue
            names, packed, event = found[key]
            values = {n: _value(v, n in whole) for n, v in zip(names, unpack(packed), strict=True)}
            answers.append((_EPOCH + event * _MICROSECOND, values))
        return answers

    def plan(self, config: Any, desired_registry_proto: Any) -> list[Any]:
        """Nothing that Feast would have to make beforehand."""
        return []


class GuardedSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):  # type: ignore[misc]
    type: Literal["feature_repo.online.GuardedSqliteOnlineStore"] = "feature_repo.online.GuardedSqliteOnlineStore"


class GuardedSqliteOnlineStore(PackedRows, SqliteOnlineStore):  # type: ignore[misc]
    """One connection for each thread; rows as (entity_key, names, packed values, event time, time of writing)."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def _get_conn(self, config: Any) -> sqlite3.Connection:
        path = self._get_db_path(config)
        if getattr(self._local, "path", None) != path:
            connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = normal")
            self._local.connection, self._local.path = connection, path
        return self._local.connection  # type: ignore[no-any-return]

    def write_packed(
        self, config: Any, table: Any, names: Sequence[str], rows: Iterable[tuple[bytes, bytes, int, int]]
    ) -> int:
        """One transaction."""
        connection = self._get_conn(config)
        given, header = list(rows), BETWEEN_NAMES.join(names)
        connection.execute("begin immediate")
        try:
            before = connection.total_changes
            connection.executemany(
                f"insert into {_table(config, table)} (entity_key, names, packed, event_us, written_us) "  # noqa: S608
                "values (?, ?, ?, ?, ?) on conflict (entity_key) do update set names = excluded.names, "
                "packed = excluded.packed, event_us = excluded.event_us, written_us = excluded.written_us "
                "where excluded.event_us >= event_us",
                [(key, header, packed, event, written) for key, packed, event, written in given],
            )
            taken = connection.total_changes - before
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
        return len(given) - taken

    def read_packed(self, config: Any, table: Any, keys: Sequence[bytes]) -> dict[bytes, tuple[list[str], bytes, int]]:
        wanted = list(dict.fromkeys(keys))
        marks = ",".join("?" * len(wanted))
        cursor = self._get_conn(config).execute(
            f"select entity_key, names, packed, event_us from {_table(config, table)} where entity_key in ({marks})",  # noqa: S608
            wanted,
        )
        return {key: (names.split(BETWEEN_NAMES), packed, event) for key, names, packed, event in cursor}

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Sequence[Any],
        entities_to_keep: Sequence[Any],
        partial: bool,
    ) -> None:
        connection = self._get_conn(config)
        for table in tables_to_keep:
            connection.execute(
                f"create table if not exists {_table(config, table)} (entity_key blob primary key, "
                "names text not null, packed blob not null, "
                "event_us integer not null, written_us integer not null) without rowid"
            )
        for table in tables_to_delete:
            connection.execute(f"drop table if exists {_table(config, table)}")

    def teardown(self, config: Any, tables: Sequence[Any], entities: Sequence[Any]) -> None:
        for table in tables:
            self._get_conn(config).execute(f"drop table if exists {_table(config, table)}")


def pack(values: Sequence[float]) -> bytes:
    """Numbers as the store keeps them; NaN is null."""
    return struct.pack(f"<{len(values)}d", *values)


def unpack(packed: bytes) -> tuple[float, ...]:
    """The numbers that `pack` was given."""
    return struct.unpack(f"<{len(packed) // 8}d", packed)


def _number(name: str, value: Any) -> float:
    kind = value.WhichOneof("val") if value is not None else None
    if kind is None:
        return math.nan
    if kind not in ("int64_val", "int32_val", "double_val", "float_val", "bool_val", "unix_timestamp_val"):
        raise InvalidInput(Problem(f"features.{name}", f"{kind} is no number", "the online store keeps numbers only"))
    number = getattr(value, kind)
    if kind == "int64_val" and abs(number) > _EXACT:
        raise InvalidInput(Problem(f"features.{name}", f"{number} is beyond 2^53 and would be rounded"))
    return float(number)


def _value(number: float, whole: bool) -> Any:
    if math.isnan(number):
        return Value()
    return Value(int64_val=int(number)) if whole else Value(double_val=number)


def _table(config: Any, table: Any) -> str:
    name = f"{config.project}_{table.name}".replace('"', '""')
    return f'"{name}"'


def _microseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND
