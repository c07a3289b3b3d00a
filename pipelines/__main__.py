"""The runner process: `python -m pipelines` works on the ledger's runs until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading

from filelock import FileLock, Timeout

from pipelines.runner import Runner
from slipway import logs
from slipway.environment import open_environment
from slipway.heartbeat import Heartbeat

_IDLE_SECONDS = 0.5
_LOCK_SECONDS = 30


def main() -> None:
    logs.configure("runner")
    environment = open_environment()
    environment.state.prepare()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
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
    main()
