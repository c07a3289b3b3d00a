"""Work that must not hold up the loop: starting servers, telling others. One attempt at a time for each key.

A failure is kept until its pause is over (twice as long after each failure in a row), then the work may be tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

from slipway.logs import get_logger

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
THREADS = 4
_Clock = Callable[[], float]


@dataclass
class _Failure:
    error: Exception
    count: int
    until: float


class Background:
    """Threads of the controller; they end with it, and what they did not finish is done again."""

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        on_done: Callable[[], None] = lambda: None,
        clock: _Clock = time.monotonic,
    ) -> None:
        """`on_done` is called, from any thread, when a piece of work has ended."""
        self._executor = executor or ThreadPoolExecutor(THREADS, thread_name_prefix="controller")
        self._on_done = on_done
        self._clock = clock
        self._running: dict[Hashable, Future[object]] = {}
        self._failures: dict[Hashable, _Failure] = {}

    def start(self, key: Hashable, work: Callable[[], object]) -> bool:
        """Start the work unless it runs already or pauses after a failure; whether it runs or was done just now."""
        self._collect(key)
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            return False
        if key not in self._running:
            self._running[key] = self._executor.submit(work)
            self._running[key].add_done_callback(lambda _: self._on_done())
        return True

    def is_running(self, key: Hashable) -> bool:
        """Whether this work is under way."""
        self._collect(key)
        return key in self._running

    def failures(self, key: Hashable) -> tuple[int, Exception | None]:
        """How often in a row the work has failed, and how it did last."""
        self._collect(key)
        failure = self._failures.get(key)
        return (failure.count, failure.error) if failure else (0, None)

    def forget(self, key: Hashable) -> None:
        """The failures of this work no longer matter."""
        self._collect(key)
        self._failures.pop(key, None)

    def close(self) -> None:
        """Let go of what has not begun; what has begun ends by its own time-outs."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _collect(self, key: Hashable) -> None:
        future = self._running.get(key)
        if future is None or not future.done():
            return
        del self._running[key]
        error = future.exception()
        if error is None:
            self._failures.pop(key, None)
            return
        if not isinstance(error, Exception):
            raise error
        count = self.failures(key)[0] + 1
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (count - 1))
        self._failures[key] = _Failure(error, count, self._clock() + pause)
        get_logger().warning("background work failed", work=str(key), error=str(error), failures=count)
