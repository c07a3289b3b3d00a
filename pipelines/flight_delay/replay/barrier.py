"""The barrier at the end of an event day: event time waits until the platform has dealt with the day."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.ledger import open_ledger, progress

PROCESSES = ("collector", "monitor", "controller")
LIMIT_SECONDS = 900.0
"""Longest wait for one day; a retraining and a revision's start fall into it."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


class Barrier:
    """Reads the ledger; decides nothing."""

    def __init__(self, environment: Environment, *, limit: float = LIMIT_SECONDS) -> None:
        self._ledger = open_ledger(environment)
        self._limit = limit

    def waits(self, moment: datetime) -> list[str]:
        """What is still to be done before event time may pass `moment`, in words; empty when nothing is."""
        with self._ledger.read() as session:
            reached = progress.read(session)
            outstanding = progress.outstanding(session)
        behind = [
            f"{process} is at {reached[process].isoformat()}" if process in reached else f"{process} has not begun"
            for process in PROCESSES
            if process not in reached or reached[process] < moment
        ]
        return behind + outstanding

    async def wait(self, moment: datetime, said: Callable[[str], None] = lambda _: None) -> None:
        """Return when nothing is outstanding at `moment`. Raises NotReady after the limit, with what was awaited."""
        begun, pause = time.monotonic(), _FIRST_PAUSE
        while waits := self.waits(moment):
            if time.monotonic() - begun > self._limit:
                raise NotReady(
                    f"the platform did not reach {moment.isoformat()} within {self._limit:g} s: {'; '.join(waits)}",
                    hint="slipway status; repeat the command to go on from here",
                )
            said(waits[0])
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
