"""`python -m slipway.controller`: the process."""

from __future__ import annotations

import signal
import sys
from threading import Event

from slipway import failpoints, logs
from slipway.controller.loop import Loop
from slipway.environment import open_environment
from slipway.errors import SlipwayError
from slipway.heartbeat import Heartbeat
from slipway.ledger import open_ledger
from slipway.targets import open_target


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    logs.configure("controller")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        environment = open_environment()
        failpoints.watch(environment.state.run)
        loop = Loop(environment, open_ledger(environment), open_target(environment))
        heartbeat = Heartbeat(environment, "controller")
        loop.run(stop, on_turn=heartbeat.beat)
    except SlipwayError as error:
        logs.get_logger().error("controller stopped", error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
