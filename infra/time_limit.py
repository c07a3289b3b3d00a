"""How long everything that Pulumi does may take together, and how a run ends before it is done.

A run is never just killed: it is asked to finish what it began and to write that down, so that the next one goes on.
Who asks twice ends it at once, and so does a run that does not obey; what it had begun is looked up by the next run.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic

from slipway.errors import NotReady

OBEYS_WITHIN = 300.0
"""Seconds that a run which was asked to stop has for what it began."""
SILENCE = 30.0
"""Seconds without a line after which a person is told that work goes on."""

_LOOK_EVERY = 0.5
_GOES_ON = "nothing is lost: run the same command again, it goes on from there"


class Watch:
    """Looks at the clock while Pulumi works, and speaks when nothing else does."""

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        self._say = say
        self._seconds = seconds
        self._begun = self._last = monotonic()

    def say(self, line: str) -> None:
        self._last = monotonic()
        self._say(line)

    def look(self) -> None:
        """Raises NotReady when the time is over."""
        now = monotonic()
        if now - self._begun > self._seconds:
            raise NotReady(f"not done within {_spoken(self._seconds)}", hint=_GOES_ON)
        if now - self._last > SILENCE:
            self.say(f"  ...        at work for {_spoken(now - self._begun)}, of at most {_spoken(self._seconds)}")


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def time_limit(seconds: float, say: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Within it runs of Pulumi end in time, all together, or raise NotReady; gives what lines are to be said with."""
    watch = Watch(seconds, say)
    token = _watch.set(watch)
    try:
        yield watch.say
    finally:
        _watch.reset(token)


def wait_for(process: subprocess.Popen[str]) -> None:
    """Return when it has ended by itself; when it was made to end, raise why: NotReady or KeyboardInterrupt.

    The process leads a session of its own, whose other processes are killed only when it does not obey.
    """
    watch = _watch.get()
    reason: BaseException | None = None
    # Pulumi takes the first as `finish what you began`, the second as `now`.
    signals = iter((signal.SIGINT, signal.SIGINT))
    patience = float("inf")
    while True:
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_EVERY)
                break
            if watch and not reason:
                watch.look()
            if monotonic() < patience:
                continue
        except (KeyboardInterrupt, NotReady) as error:
            reason = reason or error
        if watch:
            why = "interrupted" if isinstance(reason, KeyboardInterrupt) else "out of time"
            watch.say(f"  stopping   {why}: what has begun is finished first (Ctrl-C: at once)")
        patience = monotonic() + OBEYS_WITHIN
        _signal(process, next(signals, None))
    if reason:
        raise reason


def _signal(process: subprocess.Popen[str], which: signal.Signals | None) -> None:
    with suppress(ProcessLookupError):
        if which:
            process.send_signal(which)
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
