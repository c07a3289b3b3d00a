"""How the lab's processes are asked whether they are ready."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from pathlib import Path

from slipway.unix_sockets import UnixConnection

_ASK_WITHIN = 5


def is_healthy(port: int, path: str) -> bool:
    """Whether this port of loopback answers 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=_ASK_WITHIN) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def accepts(port: int) -> bool:
    """Whether somebody listens on this port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_ASK_WITHIN):
            return True
    except OSError:
        return False


def ask_socket(file: Path, path: str) -> str | None:
    """The text of a 200 answer on a unix socket; None for any other and for none."""
    connection = UnixConnection(file, _ASK_WITHIN)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
