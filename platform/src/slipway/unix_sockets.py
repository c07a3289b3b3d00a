"""HTTP on unix sockets that only this user can open: binding and asking."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

LONGEST_PATH = 103
"""Characters: Linux takes 107, macOS 103."""


def bind_socket(path: Path, *, backlog: int = 1024) -> socket.socket:
    """A listening socket of mode 0600, in place of what a killed process left at `path`.

    uvicorn's own `uds` option leaves the socket open to every user.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(backlog)
    return listener


class UnixConnection(http.client.HTTPConnection):
    """The standard library's connection over a unix socket, for where httpx would cost its import."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def client(path: Path, *, timeout: float = 2.0, host: str = "localhost") -> httpx.Client:
    """An HTTP client whose every request goes to the socket at `path`; `timeout` in seconds."""
    import httpx

    # No certificates are looked at on a socket; loading the usual ones would take 30 ms each time.
    transport = httpx.HTTPTransport(uds=str(path), verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    return httpx.Client(transport=transport, base_url=f"http://{host}", timeout=timeout)
