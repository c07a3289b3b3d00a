"""Opens the ledger and brings its tables to what this code expects: forward only, after a backup, by one process."""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Connection, inspect, text

from slipway.environment import Environment
from slipway.errors import Refused
from slipway.ledger.database import BUSY_SECONDS, Ledger

HEAD = "0001"
"""The newest migration. Written here so that a process that finds a current ledger need not import alembic."""
MIGRATIONS = Path(__file__).parent / "migrations"


def open_ledger(environment: Environment) -> Ledger:
    """The environment's ledger, created or migrated first when needed (after a backup).

    Raises Refused when the database was written by a newer Slipway.
    """
    environment.state.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    ledger = Ledger(environment.state.ledger_url)
    if ledger.file is not None and not ledger.file.exists():
        # Created private: SQLite gives its side files the mode of the database.
        os.close(os.open(ledger.file, os.O_CREAT | os.O_RDWR, 0o600))
    try:
        migrate(ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def migrate(ledger: Ledger) -> None:
    """Create or upgrade the tables; nothing happens when they are current. Raises Refused for a newer ledger."""
    if _revision(ledger) == HEAD:
        return
    with _one_process(ledger):
        found = _revision(ledger)
        if found == HEAD:
            return
        _refuse_unknown(found)
        if ledger.file is not None:
            if found is not None:
                back_up(ledger.file, ledger.file.with_name(f"{ledger.file.name}.before-{HEAD}"))
            with closing(sqlite3.connect(ledger.file, timeout=BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")  # kept in the file from then on
        _upgrade(ledger)


def back_up(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite database while others write to it, private, whole or not there at all."""
    draft = target.with_name(f"{target.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    with closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as old, closing(sqlite3.connect(draft)) as new:
        old.backup(new)
    draft.replace(target)


def _revision(ledger: Ledger) -> str | None:
    with ledger.read() as session:
        connection = session.connection()
        if not inspect(connection).has_table("alembic_version"):
            return None
        return session.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _one_process(ledger: Ledger) -> AbstractContextManager[object]:
    if ledger.file is None:
        return nullcontext()  # on Postgres the migration's own transaction holds the writers' lock
    return FileLock(f"{ledger.file}.migration", timeout=BUSY_SECONDS, mode=0o600)


def _refuse_unknown(revision: str | None) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    if revision is not None and revision not in known:
        raise Refused(
            f"ledger: its tables are of migration {revision}, which this Slipway does not know (newest: {HEAD})",
            hint="use the newer Slipway, or restore the backup that lies beside the ledger",
        )


def _upgrade(ledger: Ledger) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with ledger.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _say(connection)


def _say(connection: Connection) -> None:
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    if found != HEAD:
        raise AssertionError(f"migrations end at {found}, the code expects {HEAD}")
