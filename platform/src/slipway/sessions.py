"""What a browser holds instead of a token: a session, opened by a one-time address that the command line prints.

Codes and sessions are files named by the hash of what the browser holds, so that nobody who reads the folder can use
them; a code is spent by removing its file, which succeeds once. A session is good for one host name (door); the
sessions of the dashboards hang on the portal's and end with it. Expiry is wall-clock time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from slipway.environment import Environment
from slipway.files import write_atomically

CODE_LIFETIME = 300.0
"""Seconds within which a one-time address must be opened."""
SESSION_LIFETIME = 12 * 3600.0
"""Seconds after which a browser has to log in again."""


@dataclass(frozen=True)
class Session:
    """What a browser may do, where, and until when."""

    role: str
    door: str
    expires: float
    """Seconds since the epoch."""
    root: str
    """Hash of the portal session that this one hangs on; of itself for that one."""


def issue_code(environment: Environment, role: str, door: str = "portal", *, parent: Session | None = None) -> str:
    """A code for a one-time address of this door; `parent` is the portal session that asks for it."""
    code = secrets.token_urlsafe(32)
    root, ends = (parent.root, parent.expires) if parent else ("", time.time() + SESSION_LIFETIME)
    folder = _folder(environment, "logins")
    _forget_expired(folder)
    valid = {"role": role, "door": door, "expires": time.time() + CODE_LIFETIME, "root": root, "ends": ends}
    write_atomically(folder / _digest(code), json.dumps(valid))
    return code


def exchange(environment: Environment, code: str, door: str) -> tuple[str, Session] | None:
    """Spend a code: the value of the browser's cookie, and its session. None for a code that is wrong, spent, expired
    or for another door; a code that was tried at the wrong door is spent as well."""
    file = _folder(environment, "logins") / _digest(code)
    try:
        valid = json.loads(file.read_text())
        file.unlink()
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if valid["door"] != door or valid["expires"] < time.time():
        return None
    value = secrets.token_urlsafe(32)
    session = Session(valid["role"], door, valid["ends"], valid["root"] or _digest(value))
    folder = _folder(environment, "sessions")
    _forget_expired(folder)
    write_atomically(folder / _digest(value), json.dumps(asdict(session)))
    return value, session


def find_session(environment: Environment, value: str, door: str) -> Session | None:
    """The session behind a cookie; None when it has ended, is not for this door, or the portal's has ended."""
    folder = environment.state.secrets / "sessions"
    session = _read(folder / _digest(value))
    if session is None or session.door != door or session.expires < time.time():
        return None
    return session if (folder / session.root).exists() else None


def end_session(environment: Environment, session: Session) -> None:
    """Log out: the portal's session and all that hang on it."""
    folder = environment.state.secrets / "sessions"
    for file in folder.glob("*"):
        found = _read(file)
        if found and found.root == session.root:
            file.unlink(missing_ok=True)


def end_sessions(environment: Environment, roles: Collection[str]) -> int:
    """Log out every browser with one of these roles, and make their unused codes worthless. Returns how many."""
    ended = 0
    for name in ("sessions", "logins"):
        for file in (environment.state.secrets / name).glob("*"):
            try:
                role = json.loads(file.read_text())["role"]
            except (OSError, ValueError, KeyError):
                continue
            if role in roles:
                file.unlink(missing_ok=True)
                ended += name == "sessions"
    return ended


def _read(file: Path) -> Session | None:
    try:
        return Session(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _digest(value: str) -> str:
    # The values are random and long: a plain hash of them cannot be searched.
    return hashlib.sha256(value.encode()).hexdigest()


def _folder(environment: Environment, name: str) -> Path:
    folder = environment.state.secrets / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _forget_expired(folder: Path) -> None:
    for file in folder.glob("[0-9a-f]*"):
        try:
            if json.loads(file.read_text())["expires"] < time.time():
                file.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError):
            continue
