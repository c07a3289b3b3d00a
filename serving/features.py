"""Online features of a request, or the documented defaults when the store does not give them in time.

The store is read in a thread of its own, so that a store that hangs holds up no prediction. After a few failures in a
row it is left alone for a while; predictions go on with defaults meanwhile, and every one of them is counted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Protocol

import numpy as np

from slipway.logs import get_logger

FAILURES = 3
"""Failed reads in a row after which the store is left alone."""
PAUSE = 2.0
"""Seconds for which it is."""

_log = get_logger(__name__)


class Lookup(Protocol):
    """What reads the store (feature_repo.lookup)."""

    def read_columns(
        self, keys: Mapping[str, Sequence[Hashable]], *, as_of: datetime
    ) -> tuple[np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Joined:
    """Features of the rows of one request."""

    features: np.ndarray
    """rows x features in the order of the service's views, float64; NaN where the default applies."""
    ages: np.ndarray
    """rows x views, seconds; NaN where the view gave nothing."""
    reason: str = ""
    """Why the store gave nothing at all: timeout, error, skipped; empty when it answered."""

    @property
    def defaults(self) -> np.ndarray:
        """Views of each row that fell back to their defaults."""
        missing: np.ndarray = np.isnan(self.ages).sum(axis=1)
        return missing


class FeatureSource:
    """Reads one feature service with a time limit."""

    def __init__(
        self,
        open_lookup: Callable[[], Lookup],
        views: Mapping[str, list[str]],
        keys: list[str],
        *,
        timeout: float,
    ) -> None:
        """`views` maps a view to its features, `keys` are the request fields that name entities; seconds."""
        self._open_lookup = open_lookup
        self._lookup: Lookup | None = None
        self._views = len(views)
        self._features = sum(len(features) for features in views.values())
        self._keys = keys
        self._timeout = timeout
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="features")
        self._failures = 0
        self._retry_at = 0.0
        self._stuck: Future[Joined] | None = None

    def open(self, limit: float) -> bool:
        """Open the store, waiting at most `limit` seconds; False when it is not open by then (it is tried again)."""
        opened = threading.Event()
        self._thread.submit(self._opened).add_done_callback(lambda _: opened.set())
        return opened.wait(limit) and self._lookup is not None

    async def read(self, columns: Mapping[str, Any], length: int, as_of: datetime) -> Joined:
        """Features of `length` rows at `as_of`; never raises and never takes longer than the time limit."""
        reason = self._why_not()
        if reason:
            return self._nothing(length, reason)
        future = self._thread.submit(self._read, columns, as_of)
        try:
            joined = await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except TimeoutError:
            self._stuck = future
            self._failed("timeout")
            return self._nothing(length, "timeout")
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            return self._nothing(length, "error")
        if self._failures:
            _log.info("the feature store answers again")
        self._failures = 0
        return joined

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _why_not(self) -> str:
        if self._stuck is not None and not self._stuck.done():
            return "timeout"
        self._stuck = None
        return "skipped" if self._failures >= FAILURES and monotonic() < self._retry_at else ""

    def _failed(self, why: str) -> None:
        self._failures += 1
        self._retry_at = monotonic() + PAUSE
        if self._failures in (1, FAILURES):
            _log.warning("features come from their defaults", why=why, failures=self._failures)

    def _opened(self) -> Lookup:
        if self._lookup is None:
            self._lookup = self._open_lookup()
        return self._lookup

    def _read(self, columns: Mapping[str, Any], as_of: datetime) -> Joined:
        keys = {key: _as_list(columns[key]) for key in self._keys}
        features, ages = self._opened().read_columns(keys, as_of=as_of)
        return Joined(features, ages)

    def _nothing(self, length: int, reason: str) -> Joined:
        return Joined(np.full((length, self._features), np.nan), np.full((length, self._views), np.nan), reason)


def _as_list(values: Any) -> list[Hashable]:
    """Keys as plain Python values: numpy's own whole numbers are not what a key is spelled from."""
    found: list[Hashable] = values.tolist() if isinstance(values, np.ndarray) else values
    return found
