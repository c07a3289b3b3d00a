"""Opens the ledger's database and gives it transactions: one writer at a time, readers never wait.

SQLite: WAL, `BEGIN IMMEDIATE`, a busy time-out. Postgres: an advisory lock held for the transaction does the same, so
that the event chain has one order on both. Tables come from the migrations alone, never from the classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from slipway.errors import NotReady

BUSY_SECONDS = 30
"""Longest wait for another writer; transactions take milliseconds, so running out of it means a stuck process."""
_WRITER_LOCK = 0x51_1B_AA_11
"""Postgres: the key of the advisory lock that makes writers take turns."""
_ON_A_SERVER = {
    "connect_timeout": 10,
    # A writer whose machine is lost, or that hangs, must not hold the lock for the hours that TCP would wait.
    "options": "-c idle_in_transaction_session_timeout=60s"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
}


class Ledger:
    """A handle on the database; cheap to make, safe to share between threads, not across a fork."""

    def __init__(self, url: str | URL) -> None:
        self.url = make_url(url)
        self.file = Path(self.url.database) if self.is_sqlite and self.url.database else None
        """The SQLite file; None on a database server."""
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS} if self.is_sqlite else _ON_A_SERVER}
        self.engine = create_engine(self.url, pool_pre_ping=not self.is_sqlite, **options)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
        event.listen(self.engine, "begin", _begin)
        self._reading = self.engine.execution_options(ledger_reads=True)
        self._watch: Connection | None = None
        self.guard: Callable[[], None] = lambda: None
        """Asked before each commit; whoever may no longer write raises here, and nothing is written."""

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """All or nothing; commits at the end, rolls back on any error. Rows stay readable after it.

        Raises NotReady when another writer holds the ledger for longer than BUSY_SECONDS.
        """
        with Session(self.engine, expire_on_commit=False) as session:
            with _busy_is_not_ready():
                session.connection()
            yield session
            self.guard()
            session.commit()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view; writing through it fails. Rows stay readable after it."""
        with Session(self._reading, expire_on_commit=False, autoflush=False) as session:
            yield session

    def count_changes(self) -> int | None:
        """A number that changes when anybody else has committed; None where the database does not say so cheaply."""
        if not self.is_sqlite:
            return None
        if self._watch is None:
            self._watch = self._reading.connect()
        # The pragma is answered from the shared memory of the WAL: microseconds, no lock.
        number = self._watch.exec_driver_sql("PRAGMA data_version").scalar_one()
        self._watch.rollback()
        return int(number)

    def close(self) -> None:
        """Give the connections back."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself: `_begin` does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # a promotion that was reported must survive a power loss


def _begin(connection: Connection) -> None:
    reads = bool(connection.get_execution_options().get("ledger_reads"))
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA query_only = {'ON' if reads else 'OFF'}")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
    elif reads:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        # Zero would mean to wait for ever.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, BUSY_SECONDS * 1000)}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITER_LOCK})")


@contextmanager
def _busy_is_not_ready() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if "locked" not in str(error.orig) and "lock timeout" not in str(error.orig):
            raise
        raise NotReady(
            f"the ledger was held by another writer for more than {BUSY_SECONDS} s",
            hint="slipway status shows which process is stuck",
        ) from error
