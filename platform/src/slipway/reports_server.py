"""Evidently's pages: `python -m slipway.reports_server`.

Evidently guards writes at most and lives only at the root of a host; Envoy gives it a host name of its own and checks
tokens for every route. Reports are written by the monitors into the same folder, or fetched from where theirs go.
"""

from __future__ import annotations

from slipway import listening, logs, reports_mirror
from slipway.environment import open_environment


def main() -> None:
    logs.configure("reports")
    environment = open_environment()
    reports_mirror.keep_fetching(environment)

    from evidently.ui.service.app import create_app, get_config

    application = create_app(get_config(workspace=str(environment.state.reports)))
    logs.configure("reports")  # once more: the application put its own configuration in place
    listening.serve(application, environment, "reports")


if __name__ == "__main__":
    main()
