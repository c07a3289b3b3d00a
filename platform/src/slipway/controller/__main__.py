"""`python -m slipway.controller`: the process."""

from __future__ import annotations

import sys

from slipway import failpoints, logs
from slipway.controller.leadership import lead
from slipway.controller.loop import Loop
from slipway.environment import open_environment
from slipway.errors import SlipwayError
from slipway.heartbeat import Heartbeat
from slipway.ledger import open_ledger
from slipway.stopping import stop_on_signals
from slipway.targets import open_target


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    logs.configure("controller")
    stop = stop_on_signals()
    try:
        environment = open_environment()
        failpoints.watch(environment.state.run)
        ledger, heartbeat = open_ledger(environment), Heartbeat(environment, "controller")
        with lead(environment, stop, on_turn=heartbeat.beat) as ledger.guard:
            loop = Loop(environment, ledger, open_target(environment))
            loop.run(stop, on_turn=heartbeat.beat)
    except SlipwayError as error:
        logs.get_logger().error("controller stopped", error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
