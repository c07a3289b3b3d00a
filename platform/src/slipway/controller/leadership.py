"""One controller decides: on a machine by a lock of the kernel's, in a cluster by a Lease of coordination.k8s.io.

The Lease works as client-go's does. Who holds it renews it every RETRY seconds; whoever has seen it unchanged for
LASTS seconds of its own clock may take it, so that clocks of different machines are never compared. A holder that has
not renewed for RENEW_WITHIN seconds ends on the spot, well before anybody may take over, whatever its threads are
doing: the controller can be killed at any point and its successor goes on. A process that was frozen meanwhile is
stopped at its next write, since the ledger asks before each commit whether the Lease is still held.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

from slipway.environment import Environment
from slipway.errors import Conflict, SlipwayError
from slipway.logs import get_logger
from slipway.targets.kubernetes.cluster_api import ClusterApi, Object
from slipway.targets.kubernetes.names import SYSTEM

API, PLURAL = "coordination.k8s.io/v1", "leases"
NAMESPACE, NAME = SYSTEM, "controller"
LASTS = 15.0
RENEW_WITHIN = 10.0
RETRY = 2.0
_GLANCE = 0.1
"""Seconds between looks of the watchdog."""
_log = get_logger("controller")


def now() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True)
class _Seen:
    """A state of the Lease, and when this process first saw it."""

    version: str
    at: float


class Lease:
    """The one Lease as this process sees it. `try_to_hold` takes or renews it; nothing here waits."""

    def __init__(self, api: ClusterApi, identity: str) -> None:
        self.identity = identity
        self._api = api
        self._seen: _Seen | None = None
        self._held_since = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process may still decide."""
        return now() < self._held_since + RENEW_WITHIN

    def try_to_hold(self) -> bool:
        """Take or renew; False while it is somebody else's. Raises NotReady when the API server does not say."""
        asked = now()
        found = self._api.read(API, NAMESPACE, PLURAL, NAME)
        if found is None:
            written = self._api.create(self._describe({}), PLURAL)
        else:
            if self._is_anothers(found, asked):
                return False
            written = self._api.replace(self._describe(found), PLURAL)
        if written is None:
            return False  # somebody was faster
        # Counted from before the request: nobody else can have seen it earlier.
        self._held_since = asked
        return True

    def release(self) -> None:
        """Let the next one begin at once. Best effort: it may begin after LASTS seconds anyway."""
        found = self._api.read(API, NAMESPACE, PLURAL, NAME)
        self._held_since = float("-inf")
        if found is not None and found["spec"].get("holderIdentity") == self.identity:
            spec = found["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
            self._api.replace(found | {"spec": spec}, PLURAL)

    def _is_anothers(self, found: Object, asked: float) -> bool:
        spec, version = found["spec"], found["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, now())
        if spec.get("holderIdentity") in (None, "", self.identity):
            return False
        return asked < self._seen.at + max(LASTS, float(spec.get("leaseDurationSeconds") or 0))

    def _describe(self, found: Object) -> Object:
        before: dict[str, Any] = found.get("spec") or {}
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_mine = before.get("holderIdentity") == self.identity
        return {
            "apiVersion": API,
            "kind": "Lease",
            "metadata": found.get("metadata") or {"namespace": NAMESPACE, "name": NAME},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(LASTS),
                "acquireTime": before["acquireTime"] if is_mine else moment,
                "renewTime": moment,
                "leaseTransitions": int(before.get("leaseTransitions") or 0) + (bool(found) and not is_mine),
            },
        }


@contextmanager
def lead(
    environment: Environment, stop: Event, *, on_turn: Callable[[], None] = lambda: None
) -> Iterator[Callable[[], None]]:
    """Wait until this controller is the one that decides, or `stop`; gives what raises Conflict once it no longer is.

    On a machine that is known at once: the loop's own lock sees to it.
    """
    if environment.pod is None or environment.settings.kubernetes is None:
        yield lambda: None
        return
    api = ClusterApi(environment.settings.kubernetes, within=RETRY)
    lease = Lease(api, f"{socket.gethostname()}_{uuid.uuid4().hex[:12]}")
    _log.info("standing by", identity=lease.identity)
    while not stop.is_set() and not _attempt(lease):
        on_turn()
        stop.wait(RETRY)
    done = Event()
    threads = [threading.Thread(target=work, args=(lease, done), daemon=True) for work in (_renew, _watch)]
    if not stop.is_set():
        _log.info("leading", identity=lease.identity)
        for thread in threads:
            thread.start()
    try:
        yield lambda: _demand(lease)
    finally:
        done.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join(timeout=RENEW_WITHIN)
        try:
            lease.release()
        except SlipwayError as error:
            _log.warning("the lease was not given back", error=error.message)


def _attempt(lease: Lease) -> bool:
    try:
        return lease.try_to_hold()
    except SlipwayError as error:
        _log.warning("the lease cannot be read or written", error=error.message)
        return False


def _renew(lease: Lease, done: Event) -> None:
    while not done.wait(RETRY):
        _attempt(lease)


def _watch(lease: Lease, done: Event) -> None:
    """Apart from the renewing, which may hang in a request for longer than the Lease lasts."""
    while not done.wait(_GLANCE):
        if not lease.is_held:
            _log.error("the lease was not renewed in time: ending at once", identity=lease.identity)
            os._exit(1)


def _demand(lease: Lease) -> None:
    if not lease.is_held:
        raise Conflict("this controller no longer leads", hint="another one goes on")
