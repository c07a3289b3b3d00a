"""The running supervisord: starting it, asking it, having it take up and drop processes, ending it.

It keeps processes alive and their logs small. What ready means, it does not know (`readiness`); which revisions ought
to run, it does not decide (`target`).
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.errors import NotReady, SlipwayError
from slipway.settings import REPOSITORY
from slipway.targets.local.configuration import configuration_file, log_file
from slipway.unix_sockets import UnixConnection


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__()
        self._path, self._timeout = path, timeout

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = UnixConnection(self._path, self._timeout)
        self._connection = host, connection  # what the base class closes
        return connection


@dataclass(frozen=True)
class Status:
    """What supervisord says of one process."""

    name: str
    state: str
    """RUNNING, STARTING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL."""
    pid: int
    """0 when it does not run."""
    started: float
    """Seconds since 1970, wall clock."""
    reason: str

    @property
    def is_alive(self) -> bool:
        return self.state in ("RUNNING", "STARTING")


class Supervisor:
    """The supervisord of one environment, asked over its socket. Every call has a limit of `timeout` seconds."""

    def __init__(self, environment: Environment, *, timeout: float = 5.0) -> None:
        self._environment = environment
        self._socket = socket_of(environment, "supervisor")
        self._timeout = timeout

    def _call(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Raises NotReady when supervisord does not answer, xmlrpc.client.Fault when it refuses."""
        transport = _Transport(self._socket, timeout or self._timeout)
        try:
            with xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise NotReady(f"supervisord does not answer on {self._socket}: {error}", hint="slipway up") from error

    def is_running(self) -> bool:
        """Whether supervisord answers and is not on its way out."""
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except (NotReady, xmlrpc.client.Fault):
            return False

    def pid(self) -> int:
        return int(self._call("getPID"))

    def read_statuses(self) -> dict[str, Status]:
        """Every process that supervisord knows, by name, in the order of starting. Raises NotReady."""
        return {
            row["name"]: Status(row["name"], row["statename"], row["pid"], float(row["start"]), row["spawnerr"])
            for row in self._call("getAllProcessInfo")
        }

    def start(self, name: str) -> None:
        """Start a process that was stopped or given up; nothing happens when it runs."""
        self._ignoring("ALREADY_STARTED", "startProcess", name, False)

    def stop(self, name: str) -> None:
        """Send SIGTERM and return at once; nothing happens when it does not run."""
        self._ignoring("NOT_RUNNING", "stopProcess", name, False)

    def add(self, name: str) -> None:
        """Take up the process whose file was just written, or start it when it is known and down."""
        self._call("reloadConfig")
        if not self._ignoring("ALREADY_ADDED", "addProcessGroup", name):
            self.start(name)

    def remove(self, name: str, stop_timeout: int) -> None:
        """SIGTERM, wait, SIGKILL if it must be; then forget it. Nothing happens when it is not known."""
        limit = stop_timeout + 10.0
        if self._ignoring("BAD_NAME", "stopProcessGroup", name, True, timeout=limit):
            self._ignoring("BAD_NAME", "removeProcessGroup", name)

    def _ignoring(self, fault: str, method: str, *arguments: Any, timeout: float | None = None) -> bool:
        """Call; False when supervisord answers with the named fault. Other faults raise SlipwayError."""
        try:
            self._call(method, *arguments, timeout=timeout)
        except xmlrpc.client.Fault as error:
            if error.faultString.startswith(fault):
                return False
            raise SlipwayError(f"supervisord refused {method}{arguments}: {error.faultString}") from error
        return True

    def shut_down(self) -> None:
        """Ask it to stop everything in falling order and to end; returns at once."""
        self._call("shutdown")


def launch(environment: Environment) -> None:
    """Start supervisord in a session of its own and return when it answers. Raises SlipwayError with its own words."""
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration_file(environment))]
    result = subprocess.run(
        command, env=_clean_environment(), capture_output=True, text=True, timeout=30, check=False, cwd=REPOSITORY
    )
    if result.returncode != 0:
        raise SlipwayError(f"supervisord did not start: {(result.stderr or result.stdout).strip()}")
    supervisor = Supervisor(environment, timeout=1.0)
    deadline = time.monotonic() + 10
    while not supervisor.is_running():
        if time.monotonic() > deadline:
            raise NotReady("supervisord did not answer within 10 s", hint=f"see {log_file(environment, 'supervisord')}")
        time.sleep(0.05)


def _clean_environment() -> dict[str, str]:
    """What a process may take over from the shell of whoever types `slipway up`: not its tokens, not its settings."""
    kept = ("HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    return {name: os.environ[name] for name in (*kept, *proxies) if name in os.environ} | {
        name: value for name, value in os.environ.items() if name.startswith("LC_")
    }
