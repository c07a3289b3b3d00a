"""The tables of the label store, and how its database is opened.

Moments are stored as microseconds since 1970 in UTC: labels are read in bulk, and integers need no parsing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_metadata = MetaData()

label_table = Table(
    "label",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("prediction_id", String(128), primary_key=True),
    # 0 is what was said first, each correction is one more: rows are added and never changed.
    Column("revision", Integer, primary_key=True),
    Column("value", Integer, nullable=False),
    Column("known_at", BigInteger, nullable=False),
    Column("received", BigInteger, nullable=False),  # event time at which it was said
    Column("source", String(200), nullable=False),
    Index("label_by_time", "model", "known_at"),
)

prediction_table = Table(
    "prediction",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("prediction_id", String(128), primary_key=True),
    Column("event_time", BigInteger, nullable=False),
    Column("subject_time", BigInteger, nullable=False),
)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970, UTC. Raises TypeError for a moment without time zone."""
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    return _EPOCH + value * _MICROSECOND


def open_engine(url: str) -> Engine:
    """The label database, created on first use. Writers queue for at most five seconds; readers never wait."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    _metadata.create_all(engine)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun below, not guessed by the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # an accepted label outlives a power cut
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when another writes; an immediate one waits.
    mode = "DEFERRED" if connection.get_execution_options().get("slipway_reads") else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")
