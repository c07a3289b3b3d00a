"""The collector's process: takes spool files as they come, and completes the log whenever event time moves on."""

from __future__ import annotations

import sys
import threading
import time
from datetime import datetime

from filelock import FileLock, Timeout
from sqlalchemy.exc import OperationalError

from slipway.collector.collection import Collection
from slipway.collector.flushing import Flushing, find_servers
from slipway.environment import Environment, open_environment
from slipway.errors import Conflict, SlipwayError
from slipway.heartbeat import Heartbeat
from slipway.ledger import open_ledger, progress
from slipway.logs import configure, get_logger
from slipway.stopping import stop_on_signals

POLL = 0.05
"""Seconds between looks at the clock; a replay waits for the answer once an event day."""
BETWEEN_BARRIERS = 0.2
BETWEEN_TAKES = 0.5

_log = get_logger("slipway.collector")


def run(environment: Environment, stop: threading.Event) -> None:
    """Work until `stop`. Raises Conflict when another collector works in this environment."""
    folder = environment.state.root / "inference_log" if environment.pod is None else environment.state.run
    lock = FileLock(folder / ".collector.lock")
    try:
        lock.acquire(timeout=30)
    except Timeout as error:
        raise Conflict("another collector works in this environment", hint="slipway status") from error
    with lock:
        turns = _Turns(environment)
        while not stop.is_set():
            try:
                turns.turn()
            except (OSError, SlipwayError, OperationalError) as error:  # a full disk, a busy database: it passes
                _log.error("the log waits", error=str(error))
                stop.wait(1.0)
            stop.wait(POLL)
        try:
            turns.collection.take()
        except OSError as error:
            _log.error("what is spooled stays there", error=str(error))
        turns.collection.close()


class _Turns:
    def __init__(self, environment: Environment) -> None:
        self.collection = Collection(environment)
        self._recovered = False
        self._clock = environment.clock
        # Under a live clock event time always moves; servers write by themselves often enough.
        live = environment.settings.clock.source == "utc"
        flush_interval = environment.settings.log.flush_interval.total_seconds()
        self._between_barriers = max(BETWEEN_BARRIERS, flush_interval) if live else BETWEEN_BARRIERS
        self._flushing = Flushing(find_servers(environment))
        self._ledger = open_ledger(environment)
        self._heartbeat = Heartbeat(environment, "collector")
        self._reached: datetime | None = None
        self._next_barrier = self._next_take = 0.0

    def turn(self) -> None:
        """One look: a barrier when event time has moved, otherwise the files that came meanwhile."""
        self._heartbeat.beat()
        if not self._recovered:
            self.collection.recover()
            self._recovered = True
        now = time.monotonic()
        as_of = self._as_of()
        if as_of is not None and as_of != self._reached and now >= self._next_barrier:
            self._complete(as_of)
            self._next_barrier = time.monotonic() + self._between_barriers
        elif now >= self._next_take:
            self.collection.take()
        else:
            return
        self._next_take = time.monotonic() + BETWEEN_TAKES

    def _complete(self, as_of: datetime) -> None:
        """Everything that was answered up to now is in Parquet: say so."""
        silent = self._flushing.flush_all()
        self.collection.take()
        if silent:
            raise SlipwayError(f"the log is not complete: {', '.join(silent)} did not write what it answered")
        with self._ledger.transaction() as session:
            progress.report(session, "collector", as_of)
        self._reached = as_of
        self.collection.tidy(as_of)

    def _as_of(self) -> datetime | None:
        try:
            return self._clock.as_of()
        except SlipwayError:
            return None  # nothing has been replayed yet


def main() -> None:
    configure("collector")
    stop = stop_on_signals()
    try:
        run(open_environment(), stop)
    except SlipwayError as error:
        _log.error("cannot collect", error=str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
