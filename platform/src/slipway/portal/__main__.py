"""`python -m slipway.portal`: serve the portal until SIGTERM."""

from __future__ import annotations

from slipway import listening, logs, tokens
from slipway.environment import open_environment
from slipway.portal.app import create_app


def main() -> None:
    logs.configure("portal")
    environment = open_environment()
    tokens.prepare(environment)
    listening.serve(create_app(environment), environment, "portal")


if __name__ == "__main__":
    main()
