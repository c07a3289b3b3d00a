"""The database under the ledger: migrations, transactions, one writer."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from slipway.environment import Environment
from slipway.errors import NotReady, Refused
from slipway.ledger import Ledger, database, migration, open_ledger, progress
from slipway.ledger.schema import Base
from slipway.pod import Pod
from slipway.settings import Settings

ON_SQLITE = pytest.mark.parametrize("place", [None], ids=["sqlite"])
NOON = datetime(2013, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def environment(tmp_path: Path, place: Pod | None) -> Environment:
    return Environment(tmp_path / "test.toml", Settings(name="test", state_dir=tmp_path / "state"), place)


@pytest.fixture
def ledger(environment: Environment) -> Iterator[Ledger]:
    ledger = open_ledger(environment)
    yield ledger
    ledger.close()


def test_migrations_make_exactly_the_tables_that_the_classes_describe(ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": Base.metadata})
        assert compare_metadata(context, Base.metadata) == []


def test_the_constant_names_the_newest_migration() -> None:
    assert ScriptDirectory(str(migration.MIGRATIONS)).get_heads() == [migration.HEAD]


@ON_SQLITE
def test_the_ledger_is_private_and_in_wal_mode(ledger: Ledger) -> None:
    assert ledger.file is not None
    for name in (ledger.file, Path(f"{ledger.file}-wal")):
        assert name.stat().st_mode & 0o777 == 0o600
    with ledger.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def test_a_ledger_of_a_newer_slipway_is_refused(ledger: Ledger, environment: Environment) -> None:
    with ledger.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refused, match="9999"):
        open_ledger(environment)


@ON_SQLITE
def test_an_older_ledger_is_backed_up_before_it_is_migrated(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, environment: Environment
) -> None:
    with ledger.transaction() as session:
        progress.report(session, "controller", NOON)
    monkeypatch.setattr(migration, "HEAD", "0002")
    monkeypatch.setattr(migration, "_upgrade", lambda ledger: None)
    migration.migrate(ledger)
    assert ledger.file is not None
    copy = ledger.file.with_name("ledger.db.before-0002")
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT process FROM progress").fetchall() == [("controller",)]


def test_many_openers_at_once_make_one_ledger(environment: Environment) -> None:
    errors: list[Exception] = []

    def open_and_report(number: int) -> None:
        try:
            ledger = open_ledger(environment)
            with ledger.transaction() as session:
                progress.report(session, f"process-{number}", NOON)
            ledger.close()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    ledger = open_ledger(environment)
    with ledger.read() as session:
        assert len(progress.read(session)) == 8
    ledger.close()


def test_a_failed_transaction_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction() as session:
        progress.report(session, "controller", NOON)
        session.flush()
        raise RuntimeError("lost power")
    with ledger.read() as session:
        assert progress.read(session) == {}


def test_reading_cannot_write(ledger: Ledger) -> None:
    with ledger.read() as session, pytest.raises(DatabaseError, match=r"read-?only"):
        session.execute(text("DELETE FROM progress"))


def test_a_writer_that_waits_too_long_fails_with_a_reason(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(environment).close()
    monkeypatch.setattr(database, "BUSY_SECONDS", 0)
    first, second = Ledger(environment.state.ledger_url), Ledger(environment.state.ledger_url)
    with first.transaction(), pytest.raises(NotReady, match="another writer"), second.transaction():
        pass
    first.close()
    second.close()


def test_readers_see_one_state_while_a_writer_commits(ledger: Ledger) -> None:
    with ledger.read() as session:
        assert progress.read(session) == {}
        with ledger.transaction() as writer:
            progress.report(writer, "controller", NOON)
        assert progress.read(session) == {}
    with ledger.read() as session:
        assert progress.read(session) == {"controller": NOON}


@ON_SQLITE
def test_changes_by_others_are_noticed_cheaply(ledger: Ledger, environment: Environment) -> None:
    other = Ledger(environment.state.ledger_url)
    before = ledger.count_changes()
    assert ledger.count_changes() == before
    with other.transaction() as session:
        progress.report(session, "monitor", NOON)
    assert ledger.count_changes() != before
    other.close()


def test_progress_never_goes_back(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        progress.report(session, "monitor", NOON)
        progress.report(session, "monitor", NOON.replace(hour=3))
    with ledger.read() as session:
        assert progress.read(session) == {"monitor": NOON}


def test_naive_moments_are_refused(ledger: Ledger) -> None:
    with pytest.raises(Exception, match="no time zone"), ledger.transaction() as session:
        progress.report(session, "monitor", datetime(2013, 1, 1))  # noqa: DTZ001 -- the point of this test


def test_a_killed_writer_leaves_the_ledger_usable(environment: Environment) -> None:
    open_ledger(environment).close()
    child = os.fork()
    if child == 0:
        ledger = Ledger(environment.state.ledger_url)
        with ledger.transaction() as session:
            progress.report(session, "dead", NOON)
            session.flush()
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    ledger = open_ledger(environment)
    with ledger.transaction() as session:
        progress.report(session, "alive", NOON)
    with ledger.read() as session:
        assert list(progress.read(session)) == ["alive"]
    ledger.close()
