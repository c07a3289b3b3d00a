"""Closing the gateway without cutting a request: Envoy itself cuts connections when it gets SIGTERM."""

from __future__ import annotations

import http.client
import json
import time

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.unix_sockets import UnixConnection

_LIMIT = 5.0
"""Seconds that requests in flight are waited for."""


def drain_gateway(environment: Environment) -> None:
    """Refuse new connections and return when no request is in flight; at once when no gateway runs."""
    try:
        _ask(environment, "POST", "/drain_listeners?graceful&skip_exit")
        deadline = time.monotonic() + _LIMIT
        while _count_active(environment) and time.monotonic() < deadline:
            time.sleep(0.1)
    except (OSError, http.client.HTTPException, ValueError):
        return


def _count_active(environment: Environment) -> int:
    stats = json.loads(_ask(environment, "GET", "/stats?format=json&filter=downstream_rq_active"))["stats"]
    # The admin side counts this very question as active.
    return sum(int(row["value"]) for row in stats if "name" in row and ".admin." not in row["name"])


def _ask(environment: Environment, method: str, path: str) -> bytes:
    connection = UnixConnection(socket_of(environment, "envoy-admin"), timeout=2.0)
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()
