"""Questions to Envoy's admin socket, which only this user can open.

Not by httpx, which is slow to import for a command that a person waits for, and leaves a socket open when nobody
listens.
"""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.errors import NotReady

_TIMEOUT = 5.0
"""Seconds for one question."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise


def ask(environment: Environment, path: str, *, method: str = "GET") -> Any:
    """One question; JSON where Envoy answers so, else text.

    Raises NotReady when it does not answer, or not with 200.
    """
    connection = _Connection(socket_of(environment, "envoy-admin"))
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise NotReady(f"the gateway's admin socket answers {answer.status} to {path}: {text[:200].strip()}")
        is_json = answer.getheader("content-type", "").startswith("application/json")
        return json.loads(text) if is_json else text
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotReady(f"the gateway does not answer on its admin socket: {error}", hint="slipway status") from error
    finally:
        connection.close()
