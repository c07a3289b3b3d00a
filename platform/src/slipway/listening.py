"""Where a serving process of the platform listens: a unix socket that only this user can open, or its pod's port."""

from __future__ import annotations

import socket
from typing import Any

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.unix_sockets import bind_socket


def bind(environment: Environment, name: str, *, backlog: int = 1024) -> socket.socket:
    """The listening socket of the process called `name`. Raises OSError when the port is taken."""
    if environment.pod is None or environment.pod.listen is None:
        return bind_socket(socket_of(environment, name), backlog=backlog)
    host, port = environment.pod.listen
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=backlog)


def serve(application: Any, environment: Environment, name: str, *, grace: int = 5) -> None:
    """Serve an ASGI application until SIGTERM; requests in flight get `grace` seconds to end."""
    import uvicorn

    config = uvicorn.Config(application, log_config=None, access_log=False, timeout_graceful_shutdown=grace)
    uvicorn.Server(config).run(sockets=[bind(environment, name)])
