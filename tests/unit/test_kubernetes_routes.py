"""A model's traffic as an HTTPRoute and back, and the names that revisions get; no cluster is asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from slipway.errors import InvalidInput
from slipway.targets import Traffic
from slipway.targets.kubernetes import names, routes

MODEL = "flight_delay"


BEGUN = routes.Count(0, datetime(2026, 1, 1, tzinfo=UTC))


def _describe(traffic: Traffic, count: routes.Count = BEGUN) -> dict[str, Any]:
    return routes.describe(MODEL, traffic, domain="example.com", environment="test", count=count)


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(champion=1),
        Traffic(champion=2, previous=1),
        Traffic(champion=2, challenger=3),
        Traffic(champion=2, challenger=3, percent=10, previous=1),
        Traffic(champion=2, challenger=3, percent=100, previous=1),
    ],
)
def test_what_is_written_is_read_back(traffic: Traffic) -> None:
    assert routes.read(_describe(traffic)) == traffic


def test_shares_are_those_of_the_weights_whoever_set_them() -> None:
    live = _describe(Traffic(champion=2, challenger=3, percent=10))
    first, second = live["spec"]["rules"][BEGUN.place]["backendRefs"]
    first["weight"], second["weight"] = 1, 3
    assert routes.read(live) == Traffic(champion=2, challenger=3, percent=75)


def test_counters_stay_while_champion_and_challenger_do() -> None:
    live = _describe(Traffic(champion=2, challenger=3, percent=10))
    assert routes.next_count(live, Traffic(champion=2, challenger=3, percent=50, previous=1)) == BEGUN


def test_counters_begin_anew_at_another_place_with_every_other_pair() -> None:
    live, places = _describe(Traffic(champion=1)), [0]
    for number in range(2, 7):
        count = routes.next_count(live, Traffic(champion=number))
        assert count.since > BEGUN.since
        live = _describe(Traffic(champion=number), count)
        assert live["spec"]["rules"][count.place]["name"] == routes.PREDICT
        places.append(count.place)
    assert places == [0, 1, 2, 3, 0, 1]


def test_a_route_that_is_not_ours_says_nothing() -> None:
    live = _describe(Traffic(champion=1))
    del live["metadata"]["annotations"]
    assert routes.read(live) is None


@pytest.mark.parametrize(("percent", "copied"), [(0, [3]), (10, [3, 2]), (100, [2])])
def test_whoever_does_not_answer_everything_gets_copies(percent: int, copied: list[int]) -> None:
    rule = _describe(Traffic(champion=2, challenger=3, percent=percent))["spec"]["rules"][0]
    receivers = [copy["requestMirror"]["backendRef"]["name"] for copy in rule["filters"]]
    assert receivers == [names.service_name(MODEL, version) for version in copied]


def test_only_the_routes_of_predictions_and_facts_are_let_through() -> None:
    spec = _describe(Traffic(champion=1))["spec"]
    paths = [(match["method"], match["path"]) for rule in spec["rules"] for match in rule["matches"]]
    assert {path["type"] for _, path in paths} == {"Exact"}
    assert "unload" not in json.dumps(spec)


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        (Traffic(champion=1, challenger=2, percent=101), "101 is not between 0 and 100"),
        (Traffic(champion=1, percent=5), "would have no challenger to go to"),
        (Traffic(champion=1, challenger=1), "version 1 is the champion already"),
    ],
)
def test_traffic_that_makes_no_sense_is_refused(traffic: Traffic, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        routes.check(MODEL, traffic)


def test_the_gateway_has_not_answered_while_its_answer_is_older_than_the_route() -> None:
    live = _describe(Traffic(champion=1))
    live["metadata"]["generation"] = 2
    accepted = [{"type": kind, "status": "True", "observedGeneration": 1} for kind in ("Accepted", "ResolvedRefs")]
    live["status"] = {"parents": [{"conditions": accepted}]}
    assert routes.refusals(live) is None
    live["metadata"]["generation"] = 1
    assert routes.refusals(live) == []
    accepted[1] |= {"status": "False", "message": "no such Service"}
    assert routes.refusals(live) == ["ResolvedRefs: no such Service"]


def test_names_of_long_models_fit_and_stay_apart() -> None:
    one, other = "m" * 80 + "_one", "m" * 80 + "_two"
    assert names.revision_name(one, 12) != names.revision_name(other, 12)
    assert len(names.service_name(one, 123456)) <= 63
    assert len(names.route_name(one)) <= 63
    assert names.revision_name(MODEL, 7) == "flight-delay-7"
