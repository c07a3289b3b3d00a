"""What a browser holds instead of a token: a session, opened by a one-time address that the command line prints.

Codes and sessions are rows named by the hash of what the browser holds, so that nobody who reads the table can use
them; a code is spent by the statement that removes its row, which succeeds once. In a cluster all portals share the
tables, on one machine they are a file of their own beside the tokens. A session is good for one host name (door); the
sessions of the dashboards hang on the portal's and end with it. All of a role's end when its token is replaced. Expiry
is wall-clock time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Column, Connection, Engine, Float, MetaData, String, Table, delete, insert, select
from sqlalchemy.exc import OperationalError

from slipway.database import open_engine
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.tokens import Role, read_token

CODE_LIFETIME = 300.0
"""Seconds within which a one-time address must be opened."""
SESSION_LIFETIME = 12 * 3600.0
"""Seconds after which a browser has to log in again."""

_WRITER_LOCK = 0x51_1B_AA_13
_CONNECT_WITHIN = 3
_metadata = MetaData()
_COLUMNS = (
    ("role", String(20)),
    ("door", String(20)),
    ("bound_to", String(64)),  # a hash of the role's token when the code was made
    ("expires", Float),
)
_code = Table(
    "login_code",
    _metadata,
    Column("digest", String(64), primary_key=True),
    *(Column(name, kind, nullable=False) for name, kind in _COLUMNS),
    Column("root", String(64), nullable=False),  # empty for a login at the portal
    Column("ends", Float, nullable=False),  # the session that it opens
)
_session = Table(
    "browser_session",
    _metadata,
    Column("digest", String(64), primary_key=True),
    *(Column(name, kind, nullable=False) for name, kind in _COLUMNS),
    Column("root", String(64), nullable=False, index=True),
)


@dataclass(frozen=True)
class Session:
    """What a browser may do, where, and until when."""

    role: Role
    door: str
    expires: float
    """Seconds since the epoch."""
    root: str
    """Hash of the portal session that this one hangs on; of itself for that one."""


class SessionStore:
    """The codes and sessions of one environment; safe for several threads and processes. Opened when first asked.

    Raises NotReady where the database does not answer.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def prepare(self) -> None:
        """Make the tables that are missing."""
        with self._connection():
            pass

    def issue_code(self, role: Role, door: str = "portal", *, parent: Session | None = None) -> str:
        """A code for a one-time address of this door; `parent` is the portal session that asks for it."""
        code = secrets.token_urlsafe(32)
        now = time.time()
        root, ends = (parent.root, parent.expires) if parent else ("", now + SESSION_LIFETIME)
        row: dict[str, object] = {"digest": _digest(code), "role": role, "door": door, "bound_to": self._bond(role)}
        row |= {"expires": now + CODE_LIFETIME, "root": root, "ends": ends}
        with self._connection() as connection:
            for table in (_code, _session):
                connection.execute(delete(table).where(table.c.expires < now))
            connection.execute(insert(_code).values(row))
        return code

    def exchange(self, code: str, door: str) -> tuple[str, Session] | None:
        """Spend a code: the value of the browser's cookie, and its session. None for a code that is wrong, spent,
        expired or for another door; a code that was tried at the wrong door is spent as well."""
        value = secrets.token_urlsafe(32)
        with self._connection() as connection:
            spent = connection.execute(delete(_code).where(_code.c.digest == _digest(code)).returning(_code)).first()
            if spent is None or spent.door != door or spent.expires < time.time():
                return None
            session = Session(spent.role, door, spent.ends, spent.root or _digest(value))
            row = {"digest": _digest(value), "bound_to": spent.bound_to, **vars(session)}
            connection.execute(insert(_session).values(row))
        return value, session

    def find(self, value: str, door: str) -> Session | None:
        """The session behind a cookie; None when it has ended, is not for this door, or the portal's has ended."""
        root = _session.alias("root")
        wanted = select(_session).join(root, root.c.digest == _session.c.root)
        wanted = wanted.where(_session.c.digest == _digest(value), _session.c.door == door)
        with self._connection(reads=True) as connection:
            row = connection.execute(wanted).first()
        if row is None or row.expires < time.time() or row.bound_to != self._bond(row.role):
            return None
        return Session(row.role, row.door, row.expires, row.root)

    def end(self, session: Session) -> None:
        """Log out: the portal's session and all that hang on it."""
        with self._connection() as connection:
            for table in (_session, _code):
                connection.execute(delete(table).where(table.c.root == session.root))

    def close(self) -> None:
        """Give the connections back."""
        if "_engine" in self.__dict__:
            self._engine.dispose()

    @cached_property
    def _engine(self) -> Engine:
        state = self._environment.state
        if state.sessions_file is not None:
            # Created private: SQLite gives its side files the mode of the database.
            os.close(os.open(state.sessions_file, os.O_CREAT | os.O_RDWR, 0o600))
        return open_engine(state.sessions_url, _metadata, writer_lock=_WRITER_LOCK, connect_within=_CONNECT_WITHIN)

    @contextmanager
    def _connection(self, *, reads: bool = False) -> Iterator[Connection]:
        """One transaction, whole or not at all."""
        try:
            with self._engine.connect().execution_options(slipway_reads=reads) as connection, connection.begin():
                yield connection
        except (OperationalError, OSError) as error:
            reason = getattr(error, "orig", error)
            raise NotReady(f"the database of logins does not answer: {reason}", hint="try again") from error

    def _bond(self, role: Role) -> str:
        """What a session is bound to: another token of its role, and it is none."""
        return _digest(f"session by {read_token(self._environment, role)}")


def _digest(value: str) -> str:
    # The values are random and long: a plain hash of them cannot be searched.
    return hashlib.sha256(value.encode()).hexdigest()
