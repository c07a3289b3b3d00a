"""The tables of the label store, and how its database is opened.

Moments are stored as microseconds since 1970 in UTC: labels are read in bulk, and integers need no parsing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

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
)
from sqlalchemy.dialects import postgresql, sqlite

from slipway.database import open_engine

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_WRITER_LOCK = 0x51_1B_AA_12
"""Postgres: the key of the advisory lock that makes writers take turns; not the ledger's."""
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


def insert_new(connection: Connection, table: Table) -> Any:
    """An insertion that leaves rows alone whose key is there already; both dialects spell it alike."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table).on_conflict_do_nothing()


def open_labels(url: str) -> Engine:
    """The label database, created on first use."""
    return open_engine(url, _metadata, writer_lock=_WRITER_LOCK)
