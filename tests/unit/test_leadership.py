"""The controller's Lease: who may take it, and how long its holder may believe in it."""

from __future__ import annotations

from copy import deepcopy

import pytest

from slipway.controller import leadership
from slipway.controller.leadership import LASTS, RENEW_WITHIN, Lease
from slipway.errors import NotReady
from slipway.targets.kubernetes.cluster_api import Object


class LeaseServer:
    """What an API server makes of one object: a new resourceVersion at each write, and a stale one is refused."""

    def __init__(self) -> None:
        self.stored: Object | None = None
        self.is_away = False
        self._version = 0

    def read(self, *_: str) -> Object | None:
        if self.is_away:
            raise NotReady("the cluster does not answer")
        return deepcopy(self.stored)

    def create(self, wanted: Object, plural: str) -> Object | None:
        return None if self.stored else self._store(wanted)

    def replace(self, wanted: Object, plural: str) -> Object | None:
        fresh = self.stored and self.stored["metadata"]["resourceVersion"] == wanted["metadata"]["resourceVersion"]
        return self._store(wanted) if fresh else None

    def _store(self, wanted: Object) -> Object:
        self._version += 1
        self.stored = deepcopy(wanted)
        self.stored["metadata"]["resourceVersion"] = str(self._version)
        return deepcopy(self.stored)


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


class Clock:
    def __init__(self) -> None:
        self.value = 1000.0

    def __call__(self) -> float:
        return self.value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leadership, "now", clock)
    return clock


def lease_of(server: LeaseServer, identity: str) -> Lease:
    return Lease(server, identity)  # type: ignore[arg-type] # stands in for the API server


def test_the_first_to_ask_holds_it(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    assert one.try_to_hold()
    assert not other.try_to_hold()
    assert one.is_held
    assert not other.is_held


def test_a_holder_that_renews_keeps_it(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    one.try_to_hold()
    for _ in range(20):
        assert not other.try_to_hold()
        clock.value += 2
        assert one.try_to_hold()
    assert server.stored is not None
    assert server.stored["spec"]["leaseTransitions"] == 0


def test_a_silent_holder_loses_it_after_its_time_as_seen_by_the_next(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    one.try_to_hold()
    clock.value += LASTS  # the other was not looking: its own count begins now
    assert not other.try_to_hold()
    clock.value += LASTS - 0.1
    assert not other.try_to_hold()
    clock.value += 0.1
    assert other.try_to_hold()
    assert server.stored is not None
    assert server.stored["spec"]["holderIdentity"] == "other"
    assert server.stored["spec"]["leaseTransitions"] == 1


def test_a_holder_stops_believing_before_anybody_may_take_it(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    one.try_to_hold()
    assert not other.try_to_hold()
    while not other.try_to_hold():
        clock.value += 0.5
        assert not (one.is_held and other.is_held)
    assert other.is_held
    assert RENEW_WITHIN < LASTS


def test_a_holder_that_comes_back_too_late_does_not_write_over_the_next(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    one.try_to_hold()
    other.try_to_hold()
    clock.value += LASTS
    assert other.try_to_hold()
    assert not one.try_to_hold()
    assert not one.is_held


def test_of_two_that_find_it_free_one_gets_it(server: LeaseServer, clock: Clock) -> None:
    one, two, three = (lease_of(server, name) for name in ("one", "two", "three"))
    one.try_to_hold()
    two.try_to_hold()
    read = server.read()
    clock.value += LASTS
    assert two.try_to_hold()
    server.read = lambda *_: read  # type: ignore[method-assign,assignment] # three had read it before two wrote
    three._seen = leadership._Seen(read["metadata"]["resourceVersion"], clock.value - LASTS)  # type: ignore[index]
    assert not three.try_to_hold()


def test_a_server_that_is_away_renews_nothing(server: LeaseServer, clock: Clock) -> None:
    one = lease_of(server, "one")
    one.try_to_hold()
    server.is_away = True
    clock.value += RENEW_WITHIN
    with pytest.raises(NotReady):
        one.try_to_hold()
    assert not one.is_held


def test_a_lease_that_was_given_back_is_free_at_once(server: LeaseServer, clock: Clock) -> None:
    one, other = lease_of(server, "one"), lease_of(server, "other")
    one.try_to_hold()
    assert not other.try_to_hold()
    one.release()
    assert not one.is_held
    assert other.try_to_hold()
