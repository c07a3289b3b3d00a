"""The runner process: `python -m pipelines` works on the ledger's runs until SIGTERM; with `--once`, on one."""

from __future__ import annotations

import argparse
import sys
import threading

from filelock import FileLock, Timeout

from pipelines.once import run_once
from pipelines.runner import Runner
from slipway import logs
from slipway.environment import Environment, open_environment
from slipway.errors import SlipwayError
from slipway.heartbeat import Heartbeat
from slipway.stopping import stop_on_signals

_IDLE_SECONDS = 0.5
_LOCK_SECONDS = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="Work on the ledger's runs.")
    parser.add_argument("--once", action="store_true", help="one run, told by SLIPWAY_RUN, without the ledger")
    chosen = parser.parse_args()
    logs.configure("runner")
    stop = stop_on_signals()
    try:
        environment = open_environment()
        environment.state.prepare()
        if chosen.once:
            return run_once(environment, stop)
        work(environment, stop)
    except SlipwayError as error:
        logs.get_logger("pipelines").error("cannot work", error=str(error))
        return error.exit_code
    return 0


def work(environment: Environment, stop: threading.Event) -> None:
    """Take runs from the ledger until told to stop."""
    heartbeat = Heartbeat(environment, "runner")
    try:
        with FileLock(environment.state.run / "runner.lock", timeout=_LOCK_SECONDS):
            runner = Runner(environment, stopping=stop.is_set, beat=heartbeat.beat)
            try:
                while not stop.is_set():
                    heartbeat.beat()
                    if not runner.turn():
                        stop.wait(_IDLE_SECONDS)
            finally:
                runner.close()
    except Timeout:
        sys.exit("another runner works in this environment")


if __name__ == "__main__":
    sys.exit(main())
