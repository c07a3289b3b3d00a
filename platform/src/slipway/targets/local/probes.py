"""How a process shows that it is ready: it answers over HTTP, or its loop has turned once.

A probe never waits longer than a second; `readiness` repeats it. supervisord's RUNNING is no such sign: it means only
that the process has not ended yet.
"""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from slipway.environment import Environment
from slipway.heartbeat import read_beat
from slipway.targets.local import envoy
from slipway.unix_sockets import UnixConnection

_LIMIT = 1.0
"""Seconds."""


class Probe(Protocol):
    def is_ready(self, pid: int) -> bool:
        """Whether the process with this id is ready now; never raises."""
        ...


@dataclass(frozen=True)
class Http:
    """GET answers with a status below 400, on a unix socket or a loopback port.

    A refusal for want of a token (401, 403) counts as well: whoever checks tokens is up.
    """

    path: str
    socket: Path | None = None
    port: int | None = None

    def is_ready(self, pid: int) -> bool:
        connection = (
            UnixConnection(self.socket, _LIMIT)
            if self.socket
            else http.client.HTTPConnection("127.0.0.1", self.port, timeout=_LIMIT)
        )
        try:
            connection.request("GET", self.path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return status < 400 or status in (401, 403)


@dataclass(frozen=True)
class Gateway:
    """Envoy is live and has taken its routes; a live one without them would answer 404."""

    environment: Environment

    def is_ready(self, pid: int) -> bool:
        return envoy.is_ready(self.environment)


@dataclass(frozen=True)
class Beats:
    """The process has beaten since it was started; an older beat belongs to a former process."""

    environment: Environment
    process: str

    def is_ready(self, pid: int) -> bool:
        beat = read_beat(self.environment, self.process)
        return beat is not None and (beat.pid == pid or _is_below(beat.pid, pid))


def _is_below(pid: int, ancestor: int) -> bool:
    try:
        return any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except psutil.NoSuchProcess:
        return False
