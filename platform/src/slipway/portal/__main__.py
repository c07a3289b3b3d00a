"""`python -m slipway.portal`: serve the portal on its unix socket until SIGTERM."""

from __future__ import annotations

from slipway import logs, tokens, unix_sockets
from slipway.endpoints import socket_of
from slipway.environment import open_environment
from slipway.portal.app import create_app


def main() -> None:
    logs.configure("portal")
    environment = open_environment()
    tokens.prepare(environment)
    unix_sockets.serve(create_app(environment), socket_of(environment, "portal"))


if __name__ == "__main__":
    main()
