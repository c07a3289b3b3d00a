"""Opens the databases of tables that no migration knows: labels, and browsers' sessions.

SQLite: WAL, immediate transactions. Postgres: an advisory lock makes writers take turns. Tables are made on first use
and never changed. The ledger's database has its own rules, in `slipway.ledger.database`.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry


def open_engine(url: str, tables: MetaData, *, writer_lock: int, connect_within: int = 10) -> Engine:
    """The database, its tables created on first use. Writers queue for at most five seconds; readers never wait.

    `writer_lock` is the key of the advisory lock of these tables on Postgres; `connect_within` is in seconds. A
    connection with the execution option `slipway_reads` is no writer.
    """
    is_sqlite = url.startswith("sqlite")
    options = {} if is_sqlite else {"connect_args": {"connect_timeout": connect_within}}
    engine = create_engine(url, pool_pre_ping=not is_sqlite, **options)

    def begin_on_a_server(connection: Connection) -> None:
        if not connection.get_execution_options().get("slipway_reads"):
            connection.exec_driver_sql("SET LOCAL lock_timeout = 5000")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({writer_lock})")

    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "begin", begin_on_a_server)
    tables.create_all(engine)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # transactions are begun below, not guessed by the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # what was accepted outlives a power cut
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when another writes; an immediate one waits.
    mode = "DEFERRED" if connection.get_execution_options().get("slipway_reads") else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")
